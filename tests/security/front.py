"""A gateway before an upstream that the test defines, on real ports; the upstream records all requests."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from support.calls import ADMIN_TOKEN, token
from support.clocks import TurnableClock
from support.http import Reply, send

from gateway import config
from gateway.app.operations import RuntimeOperations
from gateway.app.runtime import Runtime


def key(credential: str) -> str:
    """A key as Redash makes them: 40 letters and digits."""
    return (credential.replace("-", "") + "0Key" * 10)[:40]


@dataclass(frozen=True)
class Seen:
    """A request as it reached the upstream."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def all(self, name: str) -> list[str]:
        return [value for field_name, value in self.fields if field_name.lower() == name.lower()]

    @property
    def key(self) -> str:
        """The key in the request; exactly one."""
        (value,) = self.all("Authorization")
        assert value.startswith("Key ")
        return value[4:]

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


SENT_FIELDS = {
    "host",
    "authorization",
    "accept",
    "accept-encoding",
    "user-agent",
    "via",
    "x-request-id",
    "traceparent",
}
"""What the gateway sends to Redash with a request without a body, and nothing else."""

Responder = Callable[[Seen], "Stub | Awaitable[Stub]"]


@dataclass(frozen=True)
class Stub:
    """One response of the upstream."""

    status: int = 200
    body: bytes = b"{}"
    fields: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    @classmethod
    def json(cls, value: object, status: int = 200) -> Stub:
        return cls(status, json.dumps(value).encode())


class Upstream:
    """A server that responds with whatever `respond` returns, and keeps a log."""

    def __init__(self, respond: Responder) -> None:
        self.respond = respond
        self.log: list[Seen] = []

    async def __aenter__(self) -> Upstream:
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        fields = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in request.raw_headers)
        seen = Seen(request.method, request.raw_path, fields, await request.read())
        self.log.append(seen)
        response = self.respond(seen)
        if not isinstance(response, Stub):
            response = await response
        return web.Response(status=response.status, body=response.body, headers=dict(response.fields))

    def drain(self) -> list[Seen]:
        """The log so far; it starts again."""
        seen, self.log = self.log, []
        return seen


EVERYTHING = 'can = ["read", "execute", "adhoc", "write", "admin"]'
"""For `client`: all capabilities."""


def client(name: str, *lines: str, credentials: str = '"user"') -> str:
    """The table of a client; its token is `token(name)`."""
    hashed = config.token_hash(token(name))
    return "\n".join(
        [f"[clients.{name}]", f'token_sha256 = ["{hashed}"]', f"credentials = [{credentials}]", *lines, ""]
    )


def credential(directory: Path, name: str, query: int | None = None) -> str:
    """The table of a credential, with its key in a file."""
    file = directory / f"{name}.key"
    if not file.exists():
        file.write_text(key(name))
        file.chmod(0o600)
    kind = f'kind = "query"\nquery = {query}' if query else 'kind = "user"'
    return f'[credentials.{name}]\n{kind}\nkey_file = "{file}"\n'


class Front:
    """One gateway with a configuration in a file, as `serve` has it, and callers of it."""

    def __init__(self, directory: Path, url: str, clock: TurnableClock | None = None) -> None:
        self.directory = directory
        self.url_upstream = url
        self.file = directory / "gateway.toml"
        self.clock = clock or TurnableClock()

    def write(self, *tables: str, server: str = "", cache: str = "", upstream: str = "", listen: str = "") -> None:
        listen = listen or "127.0.0.1:0"
        text = f"""
[server]
listen = "{listen}"
drain_timeout = "0s"
{server}
[admin]
listen = "127.0.0.1:0"
token_sha256 = "{config.token_hash(ADMIN_TOKEN)}"
[upstream]
url = "{self.url_upstream}"
{upstream}
[cache]
store = "memory:"
{cache}
[log]
access = false
"""
        self.file.write_text(text + "\n".join(tables))

    async def start(self) -> Front:
        self.runtime = Runtime(
            config.load(self.file, {}),
            operations=lambda runtime: RuntimeOperations(runtime, self.file),
            clock=self.clock,
        )
        await self.runtime.start()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )
        return self

    async def __aenter__(self) -> Front:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await self.runtime.stop()

    @property
    def url(self) -> str:
        return self.runtime.api_addresses[0].url

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        client: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        sent = {"Accept-Encoding": "identity", **(headers or {})}  # tests search for texts in bodies
        if client is not None:
            sent["Authorization"] = f"Key {token(client)}"
        return await send(self.session, method, self.url + path, body, headers=sent)


def strings(value: object) -> Iterator[str]:
    """Every string anywhere in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from strings(member)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def query_object(query_id: int, **more: object) -> dict[str, object]:
    """A query as Redash shows it, with what the gateway reads of it, and a key."""
    return {
        "id": query_id,
        "latest_query_data_id": None,
        "name": f"Query {query_id}",
        "query": f"select {query_id}",
        "query_hash": f"{query_id:032x}",
        "api_key": key(f"querykey{query_id}"),
        "updated_at": "2026-11-23T20:55:26.762Z",
        "data_source_id": 1,
        "options": {"parameters": []},
        "tags": [],
        **more,
    }


def result_object(
    result_id: int, query_id: int, rows: object = (), retrieved_at: str = "2026-11-23T20:55:26.762Z"
) -> dict[str, object]:
    return {
        "query_result": {
            "id": result_id,
            "query_hash": f"{query_id:032x}",
            "query": f"select {query_id}",
            "data": {"columns": [], "rows": list(rows) if isinstance(rows, list | tuple) else rows},
            "data_source_id": 1,
            "runtime": 0.1,
            "retrieved_at": retrieved_at,
        }
    }

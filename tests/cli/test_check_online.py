"""`check --online` names the key that causes what is wrong, and the cause; what is right it describes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.process import certificate
from support.settings import SMALL
from support.world import World

from gateway import config
from gateway.app.online_check import Findings, check_online
from gateway.config import Config, parse
from gateway.sandbox import Sandbox

PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
MOVED = b"HTTP/1.1 301 Moved\r\nLocation: https://redash.example.com/api/session\r\nContent-Length: 0\r\n\r\n"
PLAIN_ON_TLS = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
OTHER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def settings(url: str, more: str = "", key: str = "k" * 40, directory: Path = Path("/")) -> Config:
    text = SMALL.replace("https://redash.example.com", url).replace("[credentials.a]", f"{more}\n[credentials.a]")
    return parse(text, directory, {"KEY": key})


async def mistake(url: str, more: str = "", **options: Any) -> str:
    """The only mistake that is found."""
    found = await check_online(settings(url, more, **options))
    assert len(found.mistakes) == 1, found
    return found.mistakes[0]


@contextlib.asynccontextmanager
async def server(response: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that always sends this, or never anything; its port."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(asyncio.current_task())
        with contextlib.suppress(OSError):  # ssl.SSLError is one
            if response is None:
                await reader.read()
            elif await reader.read(1000):
                writer.write(response)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    open_ones: list[Any] = []
    made = await asyncio.start_server(respond, "127.0.0.1", 0, ssl=tls)
    async with made:
        yield made.sockets[0].getsockname()[1]
    await asyncio.gather(*open_ones)


@pytest.fixture
def tls(tmp_path: Path, needs: Callable[[str], str]) -> ssl.SSLContext:
    needs("openssl")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate(tmp_path, "redash", host="redash.internal"))
    return context


# -- the connection


async def test_a_refused_connection(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    assert await mistake(url) == (
        f"upstream.url: Redash cannot be reached at {url}: 127.0.0.1:{unused_tcp_port} refuses the connection; "
        "is Redash running, and is this its port?"
    )


async def test_a_name_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_network(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", without_network)
    text = await mistake("http://redash.invalid")
    assert text.startswith(
        "upstream.url: Redash cannot be reached at http://redash.invalid: the name redash.invalid is"
    )


async def test_a_certificate_that_is_not_trusted(tls: ssl.SSLContext) -> None:
    async with server(PAGE, tls) as port:
        text = await mistake(f"https://127.0.0.1:{port}")
    assert text.startswith("upstream.ca_file: ")
    assert "the certificate of 127.0.0.1 is not trusted (self-signed certificate); name the PEM file" in text


async def test_a_certificate_of_another_name(tls: ssl.SSLContext, tmp_path: Path) -> None:
    async with server(PAGE, tls) as port:
        text = await mistake(f"https://localhost:{port}", 'ca_file = "redash.pem"', directory=tmp_path)
    assert text.startswith("upstream.url: ")
    assert "the certificate is not for localhost" in text


async def test_https_on_a_port_of_http() -> None:
    async with server(PLAIN_ON_TLS) as port:
        text = await mistake(f"https://127.0.0.1:{port}")
    assert text.startswith("upstream.url: ")
    assert f"127.0.0.1:{port} speaks plain http, not TLS; write http://" in text


async def test_http_on_a_port_of_https(tls: ssl.SSLContext) -> None:
    async with server(PAGE, tls) as port:
        assert await mistake(f"http://127.0.0.1:{port}") == (
            f"upstream.url: http://127.0.0.1:{port} speaks TLS on this port, not plain http; write https://"
        )


async def test_a_server_that_does_not_respond() -> None:
    async with server(None) as port:
        text = await mistake(f"http://127.0.0.1:{port}", 'read_timeout = "200ms"')
    assert text.startswith("upstream.url: ")
    assert "no response in time" in text


# -- another server


async def test_a_page_is_not_redash() -> None:
    async with server(PAGE) as port:
        text = await mistake(f"http://127.0.0.1:{port}/acme")
    assert text.startswith("upstream.url: Redash answered with an HTML page")
    assert "is /acme the slug of an organisation of this Redash?" in text


async def test_a_redirect_says_where_it_leads() -> None:
    async with server(MOVED) as port:
        text = await mistake(f"http://127.0.0.1:{port}")
    assert re.search(r"^upstream\.url: http://\S+ redirects to https://redash\.example\.com; write that address", text)


async def test_any_other_api_is_not_redash() -> None:
    async with server(OTHER) as port:
        text = await mistake(f"http://127.0.0.1:{port}")
    assert re.search(r"^upstream\.url: what answers at http://127\.0\.0\.1:\d+ is not Redash", text)


async def test_a_gateway_is_not_redash(world: World) -> None:
    """Also if it knows the key: it would be a token, and the check of the file refuses tokens as keys."""
    text = await mistake(world.url)
    assert text == f"upstream.url: a Redash Gateway answers at {world.url}, not Redash; write the address of Redash"


async def test_a_slug_that_redash_does_not_know() -> None:
    async with Sandbox(slug="acme") as several:
        key = several.user_keys["analyst"]
        assert "is /emca the slug" in await mistake(f"{several.url}/emca", key=key)
        assert "one of several organisations in upstream.url its slug" in await mistake(several.url, key=key)
        assert "organisation: acme" in (await check_online(settings(f"{several.url}/acme", key=key))).notes


# -- keys


async def found(sandbox: Sandbox, key: str, credential: str = "") -> Findings:
    text = SMALL.replace("https://redash.example.com", sandbox.url).replace(
        'kind = "user"', credential or 'kind = "user"'
    )
    return await check_online(parse(text, Path("/"), {"KEY": key}))


async def test_it_says_whose_each_key_is_and_what_it_sees(sandbox: Sandbox) -> None:
    analyst = "  a  key of Ben Analyst (analyst@shop.example); sees 29 queries, 2 dashboards, data sources: Shop"
    assert analyst in (await found(sandbox, sandbox.user_keys["analyst"])).notes
    notes = (await found(sandbox, sandbox.user_keys["admin"])).notes
    assert "an administrator; sees " in notes[-1]
    assert notes[-1].endswith("data sources: Back office, Shop")
    assert "data sources: Shop (only to view)" in (await found(sandbox, sandbox.user_keys["viewer"])).notes[-1]
    query = sandbox.named["in_country"]
    notes = (await found(sandbox, sandbox.query_key(query), f'kind = "query"\nquery = {query}')).notes
    assert notes[-1] == f'  a  key of query {query} "Orders in a country"'


async def test_a_key_of_the_wrong_kind(sandbox: Sandbox) -> None:
    query = sandbox.named["in_country"]
    (text,) = (await found(sandbox, sandbox.user_keys["analyst"], f'kind = "query"\nquery = {query}')).mistakes
    assert text.startswith('credentials.a.kind: is "query", but this is the key of the user Ben Analyst; write kind')
    (text,) = (await found(sandbox, sandbox.query_key(query))).mistakes
    assert text.startswith("credentials.a: Redash does not accept this key as a user's")
    assert 'A query\'s own key needs kind = "query"' in text


async def test_the_key_of_another_query(sandbox: Sandbox) -> None:
    key, other = sandbox.query_key(sandbox.named["in_country"]), sandbox.named["by_country"]
    (text,) = (await found(sandbox, key, f'kind = "query"\nquery = {other}')).mistakes
    assert text.startswith(f"credentials.a: Redash does not accept this key for query {other}; copy it")


@pytest.mark.parametrize(("skew", "said"), [(0, "differ by at most 2 s"), (90, "ahead of"), (-90, "behind")])
async def test_clocks_are_compared(sandbox: Sandbox, skew: int, said: str) -> None:
    sandbox.faults.clock_skew = skew
    (note,) = (n for n in (await found(sandbox, sandbox.user_keys["analyst"])).notes if n.startswith("clocks: "))
    assert said in note


async def test_it_says_what_it_does(sandbox: Sandbox) -> None:
    said: list[str] = []
    await check_online(settings(sandbox.url, key=sandbox.user_keys["analyst"]), said.append)
    assert set(said) == {"asking Redash about credentials.a"}


def test_a_bound_client_may_use_what_either_binding_allows() -> None:
    """The two lists are a union; "only queries 1; only dashboards 2" reads like an intersection."""
    text = SMALL + "queries = [2, 1]\ndashboards = [3]\n"
    lines = config.summary(parse(text, Path("/"), {"KEY": "k"}))
    assert "only queries 1, 2, and also the queries on dashboards 3;" in "\n".join(lines)

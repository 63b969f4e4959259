"""A running gateway whose configuration changes in one key, before a Redash whose every move a test decides."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from security.front import Front, Seen, Stub, Upstream, key, query_object, result_object, token
from support.calls import ADMIN_TOKEN, AS_OPERATOR
from support.http import Reply
from support.waiting import until

from gateway import config
from gateway.app.runtime import Runtime

Settings = dict[str, Any]

NAMES: Final = {"clients": "one", "credentials": "user"}
"""The tables with names of the operator's: a case changes these."""


def settings(directory: Path, url: str) -> Settings:
    """A small configuration, as TOML would give it."""
    for name in ("user", "second"):
        (directory / f"{name}.key").write_text(key(name))
    return {
        "server": {"listen": "127.0.0.1:0", "drain_timeout": "0s"},
        "admin": {"listen": "127.0.0.1:0", "token_sha256": config.token_hash(ADMIN_TOKEN)},
        "upstream": {"url": url},
        "credentials": {n: {"kind": "user", "key_file": str(directory / f"{n}.key")} for n in ("user", "second")},
        "clients": {"one": {"token_sha256": [config.token_hash(token("one"))], "credentials": ["user"]}},
        "cache": {"store": "memory:", "rules": [{"queries": [99]}]},
        "warm": [],
        "log": {"access": False},
    }


def changed(base: Settings, keys: Mapping[str, object]) -> Settings:
    """Return the settings with other values for these dotted keys; None leaves a key out."""
    copy = json.loads(json.dumps(base))
    for name, value in keys.items():
        table = _table(copy, name.split(".")[:-1])
        table.pop(name.rpartition(".")[2], None)
        if value is not None:
            table[name.rpartition(".")[2]] = value
    return copy


def _table(found: Any, path: Iterable[str]) -> Settings:
    for part in path:
        found = found.setdefault(part, {})
        if isinstance(found, list):
            if not found:
                found.append({})
            found = found[0]
        elif part in NAMES:
            found = found[NAMES[part]]
    return found


def toml(value: object) -> str:
    """Write a value; tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def document(tables: Settings) -> str:
    return "\n".join(f"{name} = {toml(table)}" for name, table in tables.items())


_MANY: Final = 10**6


class Redash:
    """Answers every request; runs end at once, unless `running` is cleared; nothing comes while `open` is cleared."""

    def __init__(self, wall: Any) -> None:
        self._wall = wall
        self.open, self.ended = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.ended.set()
        self.down = False
        self.failing = False
        self._ids = itertools.count(1)
        self._retrieved: dict[int, str] = {}  # by result

    async def __call__(self, seen: Seen) -> Stub:
        await self.open.wait()
        if self.down:
            return Stub(503)
        found = re.match(r"/api/(?:queries|dashboards)/(\d+)", seen.path)
        number = int(found[1]) if found else 5
        if seen.method == "POST":
            return Stub.json({"job": {"id": f"{self._id(number):036}", "status": 1, "error": ""}})
        if seen.path.startswith("/api/jobs/"):
            return Stub.json({"job": self._job(seen.path.rpartition("/")[2])})
        if seen.path.endswith(".csv"):
            return Stub(200, b"a\n1\n", {"Content-Type": "text/csv"})
        if "results" in seen.path:
            now = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds")
            result = int((re.findall(r"results/(\d+)", seen.path) or [self._id(number)])[0])
            retrieved = self._retrieved.setdefault(result, now)
            return Stub.json(result_object(result, result // _MANY or 5, [], retrieved.replace("+00:00", "Z")))
        if seen.path == f"/api/queries/{number}":
            return Stub.json(_query(number))
        if seen.path == f"/api/dashboards/{number}":
            shown = {"visualization": {"query": {"id": number + 4}}}
            return Stub.json({"id": number, "slug": "d", "name": "d", "widgets": [shown]})
        return Stub.json({"who": seen.key[:8]})

    def _job(self, job_id: str) -> dict[str, object]:
        status = 2 if not self.ended.is_set() else 4 if self.failing else 3
        result = int(job_id) if status == 3 else None
        return {"id": job_id, "status": status, "error": "boom" if status == 4 else "", "query_result_id": result}

    def _id(self, query: int) -> int:
        """An id of a job and its result, which says the query."""
        return query * _MANY + next(self._ids)


def _query(number: int) -> dict[str, object]:
    kinds = {7: "text", 8: "date"}
    parameters = [{"name": "p", "title": "p", "type": kinds[number], "value": "x"}] if number in kinds else []
    return query_object(number, tags=["x"], options={"parameters": parameters}, schedule={"interval": 3600})


class Lab:
    """The gateway, its Redash, a second Redash, and one caller."""

    def __init__(self, front: Front, redash: Redash, upstream: Upstream, second: Upstream) -> None:
        self.front = front
        self.redash = redash
        self.upstream = upstream
        self.second = second
        self.stopped = False
        self._fresh = itertools.count(20)

    @property
    def runtime(self) -> Runtime:
        return self.front.runtime

    def write(self, keys: Mapping[str, object]) -> None:
        """Write the small configuration with these keys; `{directory}`, `{first}`, `{second}` are filled in."""
        text = document(changed(settings(self.front.directory, self.upstream.url), keys))
        places = {"directory": str(self.front.directory), "first": self.upstream.url, "second": self.second.url}
        for name, place in places.items():
            text = text.replace(f"{{{name}}}", place)
        self.front.file.write_text(text)

    def fresh(self) -> int:
        """An id that nothing has asked for yet."""
        return next(self._fresh)

    async def call(self, method: str, path: str, body: object = None, **more: Any) -> Reply:
        return await self.front.call(method, path, body, **{"client": "one", **more})

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.call("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, query: int, **body: object) -> Reply:
        return await self.call("POST", f"/api/queries/{query}/results", body)

    async def run(self, query: int = 5) -> None:
        """Have a result that is fresh."""
        assert (await self.get(f"/api/queries/{query}/results.json?max_age=0")).status == 200

    def turn(self, seconds: float) -> None:
        self.front.clock.turn(seconds)

    def asked(self, method: str, pattern: str) -> list[Seen]:
        """What has reached Redash."""
        return [seen for seen in self.upstream.log if seen.method == method and re.fullmatch(pattern, seen.path)]

    def warmed(self, part: str) -> Any:
        """`path`, `key` or `body` of the last run that nobody asked for."""
        mine = [s for s in self.upstream.log if "gateway-warm" in s.all("User-Agent")[0] and s.method == "POST"]
        return getattr(mine[-1], part) if mine else None

    async def while_held(self, calls: Iterable[Coroutine[Any, Any, Reply]], method: str, pattern: str) -> int:
        """Start calls together; return how many requests reach Redash while it answers none of them."""
        self.upstream.drain()
        tasks = [asyncio.create_task(call) for call in calls]
        before, count = 0, 0
        while count == 0 or count > before:  # nothing says that no more will come
            await asyncio.sleep(0.2)
            before, count = count, len(self.asked(method, pattern))
        self.redash.open.set()
        self.redash.ended.set()
        await asyncio.gather(*tasks)
        return count

    async def held(self) -> asyncio.Task[Reply]:
        """Start a request that has reached Redash, and waits for its answer until `redash.open` is set."""
        self.redash.open.clear()
        self.upstream.drain()
        call = asyncio.create_task(self.get(f"/api/dashboards/{self.fresh()}"))
        await until(lambda: bool(self.upstream.log))
        return call

    async def status_soon(self, call: Awaitable[Reply]) -> int | str:
        """The status of an answer that comes within a second, else "waits"."""
        try:
            return (await asyncio.wait_for(call, 1.0)).status
        except TimeoutError:
            return "waits"

    async def idle(self) -> None:
        await until(lambda: not self.runtime.executions.flights.running)

    async def reload(self) -> list[str]:
        notes = (await self.runtime.operations.reload()).notes
        return [note for note in notes if "the new key has not been used yet" not in note]  # true of each new key here

    async def admin(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        url = self.runtime.admin_address.url + path
        async with self.front.session.request(method, url, json=body, headers=AS_OPERATOR) as response:
            return response.status, await response.text()


@asynccontextmanager
async def lab(directory: Path, given: Mapping[str, object]) -> AsyncIterator[Lab]:
    """Start a gateway with the small configuration and these keys."""
    front = Front(directory, "")
    redash = Redash(front.clock.wall)
    async with Upstream(redash) as upstream, Upstream(Redash(front.clock.wall)) as second:
        front.url_upstream = upstream.url
        made = Lab(front, redash, upstream, second)
        made.write(given)
        await front.start()
        try:
            yield made
        finally:
            await front.session.close()
            redash.open.set()
            if not made.stopped:
                await front.runtime.stop()

"""What callers send, and whether what they get is right: in time, whole, for their values, and no older than allowed.

The age counts from the end of the run in Redash, and from the moment before the request is sent.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any, Final

import aiohttp
import msgspec
from support.http import Reply
from support.made import RUN, Made, older_than_allowed
from support.world import World

VALUES: Final = ("A", "B", "C")
AGES: Final = (0, 0, 1, 2, 5, 60, 600, None)
KINDS: Final = ("post", "post", "wait", "wait", "file", "json", "text", "list", "object", "old")
STALE_SECONDS: Final = 3600.0
LATEST_SECONDS: Final = 10.0
"""Much more than `max_wait`: the machine may be busy with other tests."""

_TRIES: Final = 3
_OUTAGE: Final = (502, 503, 504)
_LARGE_ROWS: Final = 5_000


class Sent(msgspec.Struct, frozen=True):
    """One request: which query with which value, how old its rows may be, and when it was sent (Redash's clock)."""

    kind: str
    query: str
    value: str
    max_age: int | None
    at: float


class Callers:
    """Callers of one gateway, and what they found."""

    def __init__(self, world: World, chance: Random) -> None:
        self.world = world
        self.findings: list[str] = []
        self.figures: Counter[str] = Counter()
        self._chance = chance
        self._seen: list[int] = []
        self._made = Made(world.sandbox)
        self._enum = {"name": "x", "type": "enum", "value": "A", "enumOptions": "\n".join(VALUES)}
        self._queries = {
            "stamp": self._add(f"select '{{{{ x }}}}' as x, {RUN}"),
            "large": self._add(
                "with recursive part(n) as (select 1 union all select n + 1 from part where n < "
                f"{_LARGE_ROWS}) select n, '{{{{ x }}}}' as x, {RUN}, '{'-' * 60}' as line from part"
            ),
        }

    def _add(self, sql: str) -> int:
        return self.world.sandbox.add_query("chaos", sql, parameters=[self._enum])

    async def call(self, *, calm: bool = False) -> None:
        """Send one request of any kind and judge what comes back; without faults (`calm`) it must be a result."""
        chance = self._chance
        query = "large" if chance.random() < 0.1 else "stamp"
        sent = Sent(chance.choice(KINDS), query, chance.choice(VALUES), chance.choice(AGES), self.world.clock.wall())
        leaves = None if calm or chance.random() > 0.15 else chance.uniform(0, 0.3)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(leaves):
                for tries_left in reversed(range(_TRIES)):  # a busy machine is slow, too
                    if await self._send(sent, calm=calm and not tries_left) or not calm:
                        break
        except TimeoutError:
            self.figures["left"] += 1
        except aiohttp.ClientPayloadError:  # a large result that breaks off: the closed connection says so
            self.figures["broken off"] += 1
            if calm:
                self._find(sent, "broken off")
        except Exception as error:
            self._find(sent, f"{type(error).__name__}: {error}")
        if asyncio.get_running_loop().time() - began > LATEST_SECONDS:
            self._find(sent, f"took {asyncio.get_running_loop().time() - began:.1f} s")

    def _find(self, sent: Sent, what: str) -> None:
        self.findings.append(f"{sent}: {what}")

    async def _send(self, sent: Sent, *, calm: bool) -> bool:
        """Send it once; returns whether Redash did what it should."""
        reply = await self._reply(sent)
        self.figures[str(reply.status)] += 1
        if reply.status in _OUTAGE:
            if calm or "hit" in reply.cache or reply.headers["Content-Type"] != "application/problem+json":
                self._find(sent, f"{reply.status} {reply.cache} {reply.body[:200]!r}")
            return False
        if reply.status == 422 and b"no longer knows this job" in reply.body and not calm:
            return False  # a broken response named a job that does not exist
        if reply.status != 200:
            self._find(sent, f"{reply.status} {reply.body[:200]!r}")
        elif sent.kind in ("list", "object", "old"):
            json.loads(reply.body)
        elif reply.body.startswith(b'{"job":'):
            await self._follow(sent, reply.job, calm=calm)
        else:
            self._judge(sent, reply, stale="stale-if-error" in reply.cache)
        return True

    async def _reply(self, sent: Sent) -> Reply:
        world, query_id = self.world, self._queries[sent.query]
        body: dict[str, Any] = {"parameters": {"x": sent.value}}
        body |= {} if sent.max_age is None else {"max_age": sent.max_age}
        if sent.kind in ("post", "wait"):
            return await world.post(query_id, wait=1 if sent.kind == "wait" else None, **body)
        if sent.kind == "text":
            sql = world.sandbox.sql_of(query_id, {"x": sent.value})
            text = {"query": sql, "data_source_id": 1, **body}
            return await world.call("POST", "/api/query_results", text, client="sql")
        age = "" if sent.max_age is None else f"&max_age={sent.max_age}"
        form = "csv" if sent.kind == "file" else "json"
        path = f"/api/queries/{query_id}/results.{form}?p_x={sent.value}{age}"
        if sent.kind == "list":
            path = "/api/queries"
        elif sent.kind == "object" or (sent.kind == "old" and not self._seen):
            path = f"/api/queries/{query_id}"
        elif sent.kind == "old":
            path = f"/api/query_results/{self._chance.choice(self._seen)}"
        reply = await world.get(path)
        while reply.status == 307:
            reply = await world.get(path.rpartition("/")[0] + "/" + reply.headers["Location"])
        return reply

    async def _follow(self, sent: Sent, job: dict[str, Any], *, calm: bool) -> None:
        """Poll a job to its end, as long as that takes: a run may outlive the faults, and its id never goes."""
        client = "sql" if sent.kind == "text" else "dashboard"
        while job["status"] in (1, 2):
            reply = await self.world.get(f"/api/jobs/{job['id']}", client=client, prefer="wait=1")
            if reply.status != 200:
                self._find(sent, f"job {reply.status} {reply.body[:200]!r}")
                return
            job = reply.job
        self.figures[f"job {job['status']}"] += 1
        if job["status"] == 4:
            if calm:
                self._find(sent, f"failed: {job['error']}")
            return
        reply = await self.world.get(f"/api/query_results/{job['query_result_id']}", client=client)
        if reply.status == 200:
            self._judge(sent, reply, stale=not calm)  # a job may end with the stored result if Redash does not answer
        elif calm or reply.status not in _OUTAGE:
            self._find(sent, f"result {reply.status} {reply.body[:200]!r}")

    def _judge(self, sent: Sent, reply: Reply, *, stale: bool) -> None:
        made = self._made.shown_by(reply.body, "csv" if sent.kind == "file" else "full")
        if made is None or f"'{sent.value}' as x" not in made.sql:
            self._find(sent, f"no result of Redash, or not whole: {reply.cache} {reply.body[:200]!r}")
            return
        self._seen.append(made.id)
        self.figures["stale" if "stale-if-error" in reply.cache else "fresh"] += 1
        if wrong := older_than_allowed(made, sent.at, sent.max_age, STALE_SECONDS if stale else 0.0):
            self._find(sent, f"{wrong}: {reply.cache}")

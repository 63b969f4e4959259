"""One caller: sends requests, follows jobs, and judges every response."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
from support.http import Reply
from support.kept import KeptCaller
from support.made import older_than_allowed

from bench.soak.queries import is_of, version_of
from bench.soak.settings import TOKENS
from bench.soak.stage import Stage

OUTAGE = (502, 503, 504)
STALE_SECONDS = 3600.0
JOB_SECONDS = 150.0
"""A run of which Redash does not respond is given up after a minute; the machine may be busy."""

_POLL_SECONDS = 0.1
_TRIES = 10
_AGAIN_SECONDS = 1.0
_WAIT = 2
_UNHEALTHY = b'{"message": "Internal Server Error"}'
"""Redash's own, from the end of an outage: when the gateway asks whether there is one, it is over."""

_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Sent:
    """A request for rows: whose, for what, how old they may be, and when it was sent, by both clocks."""

    kind: str
    client: str
    query: str
    value: object
    max_age: int | None
    at: float
    began: float
    form: str = "full"

    @property
    def body(self) -> dict[str, Any]:
        """The body of the POST."""
        return {"parameters": {"x": self.value}} | ({} if self.max_age is None else {"max_age": self.max_age})


class Caller:
    """Sends one request at a time, over a kept connection for each client whose token it uses."""

    def __init__(self, stage: Stage, chance: Random) -> None:
        self.stage, self.journal, self.chance = stage, stage.journal, chance
        self.ids = stage.queries.ids
        self.seen: list[tuple[int, float]] = []
        """Ids of results that were seen, with the ends of their runs."""
        self.jobs: list[tuple[Sent, str]] = []
        self.tags: dict[str, tuple[str, Reply]] = {}
        """The last response to a GET with an ETag, by path."""
        self._connections: dict[str, KeptCaller] = {}

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            self.journal.figures["repeated on a kept connection"] += connection.repeated
            connection.close()
        self._connections.clear()

    def sent(self, kind: str, client: str, query: str, max_age: int | None, **more: Any) -> Sent:
        """Note the moment of a request that is about to be sent."""
        value = more.pop("value", None) or self.chance.choice("ABC")
        return Sent(kind, client, query, value, max_age, time.time(), time.monotonic(), **more)

    # -- requests

    async def send(self, kind: str, client: str, method: str, path: str, body: object = None, **more: Any) -> Reply:
        """Send a request. A GET that meets a kill is sent again, as a person would. Raises OSError or EOFError."""
        connection = self._connections.setdefault(client, KeptCaller(self.stage.url, TOKENS[client]))
        began = time.monotonic()
        for tries_left in reversed(range(_TRIES)):
            last = time.monotonic()
            try:
                reply = await self._exchange(connection, method, path, body, **more)
                break
            except TimeoutError:
                connection.close()
                raise
            except (OSError, EOFError):
                connection.close()
                if not (tries_left and method == "GET" and self.stage.was_killed_since(began)):
                    raise
                self.journal.figures["sent again after a kill"] += 1
        if not more.get("rests_seconds"):
            self.journal.took(kind, time.monotonic() - last)
        self.journal.figures[f"status {reply.status}"] += 1
        return reply

    async def _exchange(
        self,
        connection: KeptCaller,
        method: str,
        path: str,
        body: object,
        *,
        wait: int | None = None,
        fields: Mapping[str, str] = _NONE,
        rests_seconds: float = 0.0,
    ) -> Reply:
        packed = self.chance.random() < 0.3
        connection.rests_seconds = rests_seconds
        more = {"Accept-Encoding": "gzip", **fields} if packed else fields
        reply = await connection.call(method, path, body, wait=wait, fields=more)
        if reply.headers.get("Content-Encoding") == "gzip" and reply.body:
            return msgspec.structs.replace(reply, body=await asyncio.to_thread(gzip.decompress, reply.body))
        return reply

    async def execute(self, sent: Sent, **more: Any) -> Reply:
        """POST the results of a query."""
        path = f"/api/queries/{self.ids[sent.query]}/results"
        return await self.send(sent.kind, sent.client, "POST", path, sent.body, **more)

    # -- responses

    def is_outage(self, sent: Sent, reply: Reply) -> bool:
        """Whether it says that Redash cannot be had just now; then it must be a problem, and no result."""
        if reply.status == 500 and reply.body == _UNHEALTHY and self.stage.weather_ended_since(sent.began):
            self.journal.figures["500 as an outage ended"] += 1
            return True
        if reply.status not in OUTAGE:
            return False
        self.journal.figures["refused or unavailable"] += 1
        if "hit" in reply.cache or reply.headers.get("Content-Type") != "application/problem+json":
            self.find("every other response is a problem", sent, reply)
        return True

    def find(self, promise: str, sent: Sent, what: Reply | str) -> None:
        """Note a finding."""
        shown = what if isinstance(what, str) else f"{what.status} {what.cache} {what.body[:300]!r}"
        self.journal.find(promise, f"{sent}: {shown}")

    async def follow(self, sent: Sent, reply: Reply, *, waits: bool = False) -> bool:
        """Poll a job to its end and judge its result; returns whether there was one."""
        job = reply.job
        self.jobs.append((sent, job["id"]))
        job = await self.end_of(sent, job, waits=waits)
        if job["status"] == 4:
            self.journal.figures["jobs failed"] += 1
            if not self.stage.had_weather_since(sent.began):
                self.find("every job id is good", sent, f"job failed: {job.get('error')}")
            return False
        if job["status"] != 3:
            return False
        self.journal.figures["jobs finished"] += 1
        reply = await self.send(sent.kind, sent.client, "GET", f"/api/query_results/{job['query_result_id']}")
        if self.is_outage(sent, reply) or self._is_dropped(sent, reply):
            return False
        self.judge(sent, reply, stale=self.stage.had_weather_since(sent.began))
        return True

    def _is_dropped(self, sent: Sent, reply: Reply) -> bool:
        """Whether a purge or an edit has dropped a result that a query key cannot get from Redash again."""
        gone = reply.status == 404 and sent.client == "keyed" and self.stage.dropped >= sent.began
        self.journal.figures["dropped"] += gone
        return gone

    async def end_of(self, sent: Sent, job: dict[str, Any], *, waits: bool) -> dict[str, Any]:
        """Poll a job until it has ended, and return it."""
        end = time.monotonic() + JOB_SECONDS
        while job["status"] in (1, 2):
            if time.monotonic() > end:
                self.find("every job ends", sent, str(job))
                break
            if not waits:
                await asyncio.sleep(_POLL_SECONDS)
            path = f"/api/jobs/{job['id']}"
            reply = await self.send("poll", sent.client, "GET", path, wait=_WAIT if waits else None)
            if reply.status != 200:
                self.find("every job id is good", sent, reply)
                break
            job = reply.job
        return job

    def judge(self, sent: Sent, reply: Reply, *, stale: bool = False) -> None:
        """Check a result: bytes, query and value, version, age. A job may end with a stale one without saying so."""
        if reply.status != 200:
            self.find("every other response is a problem", sent, reply)
            return
        made = self.stage.queries.made.shown_by(reply.body, sent.form)
        if made is None:
            self.find("byte for byte a result of Redash", sent, reply)
            return
        self.journal.figures["results judged"] += 1
        self.journal.figures["bytes judged"] += len(reply.body)
        self.journal.figures["hits"] += "; hit" in reply.cache
        self.journal.figures["stale"] += "stale-if-error" in reply.cache
        self.seen = [*self.seen[-50:], (made.id, made.ended)]
        if not is_of(made, sent.query, sent.value):
            self.find("rows of the query and value asked for", sent, f"{made.sql[:200]} {reply.cache}")
        if sent.query == "stamp" and version_of(made) < (least := self.stage.edits.least(sent.at)):
            what = f"version {version_of(made)}, not {least}: {reply.cache} {reply.headers.get('Age')}"
            self.find("no rows of a query as it was before an edit", sent, what)
        stale = stale or "stale-if-error" in reply.cache
        if wrong := older_than_allowed(made, sent.at, sent.max_age, STALE_SECONDS if stale else 0.0):
            self.find("no rows older than asked for", sent, f"{wrong}: {reply.cache}")

"""Callers of several gateways: any request to any gateway, and what an operator and an editor do meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

import aiohttp
from support.calls import TOKENS
from support.cluster import Cluster
from support.http import Reply, send

from .history import Asked, Change, History
from .recording import QUERIES, VALUES, Recorder, sql

KINDS: Final = Counter(post=8, wait=4, form=2, poll=4, result=2, cancel=1)
AGES: Final = (0, 0, 0, 1, 2, 10, 600, None)
CLIENTS: Final = ("dashboard", "dashboard", "second", "writer")
"""`dashboard` and `second` use the same key, `writer` another one."""

REVOKED: Final = "second"
"""The client that is taken away at times."""

WAIT_SECONDS: Final = 5
_PATIENCE: Final = 10.0
"""As long as a lease lasts, and what a busy machine adds: nobody knows before that its leader is dead."""

_FORM_SECONDS: Final = 10.0
"""`max_wait` of the gateways, for a GET with parameters."""

_GIVES_UP: Final = 60.0
_RUN: Final = re.compile(r"[?&]run=([0-9a-f-]+)")
_MOST_JOBS: Final = 40
"""Jobs among which a poll is drawn."""


class Callers:
    """Sends requests and notes what comes back."""

    def __init__(
        self, cluster: Cluster, recorder: Recorder, history: History, queries: dict[str, int], now: Callable[[], float]
    ) -> None:
        self.cluster = cluster
        self.history = history
        self.jobs: dict[str, Asked] = {}
        """By id: the request that was given it."""
        self._now = now
        self._queries = queries
        self._sandbox = recorder.sandbox
        self._open: list[str] = []
        self._seen: list[Asked] = []

    # -- callers

    async def one(self, chance: Random) -> None:
        """One request of any kind, by anybody, to any gateway."""
        kind = chance.choices([*KINDS], [*KINDS.values()])[0]
        gateway = chance.randrange(len(self.cluster.gateways))
        if kind in ("poll", "cancel") and self._open:
            await self.poll(chance.choice(self._open[-_MOST_JOBS:]), gateway, kind)
        elif kind == "result" and self._seen:
            await self._result(chance.choice(self._seen[-_MOST_JOBS:]), gateway)
        else:
            await self._request(kind if kind in ("wait", "form") else "post", gateway, chance)

    async def _request(self, kind: str, gateway: int, chance: Random) -> None:
        query, value, max_age = chance.choice([*QUERIES]), chance.choice(VALUES), chance.choice(AGES)
        about: dict[str, Any] = {"client": chance.choice(CLIENTS), "query": query, "value": value, "max_age": max_age}
        if kind == "form":
            await self._form(gateway, about, chance)
            return
        body: dict[str, Any] = {"parameters": {"x": value}} | ({} if max_age is None else {"max_age": max_age})
        path = f"/api/queries/{self._queries[query]}/results"
        wait = WAIT_SECONDS if kind == "wait" else 0
        await self.send(kind, gateway, "POST", path, body, wait=wait, **about)

    async def _form(self, gateway: int, about: dict[str, Any], chance: Random) -> None:
        """A GET with parameters; its redirects go to any gateway."""
        age = "" if about["max_age"] is None else f"&max_age={about['max_age']}"
        path = f"/api/queries/{self._queries[about['query']]}/results.json?p_x={about['value']}{age}"
        asked, reply = await self.send("form", gateway, "GET", path, held=_FORM_SECONDS, **about)
        while reply is not None and reply.status == 307:
            location = path.rpartition("/")[0] + "/" + reply.headers["Location"]
            gateway = chance.randrange(len(self.cluster.gateways))
            about |= {"job": _RUN.findall(location)[0], "since": asked.asked}
            _, reply = await self.send("hop", gateway, "GET", location, held=_FORM_SECONDS, **about)

    async def poll(self, job: str, gateway: int, kind: str = "poll") -> Reply | None:
        """Ask for a job, or cancel it."""
        made = self.jobs[job]
        method = "GET" if kind == "poll" else "DELETE"
        _, reply = await self.send(kind, gateway, method, f"/api/jobs/{job}", job=job, **_about(made))
        if kind == "cancel" or (reply is not None and reply.status == 200 and reply.job["status"] in (3, 4)):
            self._open = [other for other in self._open if other != job]
        return reply

    async def _result(self, seen: Asked, gateway: int) -> None:
        await self.send("result", gateway, "GET", f"/api/query_results/{seen.result}", **_about(seen))

    async def send(
        self,
        kind: str,
        gateway: int,
        method: str,
        path: str,
        body: object = None,
        *,
        wait: int = 0,
        held: float = 0.0,
        since: float | None = None,
        **about: Any,
    ) -> tuple[Asked, Reply | None]:
        """Send one request and note what came of it. `held`: how long the gateway may hold it besides."""
        to = self.cluster.gateways[gateway]
        headers = {"Authorization": f"Key {TOKENS[about['client']]}"} | ({"Prefer": f"wait={wait}"} if wait else {})
        asked, reply, text = self._now(), None, ""
        try:
            async with asyncio.timeout(_GIVES_UP):
                reply = await send(to.session, method, to.url + path, body, headers=headers)
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            text = repr(error)
        about |= {} if reply is None else self._shown(reply, about)
        made = Asked(
            kind=kind,
            gateway=gateway,
            asked=asked,
            answered=self._now(),
            since=asked if since is None else since,
            patience=_PATIENCE + wait + held,
            **{"status": 0, "text": text, **about},
        )
        self._note(made)
        return made, reply

    def _shown(self, reply: Reply, about: dict[str, Any]) -> dict[str, Any]:
        """What a response says."""
        shown: dict[str, Any] = {"status": reply.status, "hit": "; hit" in reply.cache}
        if reply.status == 307:
            return shown | {"job": _RUN.findall(reply.headers["Location"])[0]}
        if reply.status != 200:
            return shown | {"text": reply.body[:200].decode(errors="replace")}
        if reply.body.startswith(b'{"job"'):
            job = reply.job
            text = str(job.get("error", ""))[:200]
            result = job["query_result_id"] if job["status"] == 3 else None
            return shown | {"job": job["id"], "job_status": job["status"], "result": result, "text": text}
        if not reply.body.startswith(b'{"query_result"'):
            return shown
        number = reply.json["query_result"]["id"]
        result = self._sandbox.database.results.get(number)
        return shown | {"result": number, "exact": result is not None and json.loads(result.full()) == reply.json}

    def _note(self, made: Asked) -> None:
        self.history.asked.append(made)
        if made.job and made.job not in self.jobs and made.kind in ("post", "wait", "form"):
            self.jobs[made.job] = made
            self._open.append(made.job)
        if made.result is not None:
            self._seen.append(made)

    # -- editors and operators

    async def edit(self, chance: Random) -> None:
        """A new version of a query: through a gateway, or in Redash itself."""
        query = chance.choice([*QUERIES])
        version = max([e.version for e in self.history.edits if e.query == query], default=0) + 1
        gateway, number = chance.choice([*range(len(self.cluster.gateways)), None]), self._queries[query]
        asked, text = self._now(), sql(query, version)
        if gateway is None:
            self._sandbox.edit_query(number, query=text)
        else:
            await self.send("edit", gateway, "POST", f"/api/queries/{number}", {"query": text}, client="writer")
        if self._sandbox.queries[number].query == text:  # it may have been lost with its gateway
            self.history.edits.append(Change(gateway, asked, self._now(), query, version))

    async def purge(self, chance: Random) -> None:
        """Everything, or what is stored of one query, through any gateway."""
        query = chance.choice(["", *QUERIES])
        what: dict[str, object] = {"query": self._queries[query]} if query else {"all": True}
        gateway, asked = chance.randrange(len(self.cluster.gateways)), self._now()
        if await self._told(gateway, "purge", **what):
            self.history.purges.append(Change(gateway, asked, self._now(), query))

    async def revoke(self, chance: Random, seconds: float) -> None:
        """Take a client out of all configurations, reload through one gateway, and put it back later through all."""
        everywhere = range(len(self.cluster.gateways))
        place, gateway, asked = len(self.history.revocations), chance.choice(everywhere), self._now()
        self.history.revocations.append(Change(None, asked, asked, client=REVOKED))
        self._configure((REVOKED,))
        reloaded = await self._told(gateway, "reload")
        revoked = Change(gateway if reloaded else None, asked, self._now(), client=REVOKED)
        self.history.revocations[place] = revoked
        await asyncio.sleep(seconds)
        revoked = replace(revoked, ended=self._now())
        self.history.revocations[place] = revoked
        self._configure(())
        await asyncio.gather(*map(self._reloaded, everywhere))
        self.history.revocations[place] = replace(revoked, restored=self._now())

    def _configure(self, without: tuple[str, ...]) -> None:
        for each in self.cluster.gateways:
            each.without = without
            each.configure()

    async def _reloaded(self, gateway: int) -> None:
        """Reload, as soon as the gateway is there: one that starts just now may have read the old file."""
        until = self._now() + _GIVES_UP
        while not await self._told(gateway, "reload") and self._now() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    async def _told(self, gateway: int, action: str, **what: object) -> bool:
        """Whether an operator's request had a response; what failed with its gateway is not judged."""
        try:
            async with asyncio.timeout(_GIVES_UP):
                return (await self.cluster.gateways[gateway].tell(action, **what)).status == 200
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return False


def _about(made: Asked) -> dict[str, Any]:
    names = ("client", "query", "value", "max_age", "since")
    return {name: getattr(made, name) for name in names}

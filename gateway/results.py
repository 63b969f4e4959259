"""Results: keeping what Redash answered, and reading it by id or as a query's latest."""

from __future__ import annotations

import asyncio
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from gateway import config
from gateway.access import Credential
from gateway.calls import Call, Redash, UpstreamAnswer, refusal
from gateway.errors import NotFound, UpstreamUnusable
from gateway.flight import Flights
from gateway.model import (
    FIRST_GATEWAY_RESULT_ID,
    Body,
    Clock,
    Definition,
    Entry,
    Form,
    Key,
    digest,
)
from gateway.outcome import Sender
from gateway.policy import age_on_arrival, result_key
from gateway.redash.answers import PARSE_LIMIT, ResultHead, read_answer, read_time
from gateway.redash.renderings import render_csv, render_tsv
from gateway.redash.requests import ResultForm
from gateway.store import FrontStore, Ledger

NESTED_ROUTE: Final = "/api/queries/{query_id}/results/{result_id}.{form}"
FLAT_ROUTE: Final = "/api/query_results/{result_id}.{form}"
LATEST_ROUTE: Final = "/api/queries/{query_id}/results.{form}"

Found = tuple[Entry, Body]


class Results:
    """What the store holds of results, and how it gets there."""

    def __init__(self, upstream: Redash, store: FrontStore, ledger: Ledger, clock: Clock) -> None:
        self._upstream = upstream
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._flights: Flights[Found] = Flights()
        self._purged_at: dict[int | None, float] = {}

    async def find(self, key: Key) -> Found | None:
        """Return what the store has under `key`, with its bytes."""
        if (entry := self._store.peek(key)) is not None and (body := self._store.peek_body(entry)) is not None:
            return entry, body  # from memory, without a step through the event loop
        entry = await self._store.look(key)
        body = await self._store.read(entry) if entry is not None else None
        return (entry, body) if entry is not None and body is not None else None

    async def keep(
        self,
        credential: Credential,
        query_id: int,
        head: ResultHead,
        answer: UpstreamAnswer,
        *,
        key: Key | None = None,
        marker: str = "",
        begun: float,
        confirmed: float = -math.inf,
    ) -> Found:
        """Keep a result that has been checked: under its id, and under `key` where it answers one.

        `begun` (monotonic) is when the question left: a purge since then keeps the answer from being stored.
        """
        form: Form = "reduced" if head.reduced else "full"
        result_id = head.id or _reduced_id(credential.scope, key or b"", head.retrieved_at)
        retrieved = read_time(head.retrieved_at)
        age = age_on_arrival(retrieved, answer.received, answer.date)
        entry = Entry(
            body_id=digest(b"body", credential.scope.encode(), str(result_id).encode(), form.encode()),
            scope=credential.scope,
            query_id=query_id,
            result_id=result_id,
            form=form,
            marker=marker,
            query_hash=head.query_hash,
            retrieved_at=head.retrieved_at,
            runtime=head.runtime,
            born=self._clock.monotonic() - max(0.0, self._clock.wall() - answer.received) - age,
            confirmed=confirmed,
            size=answer.body.size,
        )
        await self._ledger.note_result(credential.scope, result_id, query_id)
        keys = [result_key(credential.scope, result_id, "json"), *([key] if key is not None else [])]
        return await self._put(keys, entry, answer.body, begun)

    async def _put(self, keys: list[Key], entry: Entry, body: Body, begun: float) -> Found:
        """Keep it, unless a purge came since `begun`: then only for those who wait, under a key that nobody knows."""
        if self._purged_since(begun, entry.query_id):
            keys = [digest(b"unlisted", uuid.uuid4().bytes)]
        if (again := await self._confirmed(keys, entry)) is not None:
            if body.path is not None:
                await asyncio.to_thread(body.path.unlink, missing_ok=True)
            return again
        await self._store.keep(keys, entry, body)
        kept = await self._store.read(entry) if body.path is not None else body  # a file is renamed when it is kept
        return entry, kept or body

    async def _confirmed(self, keys: list[Key], entry: Entry) -> Found | None:
        """Where the very same result is stored already, note only that it is still the newest (it never changes).

        Whoever asked Redash has looked before, so that what is stored is in memory now.
        """
        known = self._store.peek(keys[-1])
        if known is None or (known.body_id, known.marker) != (entry.body_id, entry.marker):
            return None
        held = await self._store.read(known)
        if held is None or entry.confirmed == -math.inf:
            return None
        for key in keys:
            await self._store.confirm(key, entry.confirmed)
        return msgspec.structs.replace(known, confirmed=entry.confirmed), held

    async def by_id(
        self,
        credential: Credential,
        result_id: int,
        form: ResultForm,
        nested: Definition | None,
        sender: Sender,
    ) -> tuple[Found, bool, bool]:
        """Fetch a result by its id from Redash, once for all who ask; below the path of query `nested` if there is one.

        Returns entry and bytes, whether this caller joined another's fetch, and whether it was fetched at all (a
        rendering of what is stored is not).

        Raises:
            UpstreamRefused: Redash does not give it (gone, or not for this credential).
            NotFound: an id of the gateway's own that is no longer stored.
        """
        if result_id >= FIRST_GATEWAY_RESULT_ID:
            return await self._rendered(credential, result_id, form), False, False
        key = result_key(credential.scope, result_id, form)
        found, joined = await self._flights.share(
            (key, nested.query_id if nested else None),
            lambda: self._fetch(credential, result_id, form, nested, sender),
        )
        return found, joined, True

    async def _rendered(self, credential: Credential, result_id: int, form: ResultForm) -> Found:
        """Make a CSV of a reduced answer, whose id Redash does not know (CONTRACT 8, trap for query keys)."""
        found = await self.find(result_key(credential.scope, result_id, "json"))
        if found is None:
            raise NotFound("This result is no longer stored; run the query again.")
        entry, body = found
        if form == "json":
            return found
        data = await asyncio.to_thread(_rendering, body, render_csv if form == "csv" else render_tsv)
        return entry, Body.of(data)

    async def _fetch(
        self, credential: Credential, result_id: int, form: ResultForm, nested: Definition | None, sender: Sender
    ) -> Found:
        begun = self._clock.monotonic()
        answer = await self.download(credential, result_id, form, nested.query_id if nested else None, sender)
        if form != "json":
            return await self._keep_rendering(credential, result_id, form, nested, answer, begun)
        head = await read_result(answer.body)
        if head.id != result_id:
            raise UpstreamUnusable("Redash answered with another result than the one asked for.")
        # To a user Redash shows any result below any query's path (CONTRACT 20.9); only its hash says whose it is.
        own = nested is not None and (credential.is_query_key or head.query_hash == nested.query_hash)
        query_id = nested.query_id if nested is not None and own else 0
        return await self.keep(credential, query_id, head, answer, begun=begun, confirmed=begun)

    async def download(
        self, credential: Credential, result_id: int, form: ResultForm, query_id: int | None, sender: Sender
    ) -> UpstreamAnswer:
        """Ask Redash for a result by id: below its query for a query key, which may read no other way (CONTRACT 8).

        Raises:
            UpstreamRefused: any status but 200.
        """
        if query_id is not None:
            path, route = f"/api/queries/{query_id}/results/{result_id}.{form}", NESTED_ROUTE
        else:
            path, route = f"/api/query_results/{result_id}.{form}", FLAT_ROUTE
        return await self._get(credential, Call(method="GET", path=path, route=route), sender)

    async def latest(self, credential: Credential, query_id: int, sender: Sender) -> tuple[Found, bool]:
        """Ask Redash for a query's latest result as JSON; returns it and whether another caller's question brought it.

        Raises:
            UpstreamRefused: there is none (404), or it is not for this credential.
        """
        return await self._flights.share(
            ("latest", credential.scope, query_id), lambda: self._fetch_latest(credential, query_id, sender)
        )

    async def _fetch_latest(self, credential: Credential, query_id: int, sender: Sender) -> Found:
        call = Call(method="GET", path=f"/api/queries/{query_id}/results.json", route=LATEST_ROUTE)
        begun = self._clock.monotonic()
        answer = await self._get(credential, call, sender)
        head = await read_result(answer.body)
        return await self.keep(credential, query_id, head, answer, begun=begun, confirmed=begun)

    async def _get(self, credential: Credential, call: Call, sender: Sender) -> UpstreamAnswer:
        answer = await self._upstream.send(credential, call, sender)
        if answer.status != 200:
            raise refusal(answer)
        return answer

    async def _keep_rendering(
        self,
        credential: Credential,
        result_id: int,
        form: Form,
        nested: Definition | None,
        answer: UpstreamAnswer,
        begun: float,
    ) -> Found:
        """Keep a CSV, TSV or XLSX for `rendered_ttl`: its bytes depend on settings of Redash (CONTRACT 8)."""
        scope = credential.scope
        entry = Entry(
            body_id=digest(b"body", uuid.uuid4().bytes),
            scope=scope,
            query_id=nested.query_id if nested is not None else 0,
            result_id=result_id,
            form=form,
            marker=nested.marker if nested is not None else "",
            retrieved_at=_day_in(answer.disposition),
            born=begun,
            confirmed=begun,
            size=answer.body.size,
        )
        return await self._put([result_key(scope, result_id, form)], entry, answer.body, begun)

    async def purge(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """Forget results, also those of executions that are under way now. Returns how many entries went."""
        self._purged_at[query_id if scope is None else None] = self._clock.monotonic()
        return await self._store.forget(scope=scope, query_id=query_id)

    def _purged_since(self, begun: float, query_id: int) -> bool:
        return begun <= max(self._purged_at.get(query_id, -math.inf), self._purged_at.get(None, -math.inf))

    async def land(self) -> None:
        """End the fetches that are under way."""
        await self._flights.land()


async def read_result(body: Body) -> ResultHead:
    """Read the head of a result; off the event loop where the body is a file.

    Raises:
        UpstreamUnusable: it is none.
    """
    head = read_answer(body) if body.size <= PARSE_LIMIT else await asyncio.to_thread(read_answer, body)
    if not isinstance(head, ResultHead):
        raise UpstreamUnusable("Redash answered with a job where a result was asked for.")
    return head


_DAY: Final = re.compile(r"_(\d{4})_(\d{2})_(\d{2})\.(?:csv|tsv|xlsx)\"?\s*(?:;|$)")


def _day_in(disposition: str) -> str:
    """Take the day of the result out of the file name that Redash gave a rendering; it says it nowhere else."""
    found = _DAY.search(disposition)
    return "-".join(found.groups()) if found else ""


def _rendering(body: Body, render: Callable[[Mapping[str, object]], bytes]) -> bytes:
    return render(json.loads(body.load())["query_result"]["data"])


def _reduced_id(scope: str, key: Key, retrieved_at: str) -> int:
    """An id for an answer without one: the same result gets the same id, also in another gateway."""
    hashed = int.from_bytes(digest(b"id", scope.encode(), key, retrieved_at.encode())[:8], "big")
    return FIRST_GATEWAY_RESULT_ID + hashed % FIRST_GATEWAY_RESULT_ID


def rendering_expired(entry: Entry, now: float, cache: config.Cache) -> bool:
    """Whether a stored CSV, TSV or XLSX is too old to be shown."""
    return now - entry.born > cache.rendered_ttl

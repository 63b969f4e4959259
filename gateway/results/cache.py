"""Stored results: getting them from the store, and storing what Redash sent."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from gateway import config
from gateway.body import Arriving, Body
from gateway.concurrency.spool import Spool
from gateway.errors import GatewayError, NotFound, ServiceUnavailable, UpstreamUnusable
from gateway.model import FIRST_GATEWAY_RESULT_ID, Clock, Entry, Form, Key, digest, result_identity
from gateway.outcome import MissReason
from gateway.policy.access import Credential
from gateway.policy.keys import result_key
from gateway.policy.plan import Plan, age_on_arrival
from gateway.redash.downloads import day_in
from gateway.redash.purges import Purge
from gateway.redash.responses import ResultHead, parse_time
from gateway.results.absences import Absences
from gateway.results.loading import digest_of
from gateway.results.purges import Purges
from gateway.store import Fence, FrontStore, Ledger
from gateway.upstream.protocol import UpstreamResponse

_TOO_LARGE: Final = (
    "This result is larger than the gateway can keep now (cache.max_entry, cache.disk), and it was passed on already; "
    "request it again."
)


class StoredResult(msgspec.Struct, frozen=True):
    """A stored result with its bytes; or one that is too large to be stored, whose bytes were only passed on."""

    entry: Entry
    body: Body

    @property
    def is_readable(self) -> bool:
        """Whether its bytes can be read from the beginning."""
        return self.body.is_kept or (self.body.spool is not None and self.body.spool.is_whole)

    @property
    def content(self) -> Body | Arriving:
        """Return its bytes.

        Raises:
            UpstreamUnusable: they were too many to be kept, and the first ones are not there any more.
        """
        if self.body.is_kept:
            return self.body
        if self.body.spool is None or not self.body.spool.is_whole:
            raise UpstreamUnusable(_TOO_LARGE)
        return self.body.spool


class ArrivingResult(msgspec.Struct, frozen=True):
    """A large result while it arrives: its entry lacks what only the end of the body contains."""

    entry: Entry
    body: Spool


AnyResult = StoredResult | ArrivingResult


class ResultCache:
    """The results in the store."""

    def __init__(self, store: FrontStore, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._purges = Purges()
        self.on_stored: Callable[[int], None] = lambda _: None
        self._absences = Absences()
        self.begin_spool = store.begin_spool
        self.queries = store.queries

    async def get(self, key: Key) -> StoredResult | None:
        """Return the stored result under `key`, None without one."""
        if (entry := self._store.peek(key)) is not None and (body := self._store.peek_body(entry)) is not None:
            return StoredResult(entry, body)  # from memory, without yielding to the event loop
        entry = await self._store.get(key)
        body = await self._store.read(entry) if entry is not None else None
        return StoredResult(entry, body) if entry is not None and body is not None else None

    def missing(self, text: str) -> GatewayError:
        """Return the error for a result that is not known: 404, unless the ledger may know it but cannot be read."""
        if self._ledger.ready:
            return NotFound(text)
        return ServiceUnavailable("The gateway cannot read its records of results now; try again soon.", retry_after=1)

    def absence(self, key: Key, scope: str, query_id: int, marker: str | None = None) -> MissReason:
        """Say why nothing is stored under `key`; `marker` is that of the definition in force, if there is one.

        What is in memory all the same was not proven to be what was requested: a look-up had brought it there.
        """
        if self._store.peek(key) is not None:
            return "unproven"
        return self._absences.reason(key, marker, self._purges.last(scope, query_id))

    def why(self, plan: Plan, stored: StoredResult | None, now: float) -> MissReason:
        """Say why a plan is not satisfied by what is stored."""
        if plan.max_age == 0:
            return "forced"
        if stored is None:
            return self.absence(plan.key, plan.credential.scope, plan.query_id, plan.marker)
        return plan.rejection(stored.entry, now)

    def runtime(self, key: Key) -> float:
        """Return for how many seconds the data source worked on the result under `key`; 0 if that is unknown.

        Only memory is asked: every run follows a look-up, which has brought the result there.
        """
        entry = self._store.peek(key)
        return entry.runtime if entry is not None else 0.0

    async def put(
        self,
        credential: Credential,
        query_id: int,
        head: ResultHead,
        response: UpstreamResponse,
        *,
        key: Key | None = None,
        marker: str = "",
        data_source_id: int | None = None,
        begun: float,
        confirmed: float = -math.inf,
        fence: Fence | None = None,
    ) -> StoredResult:
        """Store a result that was checked: under its id, and under `key`, if given.

        `begun` (monotonic) is when the request to Redash was sent: after a purge since then, nothing is stored.
        `data_source_id` counts for reduced results, which do not contain it. `fence`: see `Store.put`.
        """
        form: Form = "reduced" if head.reduced else "full"
        result_id = head.id or _reduced_id(credential.scope, key or b"", head.retrieved_at)
        retrieved, content = parse_time(head.retrieved_at), await digest_of(response.body)
        age = age_on_arrival(retrieved, response.received, response.date)
        identity = result_identity(head.retrieved_at, head.query_hash)
        place = (credential.scope.encode(), str(result_id).encode(), form.encode())
        entry = Entry(
            body_id=digest(b"body", *place, identity, content),
            scope=credential.scope,
            query_id=query_id,
            result_id=result_id,
            form=form,
            marker=marker,
            query_hash=head.query_hash,
            data_source_id=data_source_id if head.reduced else head.data_source_id,
            retrieved_at=head.retrieved_at,
            runtime=head.runtime,
            born=self._clock.monotonic() - max(0.0, self._clock.wall() - response.received) - age,
            confirmed=confirmed,
            size=response.body.size,
        )
        await self._ledger.record_result(credential.scope, result_id, query_id, identity)
        keys = [result_key(credential.scope, result_id, "json"), *([key] if key is not None else [])]
        return await self.put_as(keys, entry, response.body, begun, fence)

    async def put_as(
        self, keys: list[Key], entry: Entry, body: Body, begun: float, fence: Fence | None = None
    ) -> StoredResult:
        """Store it under `keys`; after a purge since `begun`, under a random key, for the waiting callers only."""
        purged = self._purged_since(begun, entry)
        if purged:
            self._purges.note_late(entry.scope, entry.query_id, self._clock.monotonic())
            await self.record_new_data()
            keys = [digest(b"unlisted", uuid.uuid4().bytes)]
        stored = await self._confirmed(keys, entry) or StoredResult(entry, await self._put(keys, entry, body, fence))
        if not purged and stored.body.is_kept:
            self._absences.note(keys, entry.marker, self._clock.monotonic())
            self.on_stored(entry.query_id)
        if not purged and self._purged_since(begun, entry):  # purged while it was being stored
            await self._store.delete(scope=entry.scope, query_id=entry.query_id)
        if body.spool is not None:
            body.spool.end()
        return stored

    async def _put(self, keys: list[Key], entry: Entry, body: Body, fence: Fence | None) -> Body:
        if body.is_kept:
            return await self._store.put(keys, entry, body if body.path is not None else Body.of(body.load()), fence)
        for key in keys:  # what is stored is not the newest any more
            await self._store.confirm(key, -math.inf)
        return body

    async def _confirmed(self, keys: list[Key], entry: Entry) -> StoredResult | None:
        """Where the same result is stored already, note only that it is still the newest (a result never changes).

        Every request to Redash follows a look-up, so a stored result is in memory now.
        """
        stored = self._store.peek(keys[-1])
        if stored is None or stored.body_id != entry.body_id or not _says_no_more(entry, stored):
            return None
        body = await self._store.read(stored)
        if body is None or entry.confirmed == -math.inf:
            return None
        for key in keys:
            await self._store.confirm(key, entry.confirmed)
        return StoredResult(msgspec.structs.replace(stored, confirmed=entry.confirmed), body)

    async def deny(self, key: Key) -> None:
        """Let the result under `key` count as never confirmed: Redash refuses it to the credential."""
        await self._store.confirm(key, -math.inf)

    async def purge(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """Delete results, also those of requests in progress. Returns how many entries were deleted."""
        self.note_purge(scope=scope, query_id=query_id)
        return await self._store.delete(scope=scope, query_id=query_id)

    def note_purge(self, *, scope: str | None = None, query_id: int | None = None) -> None:
        """Do not store what was requested before now: it was purged, here or by another gateway."""
        self._purges.note(scope, query_id, self._clock.monotonic())

    def note_new_data(self, scope: str | None, what: Purge) -> None:
        """Take no rows of Redash from before now for what was named: a client or an operator says that they are old."""
        self._purges.note_new_data(scope, what, self._clock.monotonic())

    async def record_new_data(self) -> None:
        """Let what was purged outlive this process: Redash's cache outlives it, too."""
        await self._ledger.record_purges(self._purges.record(self._offset()))

    async def restore(self) -> None:
        """Take back what an earlier process has recorded, as soon as the ledger can be read."""
        if text := await self._ledger.purges():
            with suppress(msgspec.MsgspecError):  # of another version
                self._purges.restore(text, self._offset(), self._clock.monotonic())

    def _offset(self) -> float:
        return self._clock.wall() - self._clock.monotonic()

    def needs_check(self, plan: Plan) -> bool:
        """Whether a stored result serves this plan if Redash says that it is still the newest; nothing needs to run."""
        return plan.max_age is None and self.age_to_ask_for(plan, None) is None

    def age_to_ask_for(self, plan: Plan, max_age: int | None) -> int | None:
        """Return the age with which to ask Redash, which knows of no purge; newer rows that are stored, it has, too."""
        since, stored = self._purges.new_data(plan), self._store.peek(plan.key)
        if since == -math.inf or (stored is not None and stored.born >= since):
            return max_age
        seconds = max(0, math.floor(self._clock.monotonic() - since))
        return seconds if max_age is None else min(max_age, seconds)

    def _purged_since(self, begun: float, entry: Entry) -> bool:
        return begun <= self._purges.last(entry.scope, entry.query_id)


def _says_no_more(entry: Entry, stored: Entry) -> bool:
    """Whether the stored entry of the same bytes has the same query and marker, or `entry` has neither."""
    return (entry.query_id, entry.marker) in ((stored.query_id, stored.marker), (0, ""), (stored.query_id, ""))


def arriving_result(
    credential: Credential, query_id: int, head: ResultHead, beginning: UpstreamResponse, spool: Spool
) -> ArrivingResult:
    """Return a result with what its beginning contains: no age, no size, for a reduced one no id. It is never stored.

    `retrieved_at` is only the day, "" where Redash has given the file no name. Only its end distinguishes it
    from another result with the same id, so its `body_id` is still empty.
    """
    form: Form = "reduced" if head.reduced else "full"
    entry = Entry(
        body_id=b"",
        scope=credential.scope,
        query_id=query_id,
        result_id=head.id or 0,
        form=form,
        query_hash=head.query_hash,
        retrieved_at=day_in(beginning.disposition),
    )
    return ArrivingResult(entry, spool)


def _reduced_id(scope: str, key: Key, retrieved_at: str) -> int:
    """Return an id for a result without one: the same result gets the same id, in every gateway."""
    hashed = int.from_bytes(digest(b"id", scope.encode(), key, retrieved_at.encode())[:8], "big")
    return FIRST_GATEWAY_RESULT_ID + hashed % FIRST_GATEWAY_RESULT_ID


def rendering_expired(entry: Entry, now: float, cache: config.Cache) -> bool:
    """Whether a stored CSV, TSV or XLSX is too old to be used."""
    return now - entry.born > cache.rendered_ttl

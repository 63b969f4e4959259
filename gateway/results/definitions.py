"""Query definitions: read before a query is run or looked up, of a limited age, one request for many callers."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from gateway import config
from gateway.body import Body
from gateway.concurrency.flights import Flights
from gateway.errors import CredentialRejected, GatewayError, UpstreamError, UpstreamRefused, UpstreamUnusable
from gateway.model import Clock, Definition, Entry, digest
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext
from gateway.policy.keys import definition_key
from gateway.policy.values import exact_fit, fit
from gateway.redash import calls
from gateway.redash.objects import parse_definition
from gateway.redash.redaction import body_without_own_keys
from gateway.redash.requests import Execute, ExecuteText, ReadParameterised
from gateway.redash.responses import refused_job
from gateway.results.known_definitions import KnownDefinitions, Place
from gateway.store import Ledger, Store
from gateway.upstream.protocol import Upstream, UpstreamResponse, refusal

log = logging.getLogger("gateway.definitions")

LATE_SECONDS: Final = 2.0
"""How long stored results wait for a check; then the known definition stands in, as while Redash is unavailable."""

_UNJUDGED_SECONDS: Final = 1.0
"""How old a definition may be when values leave that only Redash can judge."""

_OFF_LOOP_BYTES: Final = 64 * 1024
_NO_PERMISSION: Final = "You do not have permission to run queries with this data source."


class Definitions:
    """The known definitions, by query and scope."""

    def __init__(self, upstream: Upstream, store: Store, ledger: Ledger, live: Live, clock: Clock) -> None:
        self._upstream = upstream
        self._store = store
        self._ledger = ledger
        self._live = live
        self._clock = clock
        self._known = KnownDefinitions(live.settings.cache.memory // 8)
        self._flights: Flights[Definition] = Flights()
        self.on_invalidated: Callable[[int], None] = lambda query_id: None
        """Called with the id of each query whose definition was invalidated, denied or has changed."""
        self.on_denied: Callable[[int], None] = lambda query_id: None
        """Called with the id of each query that Redash refuses to a credential."""

    @property
    def memory(self) -> tuple[int, int]:
        """The bytes that known definitions take, and their limit."""
        return self._known.bytes, self._known.limit_bytes

    async def get(self, credential: Credential, query_id: int, sender: Sender) -> Definition:
        """Return the definition, at most `definition_check` old; from half of that on, a background refresh starts.

        Raises:
            UpstreamRefused: Redash does not show it to this credential (403, 404, or its own 500): never stale.
            UpstreamError: Redash is unavailable, and the known definition is older than `stale_if_error` allows.

        A check that takes longer than `LATE_SECONDS` goes on, and acts when it ends. Nobody waits again for a late one,
        nor at all while Redash is known not to work: then the check may be the probe, and is for itself.
        """
        cache = self._live.settings.cache
        place = (query_id, credential.scope)
        known = await self._remembered(place)
        age = self._age(place, known)
        if known is not None and age <= cache.definition_check / 2:
            return known
        flight, read = self._flight(place), partial(self._read, credential, query_id, sender)
        if known is None or self._clock.monotonic() - known.checked > self._longest(cache):
            return (await self._flights.share(flight, read, sender.outcome))[0]
        if age <= cache.definition_check or self._upstream.is_unavailable:
            self._flights.start(flight, read)
            return known
        try:
            async with (
                self._upstream.until_unavailable(),
                asyncio.timeout(LATE_SECONDS - self._flights.seconds(flight)),
            ):
                return (await self._flights.share(flight, read, sender.outcome))[0]
        except (UpstreamError, TimeoutError):
            return known

    async def known(self, credential: Credential, query_id: int) -> tuple[Definition | None, float]:
        """Return what is known of a definition without asking Redash, and its age in seconds; inf: to be read again."""
        place = (query_id, credential.scope)
        known = await self._remembered(place)
        return known, self._age(place, known)

    async def current(self, credential: Credential, query_id: int, sender: Sender, *, since: float) -> Definition:
        """Return the definition as Redash gave it since that moment (monotonic), else as it gives it now: never stale.

        Raises:
            UpstreamRefused: Redash does not show it to this credential.
            UpstreamError: Redash is unavailable.
        """
        place = (query_id, credential.scope)
        known = await self._remembered(place)
        if known is not None and known.checked >= since and self._known.is_valid(place):
            return known
        read = partial(self._read, credential, query_id, sender)
        return (await self._flights.share(self._flight(place), read, sender.outcome))[0]

    async def for_run(self, credential: Credential, query_id: int, sender: Sender, *, judged: bool) -> Definition:
        """Return the definition by which a run may leave now; `judged` says that its values were judged by one.

        Raises:
            As `current`.
        """
        seconds = self._live.settings.cache.definition_check
        seconds = seconds if judged else min(seconds, _UNJUDGED_SECONDS)
        return await self.current(credential, query_id, sender, since=self._clock.monotonic() - seconds)

    def _longest(self, cache: config.Cache) -> float:
        return cache.definition_check + cache.stale_if_error

    async def of(
        self, context: RequestContext, operation: Execute | ExecuteText | ReadParameterised
    ) -> tuple[Definition | None, Execute | ExecuteText]:
        """Return the definition of the query that is requested (None for free SQL), and the run with its values.

        Values that do not fit the known one make it be requested again: the query may have been edited.

        Raises:
            As `get`. A refusal gets the shape of a job, as Redash refuses to execute (CONTRACT 3).
            BadRequest, UpstreamRefused: a value does not fit its definition, or is missing.
        """
        if isinstance(operation, ExecuteText):
            return None, fit(operation, None, context)
        try:
            definition = await self.get(context.credential, operation.query_id, context.sender)
            if (run := exact_fit(operation, definition, context)) is not None:
                return definition, run
            since = math.nextafter(definition.checked, math.inf)
            definition = await self.current(context.credential, operation.query_id, context.sender, since=since)
        except UpstreamRefused as refused:
            if refused.status_code != 403 or isinstance(operation, ReadParameterised):
                raise
            raise refused_job(403, _NO_PERMISSION) from None
        return definition, fit(operation, definition, context)

    def drop(self, query_id: int) -> None:
        """Invalidate a query's definitions in every scope after a run or an edit; the next caller requests it anew."""
        self._known.drop(query_id)
        self.on_invalidated(query_id)

    async def delete(self, query_id: int) -> None:
        """Delete a query and its results in every scope: it was edited, and old rows must not replace new ones."""
        self.drop(query_id)
        self._known.pop(query_id)
        await self._store.delete(query_id=query_id)

    async def refuse(self, query_id: int, scope: str, error: GatewayError) -> None:
        """Act on a refusal of a query to the credential of a scope, or of that credential's key."""
        act = self._reject if isinstance(error, CredentialRejected) else self.deny
        await act(query_id, scope)

    async def deny(self, query_id: int, scope: str) -> None:
        """Delete all that is known of a query in a scope: Redash refuses the query to its credential."""
        self.on_invalidated(query_id)
        self.on_denied(query_id)
        self._known.pop_one((query_id, scope))
        await self._store.delete(scope=scope, query_id=query_id)

    async def _reject(self, query_id: int, scope: str) -> None:
        """Let no definition count that is known in a scope: Redash does not accept its key.

        The results stay, as a new key of the same user may have the scope soon. They are shown to nobody without a
        definition that Redash has given.
        """
        self.on_invalidated(query_id)
        self.on_denied(query_id)
        self._known.pop_one((query_id, scope))
        await self._store.confirm(definition_key(scope, query_id), -math.inf)

    async def remembered(self, query_id: int, scope: str) -> Definition | None:
        """Return the definition as it was read last, however long ago, in memory or in the store; asks nobody."""
        return await self._remembered((query_id, scope))

    def name_of(self, query_id: int) -> str:
        """Return the query's name, "" if no definition of it is in memory."""
        return self._known.name_of(query_id)

    def good_until(self, definition: Definition, scope: str) -> float:
        """Return until when (monotonic) this definition needs no request to Redash, not even in the background."""
        if not self._known.is_valid((definition.query_id, scope)):
            return -math.inf
        return definition.checked + self._live.settings.cache.definition_check / 2

    async def aclose(self) -> None:
        """Cancel the requests in progress."""
        await self._flights.aclose()

    def _flight(self, place: Place) -> tuple[int, str, float]:
        # A request sent before the end of a run or an edit must not serve callers that come after that end.
        return (*place, self._known.generation(place[0]))

    def _age(self, place: Place, known: Definition | None) -> float:
        if known is None or not self._known.is_valid(place):
            return math.inf
        return self._clock.monotonic() - known.checked

    async def _remembered(self, place: Place) -> Definition | None:
        query_id, scope = place
        if (found := self._known.get(place)) is not None:
            return found
        entry = await self._store.get(definition_key(scope, query_id))
        body = await self._store.read(entry) if entry is not None else None
        # Redash may have responded during the look-up: then no other request is needed.
        found = self._known.get(place)
        if found is not None or entry is None or body is None or body.data is None:
            return found
        try:
            definition = msgspec.json.decode(body.data, type=Definition)
        except (msgspec.DecodeError, RecursionError):
            return None
        # An earlier process may have invalidated it: it is used only while Redash is unavailable.
        definition = msgspec.structs.replace(definition, checked=entry.confirmed)
        self._known.put(scope, definition, valid=False)
        return definition

    async def _read(self, credential: Credential, query_id: int, sender: Sender) -> Definition:
        place = (query_id, credential.scope)
        generation = self._known.generation(query_id)
        try:
            response = await self._upstream.send(credential, calls.query(query_id), sender)
        except CredentialRejected as error:
            await self.refuse(query_id, credential.scope, error)
            raise
        if response.status != 200:
            if response.status in (403, 404):
                await self.deny(query_id, credential.scope)
            raise refusal(response)
        definition = await _parse(response)
        if definition.query_id != query_id:
            raise UpstreamUnusable("Redash's response is the object of another query than the requested one.")
        before = self._known.get(place)
        if before is not None and _shown(before) != _shown(definition):
            self.on_invalidated(query_id)
        unchanged = generation == self._known.generation(query_id)
        if unchanged or not self._known.is_valid(place):  # else a newer one was read meanwhile
            self._known.put(credential.scope, definition, valid=unchanged)
        await self._save(credential.scope, definition)
        return definition

    async def _save(self, scope: str, definition: Definition) -> None:
        data = body_without_own_keys(msgspec.json.encode(definition))
        key = definition_key(scope, definition.query_id)
        entry = Entry(
            body_id=digest(b"body", key, data),
            scope=scope,
            query_id=definition.query_id,
            result_id=0,
            form="definition",
            marker=definition.marker,
            born=definition.checked,
            confirmed=definition.checked,
            size=len(data),
        )
        await self._store.put([key], entry, Body.of(data))
        if definition.latest_result_id is not None:
            await self._ledger.record_result(scope, definition.latest_result_id, definition.query_id)


def _shown(definition: Definition) -> tuple[str, int | None]:
    """Return what makes earlier responses out of date when it changes: the query itself, or its latest result."""
    return definition.marker, definition.latest_result_id


async def _parse(response: UpstreamResponse) -> Definition:
    """Parse a query object; off the event loop where it is large.

    Raises:
        UpstreamUnusable: it is none.
    """
    body, sent = response.body, response.sent
    if body.size <= _OFF_LOOP_BYTES:
        return parse_definition(body.load(), sent)
    return await asyncio.to_thread(lambda: parse_definition(body.load(), sent))

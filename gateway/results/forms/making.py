"""Makes forms of stored results: each once for all callers, one at a time, kept like any other body of the result."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from importlib.util import find_spec
from typing import Final

import msgspec

from gateway import needs_extra
from gateway.body import Body
from gateway.concurrency.flights import Flights
from gateway.concurrency.slots import FairSlots
from gateway.errors import NotAcceptable, ServiceUnavailable, UpstreamUnusable
from gateway.model import Clock, Entry, Form, Key, digest
from gateway.outcome import Sender
from gateway.policy.configured import Live
from gateway.policy.keys import rendering_key
from gateway.redash.readings import Reading
from gateway.redash.renderings import DateFormats
from gateway.redash.responses import PARSE_LIMIT
from gateway.results.cache import AnyResult, ResultCache, StoredResult
from gateway.results.forms.job import COLUMNAR, Job, reader_in
from gateway.results.forms.process import PIECE_BYTES, pieces_of
from gateway.results.gathering import RETRY_SECONDS, gathered
from gateway.results.organisation import OrganisationReader

VERSION: Final = "3"
"""Increase it if the bytes of a form change: forms that were stored before are then made again."""

_NOT_KEPT: Final = "This result is larger than the gateway can keep now (cache.max_entry, cache.disk); request JSON."
_NOT_YET: Final = "The gateway is still making this form of the result; request the same URL again."
_NO_PYARROW: Final = f"This gateway cannot make .{{form}}: that {needs_extra('arrow')}."


def check_form(reading: Reading) -> None:
    """Refuse a form that nobody can make here, before a query runs for it.

    Raises:
        NotAcceptable: it needs pyarrow, which is not installed.
    """
    if reading.form in COLUMNAR and find_spec("pyarrow") is None:
        raise NotAcceptable(_NO_PYARROW.format(form=reading.form))


class ResultForms:
    """The forms of stored results that are made here."""

    def __init__(self, live: Live, results: ResultCache, organisation: OrganisationReader, clock: Clock) -> None:
        self._live = live
        self._results = results
        self._organisation = organisation
        self._clock = clock
        self._flights: Flights[StoredResult] = Flights()
        # One at a time: so their memory is bounded, and a core is left for requests.
        self._turns = FairSlots(
            1, timeout=live.settings.upstream.queue_timeout, busy="The gateway is busy with other forms"
        )

    async def make(self, of: AnyResult, reading: Reading, sender: Sender, until: float) -> tuple[StoredResult, Key]:
        """Return the requested form of exactly this result, and the key under which it is stored.

        It is waited for until then (monotonic); the making goes on, and the next request finds it.

        Raises:
            BadRequest: the result has no such column.
            NotAcceptable: it is too large for this form.
            UpstreamUnusable: it cannot be read, or it was not kept.
            ServiceUnavailable: it is not made yet, or cannot be made now.
        """
        formats = await self._formats(reading, sender)
        key = rendering_key(of.entry, _variant(reading, formats))
        if (made := await self._results.get(key)) is not None:
            return made, key
        content = of.content if isinstance(of, StoredResult) else of.body
        if not isinstance(content, Body):
            raise UpstreamUnusable(_NOT_KEPT)
        title = f"Result {of.entry.result_id}, {of.entry.retrieved_at}"
        job = Job(form=reading.form, selection=reading.selection, formats=formats, title=title, size=content.size)
        try:
            async with asyncio.timeout(until - self._clock.monotonic()):
                made, _ = await self._flights.share(key, lambda: self._in_turn(key, of.entry, content, job, sender))
        except TimeoutError:
            raise ServiceUnavailable(_NOT_YET, retry_after=RETRY_SECONDS) from None
        return made, key

    async def aclose(self) -> None:
        """Stop what is being made."""
        await self._flights.aclose()

    async def _formats(self, reading: Reading, sender: Sender) -> DateFormats:
        """Return Redash's formats of dates where the form has them; its defaults elsewhere."""
        if reading.form in ("csv", "tsv") and not reading.selection.excel:
            return await self._organisation.formats(sender)
        return DateFormats()

    async def _in_turn(self, key: Key, of: Entry, content: Body, job: Job, sender: Sender) -> StoredResult:
        self._turns.timeout = self._live.settings.upstream.queue_timeout
        async with self._turns.hold(sender.client):
            return await self._make(key, of, content, job)

    async def _make(self, key: Key, of: Entry, content: Body, job: Job) -> StoredResult:
        begun = self._clock.monotonic()
        hashed = hashlib.sha256()
        async with aclosing(_pieces(job, content)) as pieces, aclosing(_hashed(pieces, hashed)) as made:
            body = await gathered(made, self._results.begin_spool)
        form: Form = of.form if job.form == "json" else job.form
        # Equal tags mean equal bytes, as ranges need it; another version of a library may make others.
        entry = msgspec.structs.replace(of, body_id=digest(b"body", key, hashed.digest()), form=form, size=body.size)
        return await self._results.put_as([key], entry, body, begun)


async def _hashed(pieces: AsyncIterator[bytes], hashed: hashlib._Hash) -> AsyncGenerator[list[bytes], None]:
    async for piece in pieces:
        hashed.update(piece)
        yield [piece]


def _variant(reading: Reading, formats: DateFormats) -> str:
    return f"made {VERSION} {reading.form} {reading.selection.text()} {formats.date} {formats.date_time}"


async def _pieces(job: Job, content: Body) -> AsyncGenerator[bytes, None]:
    """Make a small form in a thread, any other in a process."""
    if content.data is None or content.size > PARSE_LIMIT or job.form in COLUMNAR:
        async with aclosing(pieces_of(job, content)) as pieces:
            async for piece in pieces:
                yield piece
        return
    read = reader_in(content.data)
    made = await asyncio.to_thread(job.pieces, read)
    while piece := await asyncio.to_thread(_next, made):
        yield piece


def _next(pieces: Iterator[bytes]) -> bytes:
    """Return at least so many bytes of the next pieces; fewer only at the end."""
    taken = bytearray()
    for piece in pieces:
        taken += piece
        if len(taken) >= PIECE_BYTES:
            break
    return bytes(taken)

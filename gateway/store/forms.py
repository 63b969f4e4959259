"""The gzip forms of stored bodies: made once, off the event loop, kept in memory beside them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from gateway.concurrency.flights import Flights
from gateway.model import Body, Entry
from gateway.store import FrontStore

try:  # the extra `speed`: a sixth of the time for the same size
    from isal.isal_zlib import compressobj as _make

    _compressobj: Callable[..., Any] = _make
    LEVEL = 2
except ImportError:
    _compressobj = zlib.compressobj
    LEVEL = 3

LEAST_BYTES: Final = 1_000
MOST_BYTES: Final = 16 * 2**20
"""Larger bodies go as they are: their forms would be of some megabytes and push out too much else."""

_AT_ONCE_BYTES: Final = 16 * 1024
"""Up to here a thread would cost more than the work."""

_GZIP_FORMAT: Final = 31  # zlib's `wbits` for a gzip head and trailer; its time field is zero
_PIECE: Final = 1 << 20
_WORTH: Final = 0.9
_NOT_WORTH_IT: Final = Body.of(b"")
"""Stands for the form of a body that it would not make smaller."""


def may_have_a_form(body: Body) -> bool:
    """Whether the body has a size for which a form is made at all."""
    return LEAST_BYTES <= body.size <= MOST_BYTES


async def gzip_form(body: Body) -> Body | None:
    """Return the gzip form of `body`, None where it is not worth one; off the event loop, if it takes long."""
    if not may_have_a_form(body):
        return None
    data = _gzip(body) if body.size <= _AT_ONCE_BYTES else await asyncio.to_thread(_gzip, body)
    return Body.of(data) if len(data) < body.size * _WORTH else None


class Compressor:
    """Finds the gzip form of what is stored, or makes it; those who ask at the same time share the work."""

    def __init__(self, store: FrontStore) -> None:
        self._store = store
        self._flights: Flights[Body] = Flights()

    async def form(self, entry: Entry, body: Body) -> Body | None:
        """Return the gzip form of the body that the store has under `entry`, None where it is not worth one."""
        if not may_have_a_form(body):
            return None
        form = self._store.peek_gzip(entry, body)
        if form is None:
            # By the body, not by its id: the bytes under an id may have been replaced meanwhile.
            form, _ = await self._flights.share(id(body), lambda: self._make(entry, body))
        return form if form.size else None

    async def _make(self, entry: Entry, body: Body) -> Body:
        form = await gzip_form(body) or _NOT_WORTH_IT
        self._store.keep_gzip(entry, body, form)
        return form

    async def aclose(self) -> None:
        """End the work that is under way."""
        await self._flights.aclose()


def _gzip(body: Body) -> bytes:
    made = _compressobj(LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
    return b"".join([*(made.compress(piece) for piece in _pieces(body)), made.flush()])


def _pieces(body: Body) -> Iterator[bytes]:
    if body.data is not None:
        yield body.data
        return
    assert body.path is not None  # noqa: S101 - one of the two is always there
    with body.path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece

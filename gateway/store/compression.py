"""The gzip forms of stored bodies: made once, off the event loop, and kept in memory beside the bodies."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any, Final

from gateway.body import Body
from gateway.concurrency.flights import Flights
from gateway.errors import FileLost
from gateway.model import Entry
from gateway.store.protocols import FrontStore

try:  # a sixth of the time for the same size; there are machines without it
    from isal.isal_zlib import compressobj as _make

    _compressobj: Callable[..., Any] = _make
    LEVEL = 2
except ImportError:
    _compressobj = zlib.compressobj
    LEVEL = 3

MIN_BYTES: Final = 1_000
MAX_BYTES: Final = 16 * 2**20
"""Larger bodies are sent uncompressed: their gzip forms would take megabytes and evict too much else."""

_INLINE_BYTES: Final = 16 * 1024
"""Up to this size a thread would cost more than the work."""

_GZIP_FORMAT: Final = 31  # zlib's `wbits` for a gzip header and trailer; the time field is zero
_CHUNK_BYTES: Final = 1 << 20
_MAX_RATIO: Final = 0.9
_NOT_WORTH_IT: Final = Body.of(b"")
"""Stored in place of the gzip form if that would not be clearly smaller than the body."""


def is_compressible(body: Body) -> bool:
    """Whether the body has a size for which a gzip form is made."""
    return MIN_BYTES <= body.size <= MAX_BYTES


async def gzip_body(body: Body) -> Body | None:
    """Return the gzip form of `body`, None if it is not worth it; leaves the event loop if that takes long.

    Raises:
        FileLost: the body is a file, which was removed or changed.
    """
    if not is_compressible(body):
        return None
    try:
        data = _gzip(body) if body.size <= _INLINE_BYTES else await asyncio.to_thread(_gzip, body)
    except OSError as error:
        raise FileLost from error
    return Body.of(data) if len(data) < body.size * _MAX_RATIO else None


class Compressor:
    """Finds the gzip form of a stored body, or makes it; simultaneous calls share the work."""

    def __init__(self, store: FrontStore) -> None:
        self._store = store
        self._flights: Flights[Body] = Flights()

    async def gzip(self, entry: Entry, body: Body) -> Body | None:
        """Return the gzip form of `body`, the bytes of `entry` in the store; as `gzip_body`."""
        if not is_compressible(body):
            return None
        form = self._store.peek_gzip(entry, body)
        if form is None:
            # Keyed by the object, not by the body id: the bytes under that id may have been replaced by now.
            form, _ = await self._flights.share(id(body), lambda: self._make(entry, body))
        return form if form.size else None

    async def _make(self, entry: Entry, body: Body) -> Body:
        form = await gzip_body(body) or _NOT_WORTH_IT
        self._store.put_gzip(entry, body, form)
        return form

    async def aclose(self) -> None:
        """Stop the work that is under way."""
        await self._flights.aclose()


def _gzip(body: Body) -> bytes:
    compressor = _compressobj(LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
    return b"".join([*(compressor.compress(piece) for piece in body.pieces(_CHUNK_BYTES)), compressor.flush()])

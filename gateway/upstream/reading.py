"""Reading the body of a response within bounds: into memory, or into a spool where it is a large result."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

import aiohttp
import msgspec

from gateway import config
from gateway.body import Body
from gateway.concurrency.allowance import Allowance
from gateway.concurrency.spool import BeginSpool, Spool
from gateway.errors import UpstreamUnusable
from gateway.redash.redaction import LARGEST_METADATA, TOO_LARGE
from gateway.redash.responses import BEGINNING_BYTES, PARSE_LIMIT
from gateway.upstream.protocol import Early, UpstreamResponse

_SMALL_PIECE: Final = 64 * 1024
_PIECE: Final = 256 * 1024

_LENGTH: Final = re.compile("[0-9]{1,18}")

MOST_INFLATED: Final = 100
"""A compressed result longer than `max_entry` may be this many times as long as what came over the network. The rows of
a result shrink to a tenth; gzip can express a thousand times its length, and would fill the disk at that rate."""


FREE_BYTES: Final = 64 * 1024
"""Objects up to this size are parsed at once, so there are never many of them in memory."""

LEAST_OBJECT: Final = 4 * 2**20


class ObjectMemory:
    """How large an object or list may be, and what all of them that are in transit may take together.

    While keys are removed from one, it takes ten times its size.
    """

    def __init__(self, cache_memory_bytes: int) -> None:
        self.largest = min(LARGEST_METADATA, max(LEAST_OBJECT, cache_memory_bytes // 7))
        self.allowance = Allowance(max(2 * self.largest, cache_memory_bytes // 4))


class BodyReader:
    """Reads bodies; those of results into spools, once they are too large to be parsed as a whole."""

    def __init__(
        self, spool: BeginSpool, objects: ObjectMemory, settings: config.Config, heard: Callable[[], None]
    ) -> None:
        """`heard` is called with each piece that arrives."""
        self._spool = spool
        self._objects = objects
        self._max_entry = settings.cache.max_entry
        self._timeout = settings.upstream.read_timeout
        self._patience = settings.upstream.queue_timeout
        self._heard = heard

    async def read(
        self,
        raw: aiohttp.ClientResponse,
        response: UpstreamResponse,
        check: Callable[[UpstreamResponse], UpstreamResponse],
        early: Early | None,
        grows: Callable[[], None],
    ) -> Body:
        """Read the body; with `early`, of a result, a large one arrives in a spool, if its beginning passes `check`.

        `grows` is called when that begins.

        Raises:
            UpstreamUnusable: too large, without `early` or by its compression.
            ServiceUnavailable: other large objects take the memory that they may take.
        """
        announced = raw.headers.get("Content-Length", "")
        size = int(announced) if _LENGTH.fullmatch(announced) and "Content-Encoding" not in raw.headers else None
        if early is None and size is not None and size > self._objects.largest:
            raise UpstreamUnusable(TOO_LARGE)
        pieces: list[bytes] = []
        read, share = 0, None
        async for piece in self._pieces(raw, _SMALL_PIECE):
            pieces.append(piece)
            read += len(piece)
            if early is not None and read > PARSE_LIMIT:
                grows()
                first = b"".join(pieces)
                beginning = msgspec.structs.replace(response, body=Body.of(first[:BEGINNING_BYTES]))
                show = partial(early, check(beginning))
                return await _read_on(self._rest(raw, read), first, await self._spool(size), show)
            if read > self._objects.largest:
                raise UpstreamUnusable(TOO_LARGE)
            if early is None and share is None and read > FREE_BYTES:
                share = await self._objects.allowance.take(size or self._objects.largest, self._patience)
        if share is not None:
            share.shrink(read)
        return Body(size=read, data=b"".join(pieces), share=share)

    async def _pieces(self, raw: aiohttp.ClientResponse, most: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of at most so many bytes.

        aiohttp's own limit on pauses is of no use where chunks are malformed: the body then neither fails nor ends.

        Raises:
            TimeoutError: nothing came for `upstream.read_timeout`.
            ConnectionError: the connection is closed.
        """
        while True:
            try:
                if raw.content.is_eof():  # all of it has come, as that of a small response has
                    piece = raw.content.read_nowait(most)
                else:
                    async with asyncio.timeout(self._timeout):
                        piece = await raw.content.read(most)
            except RuntimeError as error:  # aiohttp's, for a connection that was closed without a reason
                raise ConnectionResetError("Redash closed the connection within its response") from error
            if not piece:
                return
            self._heard()
            yield piece

    async def _rest(self, raw: aiohttp.ClientResponse, read: int) -> AsyncIterator[bytes]:
        """Yield the pieces after the first `read` bytes, as long as they are in proportion to what came."""
        compressed = "Content-Encoding" in raw.headers
        async for piece in self._pieces(raw, _PIECE):
            read += len(piece)
            if compressed and read > max(self._max_entry, MOST_INFLATED * raw.content.total_raw_bytes):
                raise UpstreamUnusable("Redash's response is compressed beyond all proportion.")
            yield piece


async def _read_on(
    rest: AsyncIterator[bytes], first: bytes, spool: Spool, show: Callable[[Spool], Awaitable[None]]
) -> Body:
    """Read the rest into the spool; after `show`, waiting callers can read it while it grows."""
    try:
        await spool.append([first])
        await show(spool)
        pieces: list[bytes] = []
        pending = 0
        async for piece in rest:
            pieces.append(piece)
            pending += len(piece)
            if pending >= _PIECE:
                await spool.append(pieces)
                pieces, pending = [], 0
        await spool.append(pieces)
        return await spool.body()
    except BaseException:
        spool.fail()
        raise

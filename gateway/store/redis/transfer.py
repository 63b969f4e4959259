"""Brings bodies to Redis and back, a few pieces at a time, and hashes them on the way."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Final, ParamSpec, TypeVar

import msgspec

from gateway.body import Body
from gateway.concurrency.spool import BeginSpool
from gateway.errors import GatewayError
from gateway.store.redis import pieces
from gateway.store.redis.failures import UnavailableError
from gateway.store.redis.layout import PIECE_MILLISECONDS
from gateway.store.redis.link import Link
from gateway.store.redis.pieces import DamagedError

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE: Final = 4
"""Pieces that are under way together: 1 MB. While they are unpacked, so many more are fetched."""

TRANSFERS: Final = 4
"""Large bodies that are under way together; more would only wait for each other."""

LEAST_SECONDS: Final = 5.0
BYTES_PER_SECOND: Final = 20 * 10**6
"""A Redis that is slower than this with a large body is as bad as none."""


class StoredBody(msgspec.Struct, frozen=True):
    """What stands in Redis beside the pieces of a body; `data` is the only piece of a small one."""

    digest: bytes
    size: int
    token: str
    count: int
    data: bytes = b""
    weight: int = 0
    """Bytes as they are stored."""


class Transfer:
    """Moves bodies. Raises what `Link.transfer` does, TimeoutError, and OSError for files."""

    def __init__(self, link: Link, begin_spool: BeginSpool) -> None:
        self._link = link
        self._begin_spool = begin_spool
        self._turns = asyncio.Semaphore(TRANSFERS)
        self._numbers = itertools.count()

    async def upload(self, body: Body) -> StoredBody:
        """Bring the pieces of a large body to Redis, where they expire unless an entry is stored soon."""
        token = f"{self._link.origin}-{next(self._numbers)}"
        count = pieces.count_of(body.size)
        if count == 0:
            data, digest = await _in_thread(body.size, _packed, body)
            return StoredBody(digest, body.size, token, 0, data, len(data))
        async with asyncio.timeout(_seconds(body.size)), self._turns:
            weight, digest = await self._send(body, token)
        return StoredBody(digest, body.size, token, count, b"", weight)

    async def _send(self, body: Body, token: str) -> tuple[int, bytes]:
        hashed, weight, number = hashlib.sha256(), 0, 0
        raw = body.pieces(pieces.PIECE_BYTES)
        while batch := await asyncio.to_thread(_next_packed, raw, hashed):
            names = [self._name(token, number + i) for i in range(len(batch))]
            number += len(batch)
            weight += sum(map(len, batch))
            await self._link.transfer(
                [("SET", name, data, "PX", PIECE_MILLISECONDS) for name, data in zip(names, batch, strict=True)]
            )
        return weight, hashed.digest()

    async def download(self, stored: StoredBody) -> Body:
        """Return the bytes; of a large body in a spool's file. Raises also DamagedError: they are not those stored."""
        if stored.count == 0:
            return Body.of(await _in_thread(stored.size, _unpacked, stored.data, stored))
        async with asyncio.timeout(_seconds(stored.size)), self._turns:
            return await self._receive(stored)

    async def _receive(self, stored: StoredBody) -> Body:
        spool = await self._begin_spool(stored.size)
        hashed, size = hashlib.sha256(), 0
        async with aclosing(self._batches(stored)) as batches:
            async for found in batches:
                try:
                    size = await spool.append(await asyncio.to_thread(_next_unpacked, found, hashed))
                except GatewayError as error:
                    raise UnavailableError("there is no room for it here") from error
        _compare(hashed.digest(), size, stored)
        body = await spool.body()
        spool.end()
        if not body.is_kept:
            raise UnavailableError("there is no room for it here")
        return body

    async def _batches(self, stored: StoredBody) -> AsyncGenerator[list[bytes], None]:
        """Yield the pieces, a few at a time, while the next few are on their way."""
        coming = asyncio.create_task(self._batch(stored, 0))
        try:
            for following in range(AT_ONCE, stored.count, AT_ONCE):
                found = await coming
                coming = asyncio.create_task(self._batch(stored, following))
                yield found
            yield await coming
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _batch(self, stored: StoredBody, first: int) -> list[bytes]:
        numbers = range(first, min(first + AT_ONCE, stored.count))
        found = await self._link.transfer([("GET", self._name(stored.token, number)) for number in numbers])
        if None in found:
            raise DamagedError("lacks a part")
        return found

    def _name(self, token: str, number: int) -> str:
        return f"{self._link.base}c:{token}:{number}"


def _seconds(size: int) -> float:
    return LEAST_SECONDS + size / BYTES_PER_SECOND


async def _in_thread(size: int, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    if size <= pieces.INLINE_BYTES:
        return work(*arguments, **named)
    return await asyncio.to_thread(work, *arguments, **named)


def _packed(body: Body) -> tuple[bytes, bytes]:
    data = body.load()
    return pieces.encode(data), hashlib.sha256(data).digest()


def _unpacked(data: bytes, stored: StoredBody) -> bytes:
    found = pieces.decode(data)
    _compare(hashlib.sha256(found).digest(), len(found), stored)
    return found


def _compare(digest: bytes, size: int, stored: StoredBody) -> None:
    if digest != stored.digest or size != stored.size:
        raise DamagedError("does not match its length and digest")


def _next_packed(raw: Iterator[bytes], hashed: hashlib._Hash) -> list[bytes]:
    batch = list(itertools.islice(raw, AT_ONCE))
    for piece in batch:
        hashed.update(piece)
    return [pieces.encode(piece) for piece in batch]


def _next_unpacked(found: list[bytes], hashed: hashlib._Hash) -> list[bytes]:
    batch = [pieces.decode(data) for data in found]
    for piece in batch:
        hashed.update(piece)
    return batch

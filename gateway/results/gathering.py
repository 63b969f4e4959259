"""Gathers what is made here from a result: little in memory, much in a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from gateway.body import Body
from gateway.concurrency.spool import BeginSpool
from gateway.errors import ServiceUnavailable
from gateway.redash.responses import PARSE_LIMIT

RETRY_SECONDS: Final = 5.0

_NO_ROOM: Final = "The gateway has no room for this form now (cache.disk); request JSON, or try again later."


async def gathered(made: AsyncIterator[list[bytes]], begin_spool: BeginSpool) -> Body:
    """Return all pieces as one body; they may come several at a time.

    Raises:
        ServiceUnavailable: there is no room for them.
    """
    first: list[bytes] = []
    size = 0
    async for pieces in made:
        first += pieces
        size += sum(map(len, pieces))
        if size > PARSE_LIMIT:
            break
    else:
        return Body.of(b"".join(first))
    spool = await begin_spool(None)
    try:
        await spool.append(first)
        first.clear()
        async for pieces in made:
            await spool.append(pieces)
            if not spool.is_whole:
                raise ServiceUnavailable(_NO_ROOM, retry_after=RETRY_SECONDS)
        body = await spool.body()
    except BaseException:
        spool.fail()
        raise
    if not body.is_kept:
        raise ServiceUnavailable(_NO_ROOM, retry_after=RETRY_SECONDS)
    return body

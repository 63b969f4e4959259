"""What is read of the bytes of a response before they are stored; off the event loop where they are many."""

from __future__ import annotations

import asyncio

from gateway.body import Body
from gateway.errors import UpstreamUnreadable, UpstreamUnusable
from gateway.model import digest
from gateway.redash.responses import PARSE_LIMIT, Job, ResultHead, parse_result_or_job
from gateway.store.verification import hash_of


async def digest_of(body: Body) -> bytes:
    """Return the digest of a body's bytes: Redash may write the same result in another way after an upgrade, and who
    has one part of it must not get the next one of the other.
    """
    if body.data is not None:
        small = body.size <= PARSE_LIMIT
        return digest(body.data) if small else await asyncio.to_thread(digest, body.data)
    try:
        return await asyncio.to_thread(hash_of, body) if body.path is not None else b""
    except OSError:  # it is lost already, and will not be stored
        return b""


async def load_result_or_job(body: Body) -> ResultHead | Job:
    """Parse the head of a result, or a job; off the event loop where the body is large.

    Raises:
        UpstreamUnusable: it is neither.
        UpstreamUnreadable: it is nested too deeply.
    """
    if body.size <= PARSE_LIMIT:
        return parse_result_or_job(body)
    try:
        return await asyncio.to_thread(parse_result_or_job, body)
    except (UpstreamUnusable, UpstreamUnreadable):
        body.give_up()
        raise


async def load_result(body: Body) -> ResultHead:
    """Parse the head of a result.

    Raises:
        UpstreamUnusable: it is not a result.
        UpstreamUnreadable: it is nested too deeply.
    """
    head = await load_result_or_job(body)
    if not isinstance(head, ResultHead):
        body.give_up()
        raise UpstreamUnusable("Redash responded with a job where a result was requested.")
    return head

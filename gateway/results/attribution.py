"""Which query does a result belong to? No id, path or hash proves it: hash, data source and SQL text together do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gateway.errors import BadRequest
from gateway.model import Definition, result_identity
from gateway.policy.access import Credential
from gateway.redash import sqltext
from gateway.redash.responses import ResultHead

_OFF_LOOP_CHARACTERS: Final = 20_000


class ResultOwner(msgspec.Struct, frozen=True):
    """The credential in whose scope a result id was seen, and its queries there (0: no saved one), as in the ledger."""

    credential: Credential
    queries: Mapping[int, bytes]


class Claim(msgspec.Struct, frozen=True):
    """A query that a result may belong to."""

    definition: Definition
    identity: bytes = b""
    """The identity of the query's result with this id in the ledger; b"" for none."""


async def owner_of(claims: Sequence[Claim], head: ResultHead) -> int:
    """Return the first query that the result is proven to belong to; 0 for none."""
    identity = result_identity(head.retrieved_at, head.query_hash)
    for claim in claims:
        if claim.identity == identity or await _is_latest_of(claim.definition, head):
            return claim.definition.query_id
    return 0


async def _is_latest_of(definition: Definition, head: ResultHead) -> bool:
    """Whether it was made from the current query text with the default values: its hash covers these (CONTRACT 8).

    The hash ignores white space, in old versions case, and always the data source (CONTRACT 7).
    """
    same = (definition.query_hash, definition.data_source_id) == (head.query_hash, head.data_source_id)
    if not same or not definition.query_hash or head.query is None:
        return False
    if len(head.query) + len(definition.text) > _OFF_LOOP_CHARACTERS:
        return await asyncio.to_thread(_shows, definition, head.query)
    return _shows(definition, head.query)


def _shows(definition: Definition, sql: str) -> bool:
    defaults = {parameter.name: parameter.value for parameter in definition.parameters}
    try:
        sqltext.check_size(definition.text, definition.parameters, defaults)
        return sqltext.matches(definition.text, definition.parameters, defaults, sql)
    except BadRequest:  # too long to be compared, so nothing is proven
        return False

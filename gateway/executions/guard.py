"""Checks that a result was made from the requested SQL: Redash's cache ignores white space (CONTRACT 7).

Up to version 10 it ignores letter case, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

from gateway.model import Definition
from gateway.outcome import Sender
from gateway.policy.plan import Plan
from gateway.policy.values import values_of
from gateway.redash import sqltext
from gateway.redash.ambiguity import is_ambiguous
from gateway.redash.json_text import canonical
from gateway.redash.requests import Execute, ExecuteText
from gateway.redash.responses import ResultHead, parse_time
from gateway.results.organisation import OrganisationReader

_OFF_LOOP_CHARACTERS: Final = 20_000


class Guard:
    """Judges by what the cache of this Redash confuses: `organisation` knows its version."""

    def __init__(self, organisation: OrganisationReader) -> None:
        self._organisation = organisation

    async def has_requested_sql(
        self, plan: Plan, definition: Definition | None, head: ResultHead, sender: Sender
    ) -> bool:
        """Whether data source and SQL of the result are the requested ones; long texts are compared off the event loop.

        Reduced results contain neither; for those `may_be_mixed_up` decides beforehand. The source is at the end of a
        result: its beginning, which has no time yet, is checked by its SQL alone.
        """
        if head.query is None:
            return True
        if definition is not None and head.retrieved_at and head.data_source_id != definition.data_source_id:
            return False
        long = len(head.query) > _OFF_LOOP_CHARACTERS or _is_long(plan)
        for folds_case in (True, False):  # nearly always the stricter judgement is enough
            compare = partial(_matches, plan, definition, head.query, folds_case=folds_case)
            if await asyncio.to_thread(compare) if long else compare():
                return folds_case or not await self._folds_case(sender)
        return False

    async def may_be_mixed_up(self, plan: Plan, sender: Sender) -> bool:
        """Whether Redash could return other rows without a sign of it: results for a query key contain no SQL."""
        definition, operation = plan.definition, plan.operation
        if not plan.credential.is_query_key or definition is None or not isinstance(operation, Execute):
            return False
        ambiguous = partial(is_ambiguous, definition.text, definition.parameters, values_of(operation))
        return ambiguous() or (ambiguous(folds_case=True) and await self._folds_case(sender))

    async def collision(self, plan: Plan, sender: Sender) -> tuple[bytes, bytes]:
        """Return a key that is equal where Redash may see the same text, and the exact text.

        Runs with an equal first and a different second part must not overlap in Redash where one of them shows no SQL:
        it would join them. Long texts are processed off the event loop.
        """
        collide = partial(_collision, plan, folds_case=await self._folds_case(sender))
        return await asyncio.to_thread(collide) if _is_long(plan) else collide()

    async def _folds_case(self, sender: Sender) -> bool:
        return (await self._organisation.version(sender)).hash_folds_case


def may_be_of_earlier_text(plan: Plan, head: ResultHead) -> bool:
    """Whether cached rows without SQL are older than the last edit: another text with the same hash may be theirs.

    That the text is the same as before the edit proves nothing: there may have been another one in between.
    """
    definition = plan.definition
    return head.reduced and definition is not None and parse_time(head.retrieved_at) < parse_time(definition.marker)


def _is_long(plan: Plan) -> bool:
    """Whether the comparison may take long: because of the text that was sent, its template or its values."""
    text, values = _text_of(plan)
    return len(text) + len(repr(values)) > _OFF_LOOP_CHARACTERS


def check_size(plan: Plan) -> None:
    """Refuse SQL that could not be compared with the response, before anything is sent.

    Raises:
        BadRequest: the SQL would be too long, or has too many values.
    """
    text, values = _text_of(plan)
    sqltext.check_size(text, plan.definition.parameters if plan.definition is not None else (), values)


def _matches(plan: Plan, definition: Definition | None, sql: str, *, folds_case: bool) -> bool:
    operation = plan.operation
    if isinstance(operation, ExecuteText):
        return sqltext.same_text(operation.text, sql, values_of(operation), folds_case=folds_case)
    if definition is None:
        return True
    values = values_of(operation)
    return sqltext.matches(definition.text, definition.parameters, values, sql, folds_case=folds_case)


def _collision(plan: Plan, *, folds_case: bool) -> tuple[bytes, bytes]:
    definition = plan.definition
    text, values = _text_of(plan)
    parameters = definition.parameters if definition is not None else ()
    shown = sqltext.collision_text(text, parameters, values, folds_case=folds_case)
    exact = text.encode("utf-8", "surrogatepass") + b"\0" + canonical(values)
    return repr(plan.data_source_id).encode() + b"\0" + shown, exact


def _text_of(plan: Plan) -> tuple[str, Mapping[str, object]]:
    """Return the template and its values; the template of a saved query is known with its definition only."""
    operation, definition = plan.operation, plan.definition
    if isinstance(operation, ExecuteText):
        return operation.text, values_of(operation)
    return definition.text if definition is not None else "", values_of(operation)

"""Checks that a result was made from the requested SQL: Redash's cache ignores white space (CONTRACT 7)."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.model import Definition
from gateway.policy.plan import Plan
from gateway.redash import sqltext
from gateway.redash.ambiguity import is_ambiguous
from gateway.redash.requests import Execute, ExecuteText, canonical
from gateway.redash.responses import ResultHead
from gateway.redash.template import render

_OFF_LOOP_CHARACTERS: Final = 20_000


async def has_requested_sql(plan: Plan, definition: Definition | None, head: ResultHead) -> bool:
    """Whether data source and SQL of the result are the requested ones; long texts are compared off the event loop.

    Reduced results contain neither; for those `may_be_mixed_up` decides beforehand. The source is at the end of a
    result: its beginning, which has no time yet, is checked by its SQL alone.
    """
    if head.query is None:
        return True
    if definition is not None and head.retrieved_at and head.data_source_id != definition.data_source_id:
        return False
    if len(head.query) > _OFF_LOOP_CHARACTERS or _is_long(plan):
        return await asyncio.to_thread(_matches, plan, definition, head.query)
    return _matches(plan, definition, head.query)


def _is_long(plan: Plan) -> bool:
    """Whether the comparison may take long: because of the text that was sent, its template or its values."""
    text, values = _text_of(plan)
    return len(text) + len(canonical(values)) > _OFF_LOOP_CHARACTERS


def check_size(plan: Plan) -> None:
    """Refuse SQL that could not be compared with the response, before anything is sent.

    Raises:
        BadRequest: the SQL would be too long, or has too many values.
    """
    text, values = _text_of(plan)
    sqltext.check_size(text, plan.definition.parameters if plan.definition is not None else (), values)


def _matches(plan: Plan, definition: Definition | None, sql: str) -> bool:
    operation = plan.operation
    if isinstance(operation, ExecuteText):
        return sqltext.same_text(str(operation.text), sql, _text_values(operation))
    if definition is None:
        return True
    return sqltext.matches(definition.text, definition.parameters, _values(operation), sql)


def may_be_mixed_up(plan: Plan) -> bool:
    """Whether Redash could return other rows without a sign of it: results for a query key contain no SQL."""
    if not plan.credential.is_query_key or plan.definition is None or not isinstance(plan.operation, Execute):
        return False
    return is_ambiguous(plan.definition.text, plan.definition.parameters, _values(plan.operation))


async def collisions(plan: Plan) -> list[tuple[bytes, bytes]]:
    """Return pairs: a key that is equal where Redash may see the same text, and the exact text.

    Runs with an equal first and a different second part must not overlap in Redash: it would join them. The first pair
    keeps a template that cannot be rendered here (it has sections) apart from everything else on its data source. Long
    texts are processed off the event loop.
    """
    return await asyncio.to_thread(_collisions, plan) if _is_long(plan) else _collisions(plan)


def _collisions(plan: Plan) -> list[tuple[bytes, bytes]]:
    operation, definition = plan.operation, plan.definition
    text, values = _text_of(plan)
    if isinstance(operation, ExecuteText):
        source = operation.data_source_id
    else:
        source = definition.data_source_id if definition is not None else None
    parameters = definition.parameters if definition is not None else ()
    place = repr(source).encode()
    exact = text.encode("utf-8", "surrogatepass") + b"\0" + canonical(values)
    plain = render(text, parameters, values) is not None
    shown = sqltext.collision_text(text, parameters, values)
    return [(place, b"plain" if plain else exact), (place + b"\0" + shown, exact)]


def _text_of(plan: Plan) -> tuple[str, dict[str, object]]:
    """Return the template and its values; the template of a saved query is known with its definition only."""
    operation, definition = plan.operation, plan.definition
    if isinstance(operation, ExecuteText):
        return str(operation.text), _text_values(operation)
    return definition.text if definition is not None else "", _values(operation)


def _text_values(operation: ExecuteText) -> dict[str, object]:
    given = operation.rest.get("parameters")
    return given if isinstance(given, dict) else {name[2:]: value for name, value in operation.arguments}


def _values(operation: Execute) -> dict[str, object]:
    return {name[2:]: value for name, value in operation.arguments} if operation.refresh else operation.parameters

"""Was an answer made from the SQL that was asked for? Redash's cache is blind to white space (CONTRACT 7)."""

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


async def shows_what_was_asked(plan: Plan, definition: Definition | None, head: ResultHead) -> bool:
    """Whether the answer is of the data source and the SQL that was asked for; long texts are compared off the loop.

    Reduced answers carry neither; for those `may_be_mixed_up` decides beforehand. The source stands at the end of a
    result, so that its beginning has no time yet and is judged by its SQL alone.
    """
    if head.query is None:
        return True
    if definition is not None and head.retrieved_at and head.data_source_id != definition.data_source_id:
        return False
    if len(head.query) > _OFF_LOOP_CHARACTERS:
        return await asyncio.to_thread(_shows, plan, definition, head.query)
    return _shows(plan, definition, head.query)


def _shows(plan: Plan, definition: Definition | None, sql: str) -> bool:
    operation = plan.operation
    if isinstance(operation, ExecuteText):
        return sqltext.same_text(str(operation.text), sql, _text_values(operation))
    if definition is None:
        return True
    return sqltext.matches(definition.text, definition.parameters, _values(operation), sql)


def may_be_mixed_up(plan: Plan) -> bool:
    """Whether Redash could answer with other rows and nobody could tell: a query key's answer shows no SQL."""
    if not plan.credential.is_query_key or plan.definition is None or not isinstance(plan.operation, Execute):
        return False
    return is_ambiguous(plan.definition.text, plan.definition.parameters, _values(plan.operation))


def collisions(plan: Plan) -> list[tuple[bytes, bytes]]:
    """Return pairs of what Redash may take for the same, and the text that it stands for here.

    Runs of equal first and different second part must not meet in Redash: it would join them. The first pair keeps a
    template that cannot be rendered here (it has sections) apart from everything else on its data source.
    """
    operation, definition = plan.operation, plan.definition
    if isinstance(operation, ExecuteText):
        values, text, source = _text_values(operation), str(operation.text), operation.data_source_id
    else:
        values, text, source = _values(operation), "", None
        if definition is not None:
            text, source = definition.text, definition.data_source_id
    parameters = definition.parameters if definition is not None else ()
    place = repr(source).encode()
    exact = text.encode("utf-8", "surrogatepass") + b"\0" + canonical(values)
    plain = render(text, parameters, values) is not None
    shown = sqltext.collision_text(text, parameters, values)
    return [(place, b"plain" if plain else exact), (place + b"\0" + shown, exact)]


def _text_values(operation: ExecuteText) -> dict[str, object]:
    given = operation.rest.get("parameters")
    return given if isinstance(given, dict) else {name[2:]: value for name, value in operation.arguments}


def _values(operation: Execute) -> dict[str, object]:
    return {name[2:]: value for name, value in operation.arguments} if operation.refresh else operation.parameters

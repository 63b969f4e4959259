"""Fits the values of a request into the definition of its query, before anything is sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway.errors import GatewayError
from gateway.model import Definition
from gateway.policy.context import RequestContext
from gateway.policy.memo import IdentityMemo
from gateway.redash import template
from gateway.redash.parameters import check_others, parse_parameters
from gateway.redash.requests import Execute, ExecuteText, ReadParameterised
from gateway.redash.responses import refused_job
from gateway.redash.values import checked_values

Run = Execute | ExecuteText | ReadParameterised

_fitted: Final[IdentityMemo[Execute | None]] = IdentityMemo(4_096)
"""None for operations that stay as they are: a memo whose value is its own key would keep it alive."""


def local_time(context: RequestContext) -> datetime:
    """Return the moment of a request in the time zone of dynamic dates."""
    zone = ZoneInfo(context.configured.settings.cache.timezone)
    return datetime.fromtimestamp(context.wall, UTC).astimezone(zone)


def fit(operation: Run, definition: Definition | None, context: RequestContext) -> Execute | ExecuteText:
    """Return the run that is requested, with the values that it gets. `definition` is None for free SQL.

    Raises:
        BadRequest, UpstreamRefused: a value does not fit its definition, or is missing.
    """
    if not isinstance(operation, ReadParameterised):
        return fitted(operation, definition)
    assert definition is not None  # noqa: S101 - only free SQL has none
    return _parse_form(operation, definition, local_time(context))


def exact_fit(operation: Run, definition: Definition, context: RequestContext) -> Execute | ExecuteText | None:
    """Return the run if all values, and no others, are those of the definition, else None: it may have been edited."""
    try:
        run = fit(operation, definition, context)
    except GatewayError:
        return None
    return run if run is operation or isinstance(operation, ReadParameterised) else None


def _parse_form(operation: ReadParameterised, definition: Definition, now: datetime) -> Execute:
    """Return the run that a GET with parameters asks for. `now` is in the time zone of dynamic dates.

    Raises:
        BadRequest: a value does not fit its definition, or is missing.
        UpstreamRefused: a value is missing that a URL cannot give.
    """
    check_others(definition, operation.others)
    values = parse_parameters(definition, list(operation.arguments), now)
    _check_complete(definition.text, values)
    return Execute(operation.query_id, operation.max_age, values, None)


def fitted(operation: Execute | ExecuteText, definition: Definition | None) -> Execute | ExecuteText:
    """Return what Redash is asked to run: all parameters with a value, and nothing that no tag of the query shows.

    Raises:
        BadRequest: a name is unknown, or a value does not fit its definition.
        UpstreamRefused: a parameter has no value.
    """
    return _fitted.get((operation, definition), lambda: _fit(operation, definition)) or operation


def _fit(operation: Execute | ExecuteText, definition: Definition | None) -> Execute | None:
    values = values_of(operation)
    text = operation.text if isinstance(operation, ExecuteText) else definition.text if definition else ""
    if isinstance(operation, Execute) and not operation.refresh and definition is not None:
        values = checked_values(definition, values)
    _check_complete(text, values)
    if isinstance(operation, ExecuteText) or operation.refresh or _same(values, operation.parameters):
        return None
    return msgspec.structs.replace(operation, parameters=values)


def values_of(operation: Execute | ExecuteText) -> Mapping[str, object]:
    """Return the parameter values that Redash takes from this request: of repeated arguments the first (CONTRACT 6)."""
    from_url: dict[str, object] = {name[2:]: value for name, value in reversed(operation.arguments)}
    if isinstance(operation, ExecuteText):
        given = operation.rest.get("parameters")
        return given if isinstance(given, dict) else from_url
    return from_url if operation.refresh else operation.parameters


def _same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


def _check_complete(text: str, values: Mapping[str, object]) -> None:
    """Refuse what Redash would refuse, in its words: it fills in no defaults (CONTRACT 6).

    Raises:
        UpstreamRefused: 400 with a job that failed.
    """
    missing = sorted(template.required(text) - template.given(values))
    if missing:
        raise refused_job(400, f"Missing parameter value for: {', '.join(missing)}")

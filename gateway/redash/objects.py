"""Parses Redash's objects: queries, data sources, dashboards and lists of them. Says what each member is needed for."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from gateway.errors import UpstreamUnusable
from gateway.model import FIRST_GATEWAY_RESULT_ID, SLUG, Definition, Parameter
from gateway.redash.limits import NOT_SUCH, SHORT, Id, Short
from gateway.redash.redaction import text_without_keys, without_own_keys
from gateway.redash.schedule import parse_schedule

MOST_PARAMETERS: Final = 1_000
LONGEST_PARAMETERS: Final = 256 * 1024
"""Of a query, as JSON: all of them are looked at for each request."""

_LONGEST_TEXT: Final = 1_000
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


class _Query(msgspec.Struct):
    """A query object. Redash stores some members as clients of its API write them. Only three are demanded, because
    the gateway can judge nothing without them; any other one that cannot be read counts as absent.
    """

    id: Id
    """Proves that it is the requested query."""
    query: str
    """The template: which values become SQL, and which SQL a result must show."""
    updated_at: Short
    """The marker: results from before an edit are not used."""
    name: object = None
    """Names downloads. Without it, they are named after the result's id."""
    query_hash: object = None
    """Helps to prove that a result is the query's latest. Without it, no result is proven to be."""
    data_source_id: object = None
    """The source of the rows. Without it, results of every source are refused, as they are in Redash."""
    latest_query_data_id: object = None
    """Finds the latest result in the store. Without it, Redash is asked."""
    options: object = None
    """`parameters`; without them, every `{{name}}` is the caller's text. And `apply_auto_limit`."""
    tags: object = None
    """Select rules of `[[cache.rules]]`."""
    schedule: object = None
    """When Redash makes the next result by itself (`follow_schedule`). Without it, it makes none."""
    is_archived: object = False
    """The latest result that an archived query names may be out of date."""


_queries = msgspec.json.Decoder(_Query, strict=False)


def parse_definition(data: bytes, checked: float) -> Definition:
    """Parse a query object; the query's key is left out. `checked` is when it was requested (monotonic).

    Raises:
        UpstreamUnusable: it is not a query object, or its parameters are too many or too long.
    """
    try:
        query = _queries.decode(data)
    except NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a query object.") from None
    options = query.options if isinstance(query.options, dict) else {}
    parameters = parse_parameters_of(options.get("parameters"))
    if len(parameters) > MOST_PARAMETERS or len(msgspec.json.encode(parameters)) > LONGEST_PARAMETERS:
        raise UpstreamUnusable("The parameters of this query take too much memory or time to check values by.")
    return Definition(
        query_id=query.id,
        name=without_own_keys(_text(query.name)),
        text=query.query,
        marker=query.updated_at,
        query_hash=_short(query.query_hash),
        data_source_id=_number(query.data_source_id),
        latest_result_id=_number(query.latest_query_data_id),
        parameters=parameters,
        tags=_texts(query.tags),
        auto_limit=bool(options.get("apply_auto_limit")),
        is_archived=bool(query.is_archived),
        schedule=parse_schedule(query.schedule),
        checked=checked,
    )


def parse_parameters_of(listed: object) -> tuple[Parameter, ...]:
    """Parse the definitions of parameters. Without a name, one defines nothing: its tag is then the caller's text."""
    found = map(_parameter, listed) if isinstance(listed, list) else ()
    return tuple(parameter for parameter in found if parameter is not None)


def _parameter(members: object) -> Parameter | None:
    """Parse one definition; each odd member is read as Redash reads it, or as what allows the least.

    type                without one, or null: text, which is the caller's SQL
    enumOptions         lines of a text, or the texts of a list; else there are none, and no value fits
    multiValuesOptions  several values only if it is an object
    queryId             without one, the dropdown is no query that a bound client reaches through this one
    value               without a default, the caller must give the value
    """
    if not isinstance(members, dict) or not isinstance(members.get("name"), str):
        return None
    kind, options, several = (members.get(name) for name in ("type", "enumOptions", "multiValuesOptions"))
    return Parameter(
        name=members["name"],
        type=kind if isinstance(kind, str) else "text",
        value=members.get("value"),
        enumOptions=tuple(options.split("\n")) if isinstance(options, str) else _texts(options),
        queryId=_number(members.get("queryId")),
        multiValuesOptions=several if isinstance(several, dict) else None,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _short(value: object) -> str:
    return text if re.fullmatch(SHORT, text := _text(value)) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _number(value: object) -> int | None:
    """Read an id, also one that is written as a text."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 < value < FIRST_GATEWAY_RESULT_ID else None


class _DataSource(msgspec.Struct):
    id: Id
    name: str
    paused: bool
    pause_reason: str | None = None


_data_sources = msgspec.json.Decoder(_DataSource, strict=False)  # `paused` is 0 or 1


def parse_pause(data: bytes, source_id: int) -> str:
    """Return the text with which Redash refuses to execute on this data source, empty if it is not paused.

    Raises:
        UpstreamUnusable: it is not the object of this data source.
    """
    try:
        source = _data_sources.decode(data)
    except NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a data source object.") from None
    if source.id != source_id:
        raise UpstreamUnusable("Redash's response is the object of another data source than the requested one.")
    if not source.paused:
        return ""
    reason = f" ({source.pause_reason[:_LONGEST_TEXT]})" if source.pause_reason else ""
    return text_without_keys(f"{source.name[:_LONGEST_TEXT]} is paused{reason}. Please try later.")


class _Identified(msgspec.Struct):
    id: Id


class _Visualization(msgspec.Struct):
    query: _Identified | None = None


class _Widget(msgspec.Struct):
    visualization: _Visualization | None = None


class _Dashboard(msgspec.Struct):
    id: Id
    widgets: tuple[_Widget, ...] | None = None


class DashboardQueries(msgspec.Struct, frozen=True):
    """A dashboard and the queries on it."""

    dashboard_id: int
    queries: frozenset[int]


def parse_dashboard(data: bytes) -> DashboardQueries:
    """Return the id of a dashboard and those of its queries; widgets that its reader may not see name none.

    Raises:
        UpstreamUnusable: it is not a dashboard object.
    """
    try:
        dashboard = msgspec.json.decode(data, type=_Dashboard)
    except NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a dashboard object.") from None
    shown = (widget.visualization for widget in dashboard.widgets or ())
    return DashboardQueries(dashboard.id, frozenset(v.query.id for v in shown if v is not None and v.query is not None))


class _Slugged(msgspec.Struct):
    id: Id
    slug: object = None


class _Page(msgspec.Struct):
    count: Id
    results: tuple[_Slugged, ...]


def parse_slugs(data: bytes) -> tuple[int, dict[int, str]]:
    """Parse a page of the list of dashboards: how many there are in all, and the slugs of those on this page by id.

    What cannot be part of a path is left out.

    Raises:
        UpstreamUnusable: it is not such a page.
    """
    try:
        page = msgspec.json.decode(data, type=_Page)
    except NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a list of dashboards.") from None
    return page.count, {board.id: slug for board in page.results if re.fullmatch(SLUG, slug := _text(board.slug))}


class Named(msgspec.Struct, frozen=True):
    """What an object is called by."""

    id: Id | None = None
    slug: object = None


def parse_named(data: bytes) -> Named:
    """Return the id of an object, and its slug if it has one; None for what it does not have."""
    try:
        return msgspec.json.decode(data, type=Named)
    except NOT_SUCH:
        return Named()

"""Parses the objects of Redash that the gateway reads for itself: queries, dashboards, data sources."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.errors import UpstreamUnusable
from gateway.model import Definition, Parameter
from gateway.redash.redaction import text_without_keys, without_own_keys

_NOT_SUCH: Final = (msgspec.DecodeError, RecursionError)  # the latter for 1,000 levels, also in skipped members
_LONGEST_TEXT: Final = 1_000


class _Owner(msgspec.Struct):
    parameters: tuple[Parameter, ...] | None = None
    apply_auto_limit: object = False


class _Query(msgspec.Struct):
    id: int
    name: str
    query: str
    updated_at: str
    query_hash: str
    data_source_id: int | None = None
    latest_query_data_id: int | None = None
    options: _Owner = msgspec.field(default_factory=_Owner)
    tags: tuple[str, ...] | None = None
    is_archived: bool = False


_queries = msgspec.json.Decoder(_Query, strict=False)


def parse_definition(data: bytes, checked: float) -> Definition:
    """Parse a query object; the query's key is left out. `checked` is when it was requested (monotonic).

    Raises:
        UpstreamUnusable: it is not a query object.
    """
    try:
        query = _queries.decode(data)
    except _NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a query object.") from None
    return Definition(
        query_id=query.id,
        name=without_own_keys(query.name),
        text=query.query,
        marker=query.updated_at,
        query_hash=query.query_hash,
        data_source_id=query.data_source_id,
        latest_result_id=query.latest_query_data_id,
        parameters=query.options.parameters or (),
        tags=query.tags or (),
        auto_limit=bool(query.options.apply_auto_limit),
        is_archived=query.is_archived,
        checked=checked,
    )


class _DataSource(msgspec.Struct):
    id: int
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
    except _NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a data source object.") from None
    if source.id != source_id:
        raise UpstreamUnusable("Redash's response is the object of another data source than the requested one.")
    if not source.paused:
        return ""
    reason = f" ({source.pause_reason[:_LONGEST_TEXT]})" if source.pause_reason else ""
    return text_without_keys(f"{source.name[:_LONGEST_TEXT]} is paused{reason}. Please try later.")


class _Identified(msgspec.Struct):
    id: int


class _Visualization(msgspec.Struct):
    query: _Identified | None = None


class _Widget(msgspec.Struct):
    visualization: _Visualization | None = None


class _Dashboard(msgspec.Struct):
    id: int
    widgets: tuple[_Widget, ...] | None = None


def parse_dashboard_queries(data: bytes, dashboard_id: int) -> frozenset[int]:
    """Return the ids of the queries on this dashboard's object; widgets that its reader may not see name none.

    Raises:
        UpstreamUnusable: it is not the object of this dashboard.
    """
    try:
        dashboard = msgspec.json.decode(data, type=_Dashboard)
    except _NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a dashboard object.") from None
    if dashboard.id != dashboard_id:
        raise UpstreamUnusable("Redash's response is the object of another dashboard than the requested one.")
    shown = (widget.visualization for widget in dashboard.widgets or ())
    return frozenset(v.query.id for v in shown if v is not None and v.query is not None)


def parse_id(data: bytes) -> int | None:
    """Return the id of an object, None if it has none."""
    try:
        return msgspec.json.decode(data, type=_Identified).id
    except _NOT_SUCH:
        return None

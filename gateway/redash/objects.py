"""Parses Redash's objects: queries, whose definitions the gateway needs, and dashboards."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.errors import UpstreamUnusable
from gateway.model import Definition, Parameter
from gateway.redash.redaction import without_own_keys
from gateway.redash.responses import NOT_SUCH, Id, Short

MOST_PARAMETERS: Final = 1_000
LONGEST_PARAMETERS: Final = 256 * 1024
"""Of a query, as JSON: all of them are looked at for each request."""


class _Owner(msgspec.Struct):
    parameters: tuple[Parameter, ...] | None = None
    apply_auto_limit: object = False


class _Query(msgspec.Struct):
    id: Id
    name: str
    query: str
    updated_at: Short
    query_hash: Short
    data_source_id: Id | None = None
    latest_query_data_id: Id | None = None
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
    except NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a query object.") from None
    parameters = query.options.parameters or ()
    if len(parameters) > MOST_PARAMETERS or len(msgspec.json.encode(parameters)) > LONGEST_PARAMETERS:
        raise UpstreamUnusable("The parameters of this query take too much memory or time to check values by.")
    return Definition(
        query_id=query.id,
        name=without_own_keys(query.name),
        text=query.query,
        marker=query.updated_at,
        query_hash=query.query_hash,
        data_source_id=query.data_source_id,
        latest_result_id=query.latest_query_data_id,
        parameters=parameters,
        tags=query.tags or (),
        auto_limit=bool(query.options.apply_auto_limit),
        is_archived=query.is_archived,
        checked=checked,
    )


class _Identified(msgspec.Struct):
    id: Id


class _Visualization(msgspec.Struct):
    query: _Identified | None = None


class _Widget(msgspec.Struct):
    visualization: _Visualization | None = None


class _Dashboard(msgspec.Struct):
    id: Id
    widgets: tuple[_Widget, ...] | None = None


def parse_dashboard_queries(data: bytes, dashboard_id: int) -> frozenset[int]:
    """Return the ids of the queries on this dashboard's object; widgets that its reader may not see name none.

    Raises:
        UpstreamUnusable: it is not the object of this dashboard.
    """
    try:
        dashboard = msgspec.json.decode(data, type=_Dashboard)
    except NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a dashboard object.") from None
    if dashboard.id != dashboard_id:
        raise UpstreamUnusable("Redash's response is the object of another dashboard than the requested one.")
    shown = (widget.visualization for widget in dashboard.widgets or ())
    return frozenset(v.query.id for v in shown if v is not None and v.query is not None)


def parse_id(data: bytes) -> int | None:
    """Return the id of an object, None if it has none."""
    try:
        return msgspec.json.decode(data, type=_Identified).id
    except NOT_SUCH:
        return None

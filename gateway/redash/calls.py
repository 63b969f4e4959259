"""Builds every request to Redash from rows of the route table. Sending it is the work of `gateway.upstream`."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from gateway.redash import routes
from gateway.redash.arguments import encode_arguments
from gateway.redash.downloads import ResultForm
from gateway.redash.json_text import canonical
from gateway.redash.requests import Execute, ExecuteText, Relay
from gateway.redash.routes import Route

DASHBOARDS_A_PAGE: Final = 250
"""The most that Redash gives."""


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request for Redash. `path` is below the organisation's URL."""

    route: Route
    path: str
    query: str = ""
    body: bytes | None = None

    @property
    def method(self) -> str:
        """Return the HTTP method of its route."""
        return self.route.method

    @property
    def target(self) -> str:
        """Return the path with the query string."""
        return f"{self.path}?{self.query}" if self.query else self.path


def session() -> UpstreamRequest:
    """Ask who the credential's user is."""
    return _request(routes.SESSION)


def query(query_id: int) -> UpstreamRequest:
    """Ask for a query object, which holds the definition."""
    return _request(routes.QUERY, query_id=query_id)


def dashboard(dashboard_id: int) -> UpstreamRequest:
    """Ask for a dashboard object, which names the queries of its widgets."""
    return _request(routes.DASHBOARD, dashboard=dashboard_id)


def data_source(source_id: int) -> UpstreamRequest:
    """Ask for a data source, which shows whether it is paused."""
    return _request(routes.DATA_SOURCE, id=source_id)


def dashboard_by_slug(slug: str) -> UpstreamRequest:
    """Ask for a dashboard object by its slug. From version 10 on this takes `legacy`, which 8 and 9 ignore."""
    return _request(routes.DASHBOARD, "legacy", dashboard=slug)


def dashboards(page: int, size: int = DASHBOARDS_A_PAGE) -> UpstreamRequest:
    """Ask for a page of the list of dashboards, from 1 on."""
    return _request(routes.DASHBOARDS, f"page={page}&page_size={size}")


def queries(page: int, size: int) -> UpstreamRequest:
    """Ask for a page of the list of queries, from 1 on."""
    return _request(routes.QUERIES, f"page={page}&page_size={size}")


def data_sources() -> UpstreamRequest:
    """Ask for the list of data sources."""
    return _request(routes.DATA_SOURCES)


def latest_result(query_id: int) -> UpstreamRequest:
    """Ask for the latest result of a query, as JSON."""
    return _request(routes.LATEST, query_id=query_id, form="json")


def result(result_id: int, form: ResultForm, query_id: int | None = None) -> UpstreamRequest:
    """Ask for a result by its id; below the path of its query where `query_id` is given."""
    if query_id is None:
        return _request(routes.RESULT, result_id=result_id, form=form)
    return _request(routes.QUERY_RESULT, query_id=query_id, result_id=result_id, form=form)


def execution(operation: Execute | ExecuteText, max_age: int | None) -> UpstreamRequest:
    """Run the operation, with `max_age` as the gateway decided it; None for any age."""
    query = encode_arguments(operation.arguments)
    if isinstance(operation, ExecuteText):
        return _request(routes.EXECUTE_TEXT, query, _text_body(operation, max_age))
    if operation.refresh:
        return _request(routes.REFRESH, query, b"", query_id=operation.query_id)
    return _request(routes.EXECUTE, query, _execute_body(operation, max_age), query_id=operation.query_id)


def job(job_id: str, query_id: int | None = None) -> UpstreamRequest:
    """Ask how a job stands; below the path of its query where `query_id` is given."""
    if query_id is None:
        return _request(routes.JOB, job_id=job_id)
    return _request(routes.QUERY_JOB, query_id=query_id, job_id=job_id)


def cancellation(job_id: str) -> UpstreamRequest:
    """Cancel a job."""
    return _request(routes.CANCEL, job_id=job_id)


def relayed(route: Route, operation: Relay) -> UpstreamRequest:
    """Forward metadata or a write; its path was built from the same route."""
    return UpstreamRequest(
        route=route, path=operation.path, query=encode_arguments(operation.arguments), body=operation.body
    )


def _request(route: Route, query: str = "", body: bytes | None = None, **parts: object) -> UpstreamRequest:
    return UpstreamRequest(route=route, path=route.template.format_map(parts), query=query, body=body)


def _execute_body(operation: Execute, max_age: int | None) -> bytes:
    members: dict[str, object] = {"max_age": _age(max_age), "parameters": operation.parameters}
    if operation.auto_limit is not None:
        members["apply_auto_limit"] = operation.auto_limit
    return canonical(members, sort=False)


def _text_body(operation: ExecuteText, max_age: int | None) -> bytes:
    head = {"query": operation.text, "data_source_id": operation.data_source_id, "max_age": _age(max_age)}
    return canonical({**head, **operation.rest}, sort=False)


def _age(max_age: int | None) -> int:
    return -1 if max_age is None else math.floor(max_age)

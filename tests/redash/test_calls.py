"""Requests to Redash: each is one that the route table would match again."""

from __future__ import annotations

import json

import pytest

from gateway.redash import calls
from gateway.redash.matching import match
from gateway.redash.requests import Execute, ExecuteText, Relay

JOB_ID = "0a1b2c3d-0000-4000-8000-0123456789ab"
REQUESTS = {
    "GET /api/session": calls.session(),
    "GET /api/queries/7": calls.query(7),
    "GET /api/dashboards/3": calls.dashboard(3),
    "GET /api/queries/7/results.json": calls.latest_result(7),
    "GET /api/query_results/9.csv": calls.result(9, "csv"),
    "GET /api/queries/7/results/9.xlsx": calls.result(9, "xlsx", 7),
    "POST /api/queries/7/results": calls.execution(Execute(7, 60, {"a": 1}, None), 60),
    "POST /api/queries/7/refresh?p_a=1+2": calls.execution(Execute(7, 0, {}, None, True, (("p_a", "1 2"),)), 0),
    "POST /api/query_results?p_a=%26": calls.execution(ExecuteText(1, "select 1", None, {}, (("p_a", "&"),)), None),
    f"GET /api/jobs/{JOB_ID}": calls.job(JOB_ID),
    f"GET /api/queries/7/jobs/{JOB_ID}": calls.job(JOB_ID, 7),
    f"DELETE /api/jobs/{JOB_ID}": calls.cancellation(JOB_ID),
}


@pytest.mark.parametrize("line", REQUESTS)
def test_a_request_has_the_path_of_its_route(line: str) -> None:
    request = REQUESTS[line]
    assert f"{request.method} {request.target}" == line
    assert match(request.method, request.path).route is request.route


def test_a_relayed_request_keeps_route_arguments_and_body() -> None:
    found = match("POST", "/api/queries/7/fork")
    request = calls.relayed(found.route, Relay(found.path(), (("a", "b c"),), b"{}", 7))
    assert (request.method, request.target, request.body) == ("POST", "/api/queries/7/fork?a=b+c", b"{}")
    assert request.route is found.route


@pytest.mark.parametrize(("max_age", "sent"), [(None, -1), (0, 0), (60, 60)])
def test_an_execution_carries_the_max_age_that_the_gateway_decided(max_age: int | None, sent: int) -> None:
    saved = calls.execution(Execute(7, 5, {"a": [1]}, True), max_age)
    assert json.loads(saved.body or b"") == {"max_age": sent, "parameters": {"a": [1]}, "apply_auto_limit": True}
    free = calls.execution(ExecuteText(1, "select 1", 5, {"query_id": 7}), max_age)
    assert json.loads(free.body or b"") == {"query": "select 1", "data_source_id": 1, "max_age": sent, "query_id": 7}


def test_a_refresh_has_an_empty_body() -> None:
    assert calls.execution(Execute(7, 0, {}, None, refresh=True), 0).body == b""

"""The columns of the route table, held against each other."""

from __future__ import annotations

import msgspec
import pytest

from gateway.redash import routes


def test_query_keys_reach_only_paths_below_a_query_and_write_nothing() -> None:
    rows = [route for route in routes.ROUTES if route.query_key]
    assert rows
    assert all("{query_id}" in route.template and route.kind not in ("write", "cancel", "refresh") for route in rows)


def test_only_reads_are_lists() -> None:
    assert {route.method for route in routes.ROUTES if route.lists} == {"GET"}


def test_one_route_redirects() -> None:
    assert [route.template for route in routes.ROUTES if route.redirects] == ["/api/queries/search"]


def test_a_row_with_an_unknown_word_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        list(routes._rows("read metadata GET /api/new surprising"))
    with pytest.raises(msgspec.ValidationError):
        list(routes._rows("read unheard GET /api/new"))

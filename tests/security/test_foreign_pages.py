"""Requests that a foreign web page makes a browser send, tokens in places where nobody expects them, and rates that
count every request of a client (DESIGN 5).
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from .front import Front, Seen, Stub, Upstream, client, credential, query_object, result_object, token

ALL = 'can = ["read", "execute", "adhoc", "write"]'


@pytest.fixture
def redash() -> object:
    def answer(seen: Seen) -> Stub:
        if seen.method == "POST" and "results" in seen.path:
            return Stub.json(result_object(7, 5))
        if "results" in seen.path:
            return Stub.json(result_object(7, 5))
        return Stub.json(query_object(5))

    return answer


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    anonymous = f'[clients.anonymous]\ncredentials = ["user"]\n{ALL}\n'
    server = 'cors_origins = ["https://known.example"]'
    limited = client("limited", 'rate = "3/m"', "burst = 3")
    made.write(credential(tmp_path, "user"), client("one", ALL), limited, anonymous, server=server)
    async with made:
        yield made


def basic(name: str) -> Mapping[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"x:{token(name)}".encode()).decode()}


CHANGING = [
    ("POST", "/api/queries/5/results", b'{"max_age": 0}'),
    ("POST", "/api/query_results", b'{"query": "select 1", "data_source_id": 1}'),
    ("POST", "/api/queries/5/refresh", b""),
    ("POST", "/api/queries/5", b"{}"),
    ("DELETE", "/api/queries/5", b""),
    ("DELETE", "/api/jobs/10f0dede-0a61-455b-ba85-243131c5b36e", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGING)
@pytest.mark.parametrize("who", [None, "one"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "https://known.example:1"])
async def test_a_foreign_origin_changes_and_runs_nothing(
    front: Front, upstream: Upstream, method: str, path: str, body: bytes, who: str | None, origin: str
) -> None:
    # A form of any page can POST text/plain without a preflight, so CORS does not stop it.
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    reply = await front.call(method, path, body, client=who, headers=headers)
    assert reply.status == 403
    assert not upstream.log


async def test_known_origins_and_pages_of_the_gateways_own_host_may(front: Front) -> None:
    own = front.url.replace("127.0.0.1", "localhost")
    host = own.partition("://")[2]
    for headers in (
        {"Origin": "https://known.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": own, "Host": host},
        {},
    ):
        reply = await front.call("POST", "/api/queries/5/results", b"{}", client=None, headers=headers)
        assert reply.status == 200, headers


async def test_reading_from_a_foreign_origin_is_left_to_cors(front: Front) -> None:
    reply = await front.call("GET", "/api/queries/5", client="one", headers={"Origin": "https://evil.example"})
    assert reply.status == 200
    assert "Access-Control-Allow-Origin" not in reply.headers


EXECUTING = ["/api/queries/5/results.json?max_age=0", "/api/queries/5/results.csv?p_x=1"]


@pytest.mark.parametrize("path", EXECUTING)
async def test_an_image_tag_of_a_foreign_page_runs_nothing(front: Front, upstream: Upstream, path: str) -> None:
    """A browser adds what it knows by itself: nothing for `anonymous`, and Basic that was typed in once."""
    cross = {"Sec-Fetch-Site": "cross-site"}
    for headers in (cross, {**cross, **basic("one")}):
        assert (await front.call("GET", path, client=None, headers=headers)).status == 403
    assert not upstream.log


async def test_who_brings_a_token_of_its_own_or_comes_from_here_may_run(front: Front) -> None:
    path = EXECUTING[0]
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert (await front.call("GET", path, client="one", headers=cross)).status == 200
    assert (await front.call("GET", path, client=None, headers={"Sec-Fetch-Site": "same-origin"})).status == 200
    assert (await front.call("GET", path, client=None, headers={"Sec-Fetch-Site": "none"})).status == 200
    assert (await front.call("GET", path, client=None, headers=basic("one"))).status == 200
    known = {**cross, "Origin": "https://known.example"}
    assert (await front.call("GET", path, client=None, headers=known)).status == 200
    assert (await front.call("GET", "/api/queries/5", client=None, headers=cross)).status == 200  # runs nothing


# -- tokens in arguments


@pytest.mark.parametrize(
    "argument",
    ["{}", "{}=1", "x={}", "x=Bearer+{}", "x=%2Fpage%3Fapi_key%3D{}", "x=a,{},b", "x%5B{}%5D=1", "x=a{}", "x={}b"],
)
async def test_no_argument_takes_a_token_to_redash(front: Front, upstream: Upstream, argument: str) -> None:
    path = f"/api/queries?page=2&{argument.format(token('one'))}&page_size=20"
    assert (await front.call("GET", path, client="limited")).status == 200
    (seen,) = upstream.log
    assert seen.query == "page=2&page_size=20"


# -- rates


@pytest.mark.parametrize("path", ["/api/none", "/none", "/api/queries/x", "/api/queries/5/results/", "/"])
async def test_unknown_routes_count_against_the_rate(front: Front, path: str) -> None:
    statuses = [(await front.call("GET", path, client="limited")).status for _ in range(5)]
    assert statuses == [404, 404, 404, 429, 429]
    assert (await front.call("GET", "/api/session", client="limited")).status == 429


async def test_other_methods_count_against_the_rate(front: Front) -> None:
    statuses = [(await front.call("PUT", "/api/queries/5", client="limited")).status for _ in range(4)]
    assert statuses == [405, 405, 405, 429]


async def test_an_unknown_route_is_404_without_a_good_token(front: Front) -> None:
    bad = {"Authorization": "Key rg_wrong"}
    for headers in ({}, bad):
        assert (await front.call("GET", "/api/none", client=None, headers=headers)).status == 404

"""Pages, redirects and error texts of Redash itself, of every version, and those of anything else before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from security.front import Front, Responder, Seen, Stub, Upstream, client, credential, query_object
from support.http import Reply
from support.world import World

HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = b"<!doctype html><html><body>stub</body></html>"
PROBLEM = "application/problem+json"


class Fake:
    """Gives one response to everything but definitions."""

    def __init__(self) -> None:
        self.stub = Stub()

    def __call__(self, seen: Seen) -> Stub:
        if seen.method == "GET" and seen.path == "/api/queries/5":
            return Stub.json(query_object(5))
        return self.stub


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
async def upstream(fake: Responder) -> AsyncIterator[Upstream]:
    async with Upstream(fake) as made:
        yield made


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    made.write(credential(tmp_path, "user"), client("all", 'can = ["read", "execute", "adhoc", "write", "admin"]'))
    async with made:
        yield made


# -- the redirect of the old search


def host(upstream: Upstream) -> str:
    return upstream.url.partition("://")[2]


GOOD = [
    "/api/queries?q=a+b&drafts=false",
    "/default/api/queries?q=a+b&org_slug=default&drafts=false",
    "http://{host}/api/queries?q=a+b&org_slug=default&drafts=false",
    "http://{host}/acme/api/queries?q=a+b&drafts=false",
    "https://{host}/api/queries?q=a+b&drafts=false",
    "http://{host}/api/queries?q=a+b&api_key=x&drafts=false#part",
]
BAD = [
    "http://evil.example/api/queries?q=a",
    "//evil.example/api/queries?q=a",
    "http://{host}.evil.example/api/queries?q=a",
    "http://{host}@evil.example/api/queries?q=a",
    "http://user@{host}/api/queries?q=a",
    "http://127.0.0.1:1/api/queries?q=a",
    "ftp://{host}/api/queries?q=a",
    "http://{host}/api/users?q=a",
    "http://{host}/a/b/api/queries?q=a",
    "http://{host}/login?next=/api/queries",
    "/api/queries/5?q=a",
    "/api/queries/../users?q=a",
    "http://[/api/queries?q=a",
    "/api/queries?q=%ff",
    "",
]


async def search(front: Front, fake: Fake, location: str, status: int = 301) -> Reply:
    fake.stub = Stub(status, b"{}", {"Content-Type": "application/json", "Location": location})
    return await front.call("GET", "/api/queries/search?q=a", client="all")


@pytest.mark.parametrize("location", GOOD)
async def test_only_its_arguments_are_taken(front: Front, fake: Fake, upstream: Upstream, location: str) -> None:
    reply = await search(front, fake, location.format(host=host(upstream)))
    assert reply.status == 301, reply.body
    assert reply.headers["Location"] == "../queries?q=a+b&drafts=false"


@pytest.mark.parametrize("location", BAD)
async def test_other_hosts_and_paths_are_refused(front: Front, fake: Fake, upstream: Upstream, location: str) -> None:
    reply = await search(front, fake, location.format(host=host(upstream)))
    assert reply.status == 502, reply.headers.get("Location")
    assert "Location" not in reply.headers
    assert b"evil" not in reply.body


@pytest.mark.parametrize("status", [302, 303, 307, 308])
async def test_other_redirects_are_refused(front: Front, fake: Fake, status: int) -> None:
    assert (await search(front, fake, GOOD[0], status)).status == 502


@pytest.mark.parametrize("path", ["/api/queries", "/api/session", "/api/queries/5/results.json", "/api/users"])
async def test_no_other_route_redirects(front: Front, fake: Fake, path: str) -> None:
    fake.stub = Stub(301, b"{}", {"Content-Type": "application/json", "Location": GOOD[0]})
    assert (await front.call("GET", path, client="all")).status == 502


# -- pages


def in_own_words(reply: Reply, status: int) -> bool:
    said = reply.json
    return (reply.status, reply.headers["Content-Type"], said["status"], said["message"]) == (
        status,
        PROBLEM,
        status,
        said["detail"],
    ) and "<" not in said["detail"]


@pytest.mark.parametrize(
    ("method", "path", "theirs", "ours"),
    [
        ("POST", "/api/dashboards/1/fork", 405, 405),
        ("POST", "/api/alerts/1/mute", 405, 405),
        ("POST", "/api/queries/5/results", 405, 405),
        ("GET", "/api/admin/queries/outdated", 403, 403),
        ("GET", "/api/admin/queries/rq_status", 403, 403),
        ("GET", "/api/admin/queries/rq_status", 200, 404),
        ("GET", "/api/databricks/databases/1", 200, 404),
        # A proxy's page, as far as anybody can say: it refuses no query and shows that no route is missing.
        ("GET", "/api/queries", 200, 502),
        ("GET", "/api/session", 200, 502),
        ("GET", "/api/queries", 403, 502),
        ("GET", "/api/queries", 404, 502),
        ("GET", "/api/queries/5/results.json", 404, 502),
        ("POST", "/api/queries/5/results", 403, 502),
        ("GET", "/api/admin/queries/rq_status", 404, 502),
        ("GET", "/api/admin/queries/rq_status", 500, 502),
    ],
)
async def test_a_page_is_passed_on_as_its_status(
    front: Front, fake: Fake, method: str, path: str, theirs: int, ours: int
) -> None:
    fake.stub = Stub(theirs, PAGE, HTML)
    reply = await front.call(method, path, b"{}" if method == "POST" else None, client="all")
    assert in_own_words(reply, ours), (reply.status, reply.body)
    assert b"stub" not in reply.body


async def test_a_page_closes_no_query(front: Front, fake: Fake, upstream: Upstream) -> None:
    """A proxy may answer anything; only Redash's own refusal may drop what is stored."""
    fake.stub = Stub.json({"message": "none"}, 404)
    assert (await front.call("GET", "/api/queries/5", client="all")).status == 200
    upstream.respond = lambda seen: Stub(405, PAGE, HTML)
    front.clock.turn(61)
    assert (await front.call("GET", "/api/queries/5/results.json", client="all")).status == 405
    upstream.respond = fake
    assert (await front.call("GET", "/api/queries/5", client="all")).status == 200


# -- routes that a version lacks


LACKING = {
    "8": {
        ("POST", "/api/dashboards/1/fork"): 405,
        ("POST", "/api/alerts/1/mute"): 405,
        ("POST", "/api/alerts/1/eval"): 405,
        ("GET", "/api/dashboards/my"): 404,
        ("GET", "/api/admin/queries/rq_status"): 404,
        ("GET", "/api/dashboards/1"): 404,
    },
    "10": {("POST", "/api/dashboards/1/fork"): 405, ("POST", "/api/alerts/1/eval"): 405},
}


@pytest.mark.parametrize("redash_version", sorted(LACKING))
async def test_what_a_version_lacks_is_404_or_405(bare: World, redash_version: str) -> None:
    await bare.start(second='can = ["read", "execute", "write", "admin"]')
    for (method, path), status in LACKING[redash_version].items():
        reply = await bare.call(method, path, b"{}" if method == "POST" else None, client="second")
        assert reply.status == status, (path, reply.status, reply.body)
        assert b"<html" not in reply.body
        assert reply.json["message"]


# -- texts


@pytest.mark.parametrize("redash_version", ["8", "10", "26"])
async def test_no_error_text_has_the_path_of_the_gateways_request(bare: World, redash_version: str) -> None:
    # Redash 8 adds "You have requested this URI […] but did you mean …" to its 404.
    await bare.start()
    never = bare.sandbox.add_query("never", "select 1")
    absent = ("/api/query_results/99.csv", "/api/queries/999", "/api/alerts/99", "/api/dashboards/99")
    for path in (f"/api/queries/{never}/results.json", *absent):
        reply = await bare.get(path)
        assert reply.status == 404, path
        assert b"URI" not in reply.body
        assert b"/api/" not in reply.body
        assert reply.json["message"].endswith((".", "again."))


@pytest.mark.parametrize("redash_version", ["8", "10", "25", "26"])
async def test_a_rejected_key_is_recognised_in_every_version(bare: World, redash_version: str) -> None:
    await bare.start()
    bare.sandbox.faults.add("reject_keys")
    for path in ("/api/session", f"/api/queries/{bare.named['by_country']}/results.json", "/api/queries"):
        reply = await bare.get(path)
        assert (reply.status, b"does not accept the key" in reply.body) == (502, True), (path, reply.body)
    assert await bare.metric("redash_gateway_credential_up", credential="analyst") == 0


@pytest.mark.parametrize(
    "body",
    [
        b'{"message": "Couldn\'t find resource. Please login and try again."}',
        b'{"message":"Couldn\'t find resource. Please login and try again."}\n',
        b'{\n  "message": "Couldn\'t find resource. Please login and try again."\n}\n',
        b'{"message": "Couldn\'t find resource. Please login and try again. You have requested this URI [/api/session] '
        b'but did you mean /api/session or /api/alerts ?"}',
    ],
)
async def test_a_rejected_key_is_recognised_however_it_is_written(front: Front, fake: Fake, body: bytes) -> None:
    fake.stub = Stub(404, body)
    reply = await front.call("GET", "/api/session", client="all")
    assert (reply.status, b"does not accept the key" in reply.body) == (502, True)


@pytest.mark.parametrize(("redash_version", "status"), [("8", 500), ("10", 500), ("26", 401)])
async def test_a_query_without_source_is_refused_as_the_version_refuses_it(
    bare: World, redash_version: str, status: int
) -> None:
    await bare.start()
    query = bare.sandbox.add_query("nowhere", "select 1", data_source_id=None)
    reply = await bare.post(query, client="writer", max_age=0, wait=5)
    assert reply.status == status, reply.body
    # One request that fails is no outage: others go on.
    assert (await bare.post("by_country", client="writer", max_age=0, wait=5)).status == 200


@pytest.mark.parametrize(("redash_version", "status"), [("8", 500), ("10", 500), ("26", 400)])
async def test_a_dropdown_that_never_ran_is_refused_as_the_version_refuses_it(
    bare: World, redash_version: str, status: int
) -> None:
    await bare.start()
    source = bare.sandbox.add_query("options", "select 1 as value")
    listed = {"name": "c", "title": "c", "type": "query", "queryId": source, "value": None}
    query = bare.sandbox.add_query("chosen", "select '{{c}}' as c", parameters=[listed])
    reply = await bare.post(query, client="writer", max_age=0, parameters={"c": "x"}, wait=5)
    assert reply.status == status, reply.body
    assert reply.json["message"]
    assert (await bare.post("by_country", client="writer", max_age=0, wait=5)).status == 200

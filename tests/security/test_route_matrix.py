"""Every route × method × capability × binding, before an upstream that would send anything to any client."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.redash.routes import ROUTES

from .front import Front, Responder, Seen, Stub, Upstream, client, credential, query_object, result_object, token
from .wire import ask

RECORDED = Path(__file__).parent.parent / "recorded"

CAPABILITIES = ("read", "execute", "adhoc", "purge", "write", "admin")

# Written from DESIGN 4 and CONTRACT, not from the gateway's table. In front of the routes: what serves them.
#   run    Redash, unless the store has it          result  Redash, or 404 for a bound client that never saw the id
#   job    the gateway's ledger: 404 without a job  list    Redash, never for a bound client
#   query  Redash, if the client may use the query  board   Redash, if the client may see the dashboard
#   events as query, from the store                 own     the gateway, within the client's scopes and queries
# plain  Redash, for every client with the capability
TABLE = {
    "read": """
        query  GET    /api/queries/{q}/results
        query  GET    /api/queries/{q}/results.{form}
        events GET    /api/queries/{q}/results/events
        result GET    /api/queries/{q}/results/{r}.{form}
        result GET    /api/query_results/{r}
        result GET    /api/query_results/{r}.{form}
        job    GET    /api/jobs/{j}
        job    GET    /api/queries/{q}/jobs/{j}
        query  GET    /api/queries/{q}
        query  GET    /api/queries/{q}/dropdown
        query  GET    /api/queries/{q}/dropdowns/{n}
        board  GET    /api/dashboards/{d}
        list   GET    /api/dashboards/public/{t}
        list   GET    /api/queries
        list   GET    /api/queries/my
        list   GET    /api/queries/recent
        list   GET    /api/queries/favorites
        list   GET    /api/queries/archive
        list   GET    /api/queries/search
        list   GET    /api/queries/tags
        list   GET    /api/dashboards
        list   GET    /api/dashboards/my
        list   GET    /api/dashboards/favorites
        list   GET    /api/dashboards/tags
        list   GET    /api/data_sources
        list   GET    /api/data_sources/{n}
        list   GET    /api/data_sources/{n}/schema
        list   GET    /api/databricks/databases/{n}
        list   GET    /api/databricks/databases/{n}/{w}/tables
        list   GET    /api/databricks/databases/{n}/{w}/columns/{w}
        list   GET    /api/query_snippets
        list   GET    /api/query_snippets/{n}
        list   GET    /api/alerts
        list   GET    /api/alerts/{n}
        list   GET    /api/alerts/{n}/subscriptions
        plain  GET    /api/session
        plain  GET    /api/data_sources/types
        plain  GET    /api/organization/status
    """,
    "execute": """
        board  GET    /api/dashboards/{d}/results
        board  GET    /api/dashboards/{d}/results.ndjson
        board  POST   /api/dashboards/{d}/refresh
        query  POST   /api/queries/{q}/results
        query  POST   /api/queries/{q}/refresh
        job    DELETE /api/jobs/{j}
        job    DELETE /api/queries/{q}/jobs/{j}
    """,
    "adhoc": "run POST /api/query_results",
    "purge": "own POST /gateway/purge",
    "write": """
        plain  POST   /api/queries
        plain  POST   /api/queries/format
        plain  POST   /api/queries/{q}
        plain  DELETE /api/queries/{q}
        plain  POST   /api/queries/{q}/fork
        plain  POST   /api/queries/{q}/favorite
        plain  DELETE /api/queries/{q}/favorite
        plain  POST   /api/dashboards
        plain  POST   /api/dashboards/{d}
        plain  DELETE /api/dashboards/{d}
        plain  POST   /api/dashboards/{d}/fork
        plain  POST   /api/dashboards/{d}/favorite
        plain  DELETE /api/dashboards/{d}/favorite
        plain  POST   /api/dashboards/{d}/share
        plain  DELETE /api/dashboards/{d}/share
        plain  POST   /api/widgets
        plain  POST   /api/widgets/{n}
        plain  DELETE /api/widgets/{n}
        plain  POST   /api/visualizations
        plain  POST   /api/visualizations/{n}
        plain  DELETE /api/visualizations/{n}
        plain  POST   /api/alerts
        plain  POST   /api/alerts/{n}
        plain  DELETE /api/alerts/{n}
        plain  POST   /api/alerts/{n}/mute
        plain  DELETE /api/alerts/{n}/mute
        plain  POST   /api/alerts/{n}/eval
        plain  POST   /api/alerts/{n}/subscriptions
        plain  DELETE /api/alerts/{n}/subscriptions/{m}
        plain  POST   /api/query_snippets
        plain  POST   /api/query_snippets/{n}
        plain  DELETE /api/query_snippets/{n}
    """,
    "admin": """
        plain  POST   /api/queries/{q}/regenerate_api_key
        plain  GET    /api/queries/{q}/acl
        plain  POST   /api/queries/{q}/acl
        plain  DELETE /api/queries/{q}/acl
        plain  GET    /api/queries/{q}/acl/{w}
        plain  GET    /api/dashboards/{d}/acl
        plain  POST   /api/dashboards/{d}/acl
        plain  DELETE /api/dashboards/{d}/acl
        plain  GET    /api/dashboards/{d}/acl/{w}
        plain  GET    /api/users
        plain  POST   /api/users
        plain  GET    /api/users/{n}
        plain  POST   /api/users/{n}
        plain  DELETE /api/users/{n}
        plain  POST   /api/users/{n}/invite
        plain  POST   /api/users/{n}/reset_password
        plain  POST   /api/users/{n}/regenerate_api_key
        plain  POST   /api/users/{n}/disable
        plain  DELETE /api/users/{n}/disable
        plain  GET    /api/admin/queries/outdated
        plain  GET    /api/admin/queries/rq_status
        plain  POST   /api/data_sources
        plain  POST   /api/data_sources/{n}
        plain  DELETE /api/data_sources/{n}
        plain  POST   /api/data_sources/{n}/pause
        plain  DELETE /api/data_sources/{n}/pause
        plain  POST   /api/data_sources/{n}/test
        plain  GET    /api/groups
        plain  POST   /api/groups
        plain  GET    /api/groups/{n}
        plain  POST   /api/groups/{n}
        plain  DELETE /api/groups/{n}
        plain  GET    /api/groups/{n}/members
        plain  POST   /api/groups/{n}/members
        plain  DELETE /api/groups/{n}/members/{m}
        plain  GET    /api/groups/{n}/data_sources
        plain  POST   /api/groups/{n}/data_sources
        plain  POST   /api/groups/{n}/data_sources/{m}
        plain  DELETE /api/groups/{n}/data_sources/{m}
        plain  GET    /api/destinations
        plain  POST   /api/destinations
        plain  GET    /api/destinations/types
        plain  GET    /api/destinations/{n}
        plain  POST   /api/destinations/{n}
        plain  DELETE /api/destinations/{n}
        plain  GET    /api/settings/organization
        plain  POST   /api/settings/organization
        plain  GET    /api/events
        plain  POST   /api/events
    """,
}
ROWS = [(capability, *line.split()) for capability, lines in TABLE.items() for line in lines.strip().splitlines()]
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND")

JOB = "10f0dede-0a61-455b-ba85-243131c5b36e"
OPEN_QUERY, ON_BOARD, CLOSED_QUERY = 11, 12, 13
OPEN_BOARD, CLOSED_BOARD = 3, 4

# client → (capabilities, queries it may use, dashboards it may see); None: not bound
CLIENTS: dict[str, tuple[set[str], set[int] | None, set[int]]] = {
    **{f"only-{word}": ({word}, None, set()) for word in CAPABILITIES},
    "plain": ({"read", "execute"}, None, set()),
    "every": (set(CAPABILITIES), None, set()),
    "q-read": ({"read"}, {OPEN_QUERY}, set()),
    "q-execute": ({"execute"}, {OPEN_QUERY}, set()),
    "q-both": ({"read", "execute"}, {OPEN_QUERY}, set()),
    "d-read": ({"read"}, {ON_BOARD}, {OPEN_BOARD}),
    "d-both": ({"read", "execute"}, {ON_BOARD}, {OPEN_BOARD}),
}


def obliging(seen: Seen) -> Stub:
    """A Redash without permissions: it responds 200 with sensible JSON to everything."""
    path = seen.path
    if path == f"/api/dashboards/{OPEN_BOARD}" or (
        path.startswith("/api/dashboards/") and path.endswith(str(CLOSED_BOARD))
    ):
        board = int(path.rsplit("/", 1)[1])
        on_it = ON_BOARD if board == OPEN_BOARD else CLOSED_QUERY
        return Stub.json({"id": board, "widgets": [{"id": 1, "visualization": {"query": query_object(on_it)}}]})
    if found := re.fullmatch(r"/api/queries/(\d+)", path):
        dropdown = {"parameters": [{"name": "x", "type": "query", "queryId": 5}]}
        return Stub.json(query_object(int(found[1]), latest_query_data_id=700 + int(found[1]), options=dropdown))
    if found := re.match(r"/api/(?:queries/(\d+)/results/(\d+)|query_results/(\d+))", path):
        return Stub.json(result_object(int(found[2] or found[3]), int(found[1] or 1)))
    if found := re.match(r"/api/queries/(\d+)/re(?:sults|fresh)", path):
        return Stub.json(result_object(700 + int(found[1]), int(found[1])))
    if path == "/api/query_results":
        result = result_object(799, 1)
        result["query_result"] = {**dict(result["query_result"]), "query": "select 1"}  # type: ignore[call-overload]
        return Stub.json(result)
    return Stub.json({"id": 1})


@pytest.fixture
def redash() -> Responder:
    return obliging


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    tables = []
    for name, (can, queries, boards) in CLIENTS.items():
        lines = [f"can = {json.dumps(sorted(can))}"]
        lines += [f"queries = {sorted(queries)}"] if queries is not None and not boards else []
        lines += [f"dashboards = {sorted(boards)}"] if boards else []
        tables.append(client(name, *lines))
    made.write(credential(tmp_path, "user"), *tables, cache='metadata_ttl = "0s"')
    async with made:
        yield made


def filled(template: str, *, query: int, board: int, result: int = 7_777) -> str:
    values = {
        "q": query,
        "d": board,
        "r": result,
        "n": 5,
        "m": 6,
        "j": JOB,
        "t": "t" * 40,
        "w": "modify",
        "form": "json",
    }
    return template.format_map(values)


def expected(name: str, capability: str, kind: str, template: str, query: int, board: int) -> int:
    """The status."""
    can, queries, boards = CLIENTS[name]
    if capability not in can:
        return 403
    if kind == "job":
        return 404
    if queries is None or kind in ("plain", "own"):
        return 200
    if kind == "list":
        return 403
    if kind == "board":
        return 200 if board in boards else 403
    if kind == "result":  # an id that no response to this client has shown
        return 404 if "{q}" not in template or query in queries else 403
    return 200 if query in queries else 403


def cases() -> Iterator[tuple[str, str, str, str, str, int, int]]:
    """Client, capability, kind, method, template, query and dashboard of every request of the matrix."""
    for capability, kind, method, template in ROWS:
        heads = ("HEAD",) if kind == "events" else ("GET", "HEAD")  # a GET of events has no end
        for word in heads if method == "GET" else (method,):
            for name, (_, queries, _) in CLIENTS.items():
                bound = [(OPEN_QUERY, OPEN_BOARD), (ON_BOARD, OPEN_BOARD), (CLOSED_QUERY, CLOSED_BOARD)]
                targets = bound[:1] if queries is None else bound
                for query, board in targets if "{q}" in template or "{d}" in template else targets[:1]:
                    yield name, capability, kind, word, template, query, board


async def test_the_matrix_of_routes_methods_capabilities_and_bindings(front: Front, upstream: Upstream) -> None:
    wrong, counted, names = [], Counter[int](), list(CLIENTS)
    for name, capability, kind, method, template, query, board in cases():
        # A result id of each client's own: one that another client has shown to be the query's is known (DESIGN 5).
        path = filled(template, query=query, board=board, result=7_000 + names.index(name))
        body = {"query": "select 1", "data_source_id": 1} if method == "POST" else None
        body = {"tag": "sales"} if kind == "own" else body
        reply = await front.call(method, path, body, client=name)
        status = expected(name, capability, kind, template, query, board)
        # What a dashboard's client may use is read from that dashboard, so this request may come first.
        read_first = {f"/api/dashboards/{b}" for b in CLIENTS[name][2]} if capability in CLIENTS[name][0] else set()
        reached = [seen.path for seen in upstream.drain() if seen.path not in read_first]
        counted[reply.status] += 1
        if reply.status != status:
            wrong.append(f"{name} {method} {path}: {reply.status}, expected {status}")
        if reply.status >= 400 and reached:
            wrong.append(f"{name} {method} {path}: refused with {reply.status}, yet {reached} reached Redash")
        if reply.status == 200 and reached == [] and kind not in ("query", "events", "result", "board", "run", "own"):
            wrong.append(f"{name} {method} {path}: nothing reached Redash")
    assert not wrong, "\n".join(wrong)
    assert counted[200] > 300
    assert counted[403] > 700


def plain_name(template: str) -> str:
    return re.sub(r"\{\w+\}", "{}", template)


def test_the_gateways_table_names_the_same_routes() -> None:
    ours = {(method, plain_name(template)): capability for capability, _, method, template in ROWS}
    theirs = {(r.method, plain_name(r.template)): r.capability for r in ROUTES if r.kind != "ping"}
    assert sorted(theirs.items() - ours.items()) == [], "give them their row in TABLE above"
    assert sorted(ours.items() - theirs.items()) == [], "gateway/redash/routes.py has not these rows of TABLE"
    assert len(ROUTES) == len(ROWS) + 1


async def test_every_other_method_is_405(front: Front, upstream: Upstream) -> None:
    by_path: dict[str, set[str]] = {}
    for _, _, method, template in ROWS:
        allowed = by_path.setdefault(filled(template, query=OPEN_QUERY, board=OPEN_BOARD), set())
        allowed |= {method, "HEAD"} if method == "GET" else {method}
    for path, allowed in by_path.items():
        for method in METHODS:
            if method not in allowed:
                reply = await front.call(method, path, client="every")
                assert reply.status == 405, (method, path, reply.status)
                assert {word.strip() for word in reply.headers["Allow"].split(",")} == allowed
    assert upstream.log == []


UNKNOWN = [
    "/",
    "/api",
    "/api/",
    "/api/nothing",
    "/api/queries/",
    "/api/queries/11/",
    "/api/queries/11/nothing",
    "/api/queries/11/results/7",
    "/api/queries/11/results.",
    "/api/queries/11/results.pdf",
    "/api/queries/11/results.JSON",
    "/api/queries/11/results.json/",
    "/api/queries/11/results/7.pdf",
    "/api/query_results/",
    "/api/query_results/7.",
    "/api/query_results/7.bogus",
    "/api/jobs",
    "/api/jobs/",
    "/api/jobs/abc",
    "/api/jobs/10F0DEDE-0A61-455B-BA85-243131C5B36E",
    "/api/jobs/10f0dede0a61455bba85243131c5b36e",
    "/api/queries/011",
    "/api/queries/+11",
    "/api/queries/0",
    "/api/queries/-1",
    "/api/queries/11.0",
    "/api/queries/1e1",
    "/api/queries/11_",
    "/api/queries/1234567890123456789",
    "/API/queries/11",
    "/api/Queries/11",
    "/api/queries/11/RESULTS",
    "/api/queries/11/acl/Modify",
    "/api/dashboards/3-sales/acl/",
    "/api/dashboards/public",
    "/api/dashboards/public/short",
    "/api/users/me",
    "/api/config",
    "/status.json",
    "/login",
    "/logout",
    "/setup",
    "/static/x.js",
    "/embed/query/11/visualization/1",
    "/public/dashboards/x",
    "/queries/11",
    "/oauth/google",
    "/saml/login",
    "/ldap/login",
    "/remote_user/login",
    "/invite/x",
    "/reset/x",
    "/verify/x",
    "/api/organization",
    "/Ping",
    "/ping/",
    "/metrics",
    "/livez",
    "/readyz",
    "/purge",
    "/reload",
    "/api/status",
    "/default/api/queries/11",
    "/acme/api/queries/11",
]


async def test_paths_without_a_route_are_404(front: Front, upstream: Upstream) -> None:
    # Redash responds to unknown API paths with 200 and an HTML page (CONTRACT 3).
    for path in UNKNOWN:
        for method in ("GET", "POST", "DELETE", "HEAD"):
            for who in ("every", None):
                reply = await front.call(method, path, client=who)
                assert reply.status == 404, (method, path, who)
    assert upstream.log == []


async def test_ping_is_served_here_without_a_token(front: Front, upstream: Upstream) -> None:
    for who in (None, "only-write", "q-read"):
        reply = await front.call("GET", "/ping", client=who)
        assert (reply.status, reply.body) == (200, b"PONG.")
    assert (await front.call("HEAD", "/ping", client=None)).status == 200
    assert (await front.call("POST", "/ping", client="every")).status == 405
    assert upstream.log == []


async def test_without_a_known_token_every_route_is_401(front: Front, upstream: Upstream) -> None:
    texts = set()
    for _, _, method, template in ROWS:
        path = filled(template, query=OPEN_QUERY, board=OPEN_BOARD)
        for headers in ({}, {"Authorization": "Key rg_unknown"}, {"Cookie": "session=x"}):
            reply = await front.call(method, path, client=None, headers=headers)
            assert reply.status == 401, (method, path)
            texts.add(reply.json["detail"])
        assert (await front.call(method, f"{path}?api_key=rg_unknown", client=None)).status == 401
    assert len(texts) == 1  # guessing reveals nothing
    assert upstream.log == []


# Targets of the recorded exchanges that are not routes of the gateway, with the reason.
NOT_NAMED = {
    r"/api/config": "the front-end's own settings, without login; no API client asks for it",
    r"/api/nonsense": "unknown to Redash as well, which shows its front-end page",
    r"/api/jobs/?": "no such list in Redash: front-end page",
    r"/api/jobs/abc": "no id that Redash gives: its 500",
    r"/api/queries/(abc|\d+\.0|\d{19,}|0)(/results(\.json)?)?": "ids that are none: Redash's 500 or 404",
    r"/api/queries/\d+/results\.(json/|bogus|)": "no file type: front-end page or 500",
    r"/api/queries/\d+/(results|dropdowns)/(\d+|abc|abc\.json)": "no such route, or an id that is none",
    r"/api/query_results/(abc\.json|\d+\.bogus)": "an id or a file type that is none: 500",
    r"/api/queries/\d+/": "trailing slash: front-end page",
    r"/api/dashboards/public/(DASHBOARD_TOKEN_\w+|QUERY_KEY_1|USER_KEY_ANALYST|whatever)": "names of the recording",
    r".*(%|//|;|\\|/\.\.?/|/\+|/0\d).*": "aliases, refused (CONTRACT 20.3)",
}
METHODS_NOT_NAMED = {
    ("PUT", "/api/queries/{}"),
    ("PUT", "/api/queries/{}/results"),
    ("DELETE", "/api/query_results/{}"),
    ("OPTIONS", "/api/queries/{}"),
    ("OPTIONS", "/api/queries/{}/results.{}"),
    ("OPTIONS", "/api/query_results"),
    ("POST", "/api/queries/{}/results/{}.{}"),
    ("GET", "/api/visualizations/{}"),
    ("GET", "/api/query_results"),
    ("get", "/api/queries/{}"),
}
"""Redash responds to these with 405, 500, its own CORS or a front-end page; here they are 405."""


def test_every_recorded_api_route_is_named() -> None:
    values = {
        "{q}": r"\d{1,18}",
        "{r}": r"\d+",
        "{n}": r"\d+",
        "{m}": r"\d+",
        "{j}": r"[0-9a-f-]{36}",
        "{t}": "[a-zA-Z0-9]{40}",
        "{d}": "[a-z0-9_-]+",
        "{w}": "[a-z_]+",
        "{form}": "(json|csv|tsv|xlsx|ndjson|parquet|arrow|html)",
    }
    patterns = []
    for _, _, method, template in ROWS:
        regex = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
        for part, pattern in values.items():
            regex = regex.replace(part, pattern)
        patterns.append((method, template, re.compile(regex)))
    unnamed, used, total = [], set(), 0
    for file in sorted(RECORDED.rglob("*.json")):
        recorded = json.loads(file.read_text())
        if "request" not in recorded or not recorded["request"]["path"].startswith("/api/"):
            continue
        total += 1
        method, path = recorded["request"]["method"], recorded["request"]["path"]
        reasons = [pattern for pattern in NOT_NAMED if re.fullmatch(pattern, path)]
        used |= set(reasons)
        fits = [(m, template) for m, template, regex in patterns if regex.fullmatch(path)]
        if reasons or (method.replace("HEAD", "GET") in {m for m, _ in fits}):
            continue
        if not any((method, plain_name(template)) in METHODS_NOT_NAMED for _, template in fits):
            unnamed.append(f"{file.stem}: {method} {path}")
    assert unnamed == []
    assert used == set(NOT_NAMED)
    assert total > 500


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("path", ["/api/data_sources/5", "/api/destinations/5", "/api/users/5"])
async def test_every_2xx_of_a_write_passes(front: Front, upstream: Upstream, path: str, status: int) -> None:
    # DELETE of data sources and destinations is 204 without a body (CONTRACT 25.1): an error would hide what was done.
    upstream.respond = lambda seen: Stub(status, b"", {"Content-Type": "text/html; charset=utf-8"})
    got = (await ask(front.url, raw("DELETE", path, "every")))[0]
    assert (got.status, got.body) == (status, b"")
    upstream.respond = lambda seen: Stub.json({"id": 5}, status if status != 204 else 200)
    got = (await ask(front.url, raw("DELETE", path, "every")))[0]
    assert (got.status, json.loads(got.body)) == (status if status != 204 else 200, {"id": 5})


@pytest.mark.parametrize(
    ("path", "wrapped"),
    [
        ("/api/data_sources/3/schema", True),
        ("/api/databricks/databases/3", False),
        ("/api/databricks/databases/3/main/columns/orders", False),
    ],
)
async def test_redashs_own_jobs_are_followed(front: Front, upstream: Upstream, path: str, wrapped: bool) -> None:
    # Their ids lead nowhere here. Without a job, Redash wraps a schema, but not the lists of Databricks.
    def respond(seen: Seen) -> Stub:
        ended = "/api/jobs/" in seen.path
        job = {"id": JOB, "status": 3 if ended else 1, "error": "", "query_result_id": ["a", "b"] if ended else None}
        return Stub.json({"job": {**job, "result": job["query_result_id"], "updated_at": 0}})

    upstream.respond = respond
    got = (await ask(front.url, raw("GET", path, "every")))[0]
    assert (got.status, json.loads(got.body)) == (200, {"schema": ["a", "b"]} if wrapped else ["a", "b"])


async def test_a_read_is_200_or_an_error(front: Front, upstream: Upstream) -> None:
    # A proxy that transforms says 203, and an empty 204 is no list of users.
    for status in (201, 203, 204):
        upstream.respond = lambda seen, status=status: Stub(status, b"")  # type: ignore[misc]
        assert (await ask(front.url, raw("GET", "/api/users", "every")))[0].status == 502


def raw(method: str, path: str, name: str) -> bytes:
    fields = f"Host: localhost\r\nAuthorization: Key {token(name)}\r\nConnection: close"
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode()

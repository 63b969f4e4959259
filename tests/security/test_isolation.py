"""No client ever sees a byte of a response that was made for another scope, whatever the others send meanwhile.

The upstream writes the credential of the request, the query and a nonce into every response, refusals and errors too.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.length import TIMES

from .front import Front, Seen, Stub, Upstream, client, credential, key, query_object, result_object

# client → its credentials, and the queries that it may see (None: all)
CLIENTS: dict[str, tuple[set[str], set[int] | None]] = {
    "a": ({"alice"}, None),
    "a-again": ({"alice"}, None),
    "a-bound": ({"alice"}, {1}),
    "a-board": ({"alice"}, {2}),
    "b": ({"bob"}, None),
    "b-bound": ({"bob"}, {1, 2}),
    "k1": ({"key1"}, {1}),
    "mixed": ({"key1", "bob"}, None),
}
MARK = re.compile(rb"<(\w+)\|(\d+)\|\d+>")
QUERIES = (1, 2, 3)
BOARD = 9


def tables(directory: Path) -> list[str]:
    found = [credential(directory, "alice"), credential(directory, "bob"), credential(directory, "key1", query=1)]
    credentials = {"k1": '"query"', "mixed": '"query", "bob"'}
    for name, (who, queries) in CLIENTS.items():
        lines = [] if queries is None or name == "a-board" else [f"queries = {sorted(queries)}"]
        lines += [f"dashboards = [{BOARD}]"] if name == "a-board" else []
        lines += ['can = ["read", "execute", "adhoc", "write"]'] if queries is None else []
        found.append(client(name, *lines, "text_parameters = true", credentials=credentials.get(name, f'"{min(who)}"')))
    return found


class Redash:
    """Marks every response; `trouble` says by query how runs end."""

    def __init__(self, trouble: dict[int, str]) -> None:
        self.trouble = trouble
        self.nonce = itertools.count(1)
        self.jobs: dict[str, tuple[str, int]] = {}

    def mark(self, who: str, query: int) -> str:
        return f"<{who}|{query}|{next(self.nonce)}>"

    async def __call__(self, seen: Seen) -> Stub:
        who = next(name for name in ("alice", "bob", "key1") if seen.key == key(name))
        await asyncio.sleep(0.002 * (next(self.nonce) % 3))
        if found := re.fullmatch(r"/api/jobs/(\S+)|/api/queries/\d+/jobs/(\S+)", seen.path):
            return self.job(found[1] or found[2])
        if found := re.fullmatch(r"/api/(?:queries/\d+/results|query_results)/(\d+)\.(\w+)", seen.path):
            return self.result(who, int(found[1]), found[2])
        if found := re.fullmatch(r"/api/queries/(\d+)/results\.(\w+)", seen.path):
            return self.result(who, int(found[1]) * 1000, found[2])
        if found := re.fullmatch(r"/api/queries/(\d+)/(?:results|refresh)|/api/query_results", seen.path):
            return self.run(who, int(found[1] or 0), seen)
        if found := re.fullmatch(r"/api/queries/(\d+)(?:/dropdowns?)?(?:/(\d+))?", seen.path):
            query = int(found[2] or found[1])
            if "dropdown" in seen.path:
                return Stub.json([{"name": self.mark(who, query), "value": "x"}])
            return Stub.json(query_object(query, description=self.mark(who, query), latest_query_data_id=query * 1000))
        if found := re.fullmatch(r"/api/dashboards/(\d+)", seen.path):
            on_it = query_object(2, description=self.mark(who, 2))
            return Stub.json({"id": int(found[1]), "widgets": [{"visualization": {"query": on_it}}]})
        return Stub.json({"message": self.mark(who, 0)}, 200 if seen.path == "/api/session" else 403)

    def run(self, who: str, query: int, seen: Seen) -> Stub:
        trouble = self.trouble.get(query, "inline")
        if trouble == "refuse":
            return Stub.json({"job": {"status": 4, "error": self.mark(who, query)}}, 403)
        if trouble == "break":
            return Stub.json({"message": self.mark(who, query)}, 500)
        if trouble == "away":
            return Stub(503, self.mark(who, query).encode())
        if trouble == "inline" and seen.path != "/api/query_results":
            return self.inline(who, query, seen)
        job = f"10f0dede-0a61-455b-ba85-{next(self.nonce):012x}"
        self.jobs[job] = (who, query)
        return Stub.json({"job": {"id": job, "status": 1, "error": "", "query_result_id": None}})

    def inline(self, who: str, query: int, seen: Seen) -> Stub:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        rows = [{"mark": self.mark(who, query), "sent": seen.json}]
        if who == "key1":
            return Stub.json(
                {"query_result": {"data": {"columns": [{"name": "mark"}], "rows": rows}, "retrieved_at": now}}
            )
        return Stub.json(result_object(query * 1000 + next(self.nonce) % 900 + 1, query, rows, now))

    def job(self, job: str) -> Stub:
        who, query = self.jobs[job]
        if self.trouble.get(query) == "fail":
            return Stub.json({"job": {"id": job, "status": 4, "error": self.mark(who, query), "query_result_id": None}})
        return Stub.json(
            {"job": {"id": job, "status": 3, "error": "", "query_result_id": query * 1000 + next(self.nonce) % 900 + 1}}
        )

    def result(self, who: str, result_id: int, form: str) -> Stub:
        query = result_id // 1000
        if who == "key1" and query != 1:
            return Stub.json({"message": self.mark(who, 1)}, 404)  # the hash is not the query's (CONTRACT 2)
        if form == "json":
            return Stub.json(result_object(result_id, query, [{"mark": self.mark(who, query)}]))
        return Stub(200, self.mark(who, query).encode(), {"Content-Type": "text/csv"})


BODIES = [
    b"",
    b"{}",
    b'{"max_age": 0}',
    b'{"max_age": 60}',
    b'{"max_age": -1}',
    b'{"max_age": "x"}',
    b'{"max_age": NaN}',
    b'{"parameters": {"a": 1}}',
    b'{"parameters": {"a": "1"}}',
    b'{"parameters": {"a": NaN}}',
    b'{"parameters": {"a": "\\ud800"}}',
    b'{"parameters": []}',
    b"null",
    b"[1]",
    b"nonsense",
    b"\xff\xfe",
    b"[" * 2000,
    b'{"apply_auto_limit": true}',
    b'{"parameters": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    b'{"query": "select 1", "data_source_id": 1}',
    b'{"query": "select 1", "data_source_id": NaN, "max_age": 0}',
]
FORMS = st.sampled_from(["json", "csv", "tsv"])
QUERY = st.sampled_from(QUERIES)
REQUESTS = st.one_of(
    st.tuples(st.just("post"), QUERY, st.sampled_from(BODIES)),
    st.tuples(st.just("text"), st.just(0), st.sampled_from(BODIES)),
    st.tuples(st.just("refresh"), QUERY, st.just(b"")),
    st.tuples(st.just("job"), st.integers(0, 50), QUERY),
    st.tuples(st.just("cancel"), st.integers(0, 50), QUERY),
    st.tuples(st.just("result"), st.integers(0, 50), FORMS),
    st.tuples(st.just("nested"), st.integers(0, 50), QUERY),
    st.tuples(
        st.just("path"),
        QUERY,
        st.sampled_from(
            [
                "/api/queries/{}",
                "/api/queries/{}/results.json",
                "/api/queries/{}/results.csv",
                "/api/queries/{}/dropdown",
                "/api/queries/{}/dropdowns/3",
                "/api/queries/{}/results.json?max_age=60",
                "/api/queries/{}/results.csv?max_age=0",
                "/api/queries/{}/results.json?p_a=1",
                "/api/queries/{}/results.json?p_a=%5B",
                "/api/session",
                "/api/queries",
                "/api/dashboards/9",
                "/api/dashboards/8",
                "/api/queries/{}/",
                "/api/queries/%31",
                "/api/queries/{}?api_key=x",
            ]
        ),
    ),
)
STEP = st.lists(st.tuples(st.sampled_from(sorted(CLIENTS)), REQUESTS, st.booleans()), min_size=4, max_size=14)


class Callers:
    """Sends what was drawn and judges every response."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.jobs: list[tuple[str, str]] = []
        self.results: list[int] = [1000, 2000, 3000, 1500, 2**52]
        self.judged = 0

    async def send(self, who: str, request: tuple[Any, ...], wait: bool) -> None:
        kind, first, second = request
        headers = {"Prefer": "wait=1"} if wait else {}
        owner, job = self.jobs[first % len(self.jobs)] if kind in ("job", "cancel") and self.jobs else ("", "0" * 8)
        result = self.results[first % len(self.results)]
        method, path, body = {
            "post": ("POST", f"/api/queries/{first}/results", second),
            "text": ("POST", "/api/query_results", second),
            "refresh": ("POST", f"/api/queries/{first}/refresh", second),
            "job": ("GET", f"/api/jobs/{job}", None),
            "cancel": ("DELETE", f"/api/queries/{second}/jobs/{job}", None),
            "result": ("GET", f"/api/query_results/{result}.{second}", None),
            "nested": ("GET", f"/api/queries/{second}/results/{result}.json", None),
            "path": ("GET", str(second).replace("{}", str(first)), None),
        }[kind]
        try:
            async with asyncio.timeout(8):
                reply = await self.front.call(method, path, body, client=who, headers=headers)
        except aiohttp.ClientError:
            return
        message = f"{who} {method} {path} {body!r}: {reply.status} {reply.body[:300]!r}"
        self.judge(who, reply.body + json.dumps(dict(reply.headers)).encode(), message)
        if kind in ("job", "cancel") and reply.status == 200:
            assert owner == who, message
        assert reply.status != 500 or b"<" in reply.body, message  # a 500 is Redash's own, marked
        self.learn(who, reply.body)

    def judge(self, who: str, shown: bytes, message: str) -> None:
        credentials, queries = CLIENTS[who]
        for name, query in MARK.findall(shown):
            self.judged += 1
            assert name.decode() in credentials, message
            assert queries is None or int(query) in {*queries, 0}, message
        assert not re.search(rb"0Key0Key|rg_", shown), message

    def learn(self, who: str, body: bytes) -> None:
        """Ids that any client has seen are tried by all clients."""
        if found := re.search(rb'"job": \{"id": "([0-9a-f-]{36})"', body):
            self.jobs.append((who, found[1].decode()))
        if found := re.search(rb'"query_result_id": (\d+)|"query_result": \{"id": (\d+)', body):
            self.results.append(int(found[1] or found[2]))


async def play(trouble: dict[int, str], steps: list[list[tuple[str, tuple[Any, ...], bool]]]) -> int:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with Upstream(Redash(trouble)) as upstream:
            front = Front(directory, upstream.url)
            front.write(*tables(directory), cache='failure_ttl = "0s"', upstream="breaker_failures = 100000")
            async with front:
                callers = Callers(front)
                for step in steps:
                    await asyncio.gather(*(callers.send(*one) for one in step))
                    front.clock.turn(30)
                return callers.judged


TROUBLE = st.dictionaries(
    st.sampled_from([0, *QUERIES]), st.sampled_from(["job", "inline", "fail", "refuse", "break", "away"])
)


# Without shrinking: an example takes a second, and the response is in the message.
@settings(
    max_examples=20 * TIMES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(TROUBLE, st.lists(STEP, min_size=2, max_size=4))
def test_no_byte_crosses_a_scope_or_a_binding(
    trouble: dict[int, str], steps: list[list[tuple[str, tuple[Any, ...], bool]]]
) -> None:
    asyncio.run(play(trouble, steps))


def test_the_marks_are_really_seen() -> None:
    """Proves that the property above tests something: every client gets rows of its own scope."""
    every = [(who, ("post", 1, b'{"max_age": 60}'), True) for who in CLIENTS if who != "a-board"]
    every += [(who, ("path", 1, "/api/queries/{}/results.json"), False) for who in ("a", "b", "mixed", "k1")]
    assert asyncio.run(play({1: "job"}, [every, every])) >= 16

"""The kinds of attacks, and how often each is made. Those that are no proper request are in `texts_raw_attacks`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from support.calls import ADMIN_TOKEN

from gateway.redash.routes import ROUTES

from . import texts_values
from .texts_drawing import FORMS, PARAMETERS, Attack, Target, one_line
from .texts_raw_attacks import RawAttacks
from .texts_redash import KEPT_QUERY
from .texts_responses import HOSTILE
from .texts_values import array, encoded, number, quoted, text, value

SQL: Final = (
    "select 1",
    "select now() as at, run_number() as run",
    "select sleep(0.05)",
    "select * from no_such_table",
    "select id, note from orders limit 20",
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) select i from n",
)
METHODS: Final = ("HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT", "FOO")
RESULTS: Final = (
    "/api/query_results/{result_id}.{form}",
    "/api/query_results/{result_id}",
    "/api/queries/{query_id}/results/{result_id}.{form}",
    "/api/queries/{query_id}/results.{form}",
    "/api/queries/{query_id}/results",
)
OPERATIONS: Final = (
    "GET /metrics", "GET /livez", "GET /readyz", "GET /", "GET /api/status", "GET /page.css", "GET /page.js",
    "POST /purge", "POST /purge", "POST /reload", "POST /sign-in", "POST /actions/purge",
    "GET /nothing", "HEAD /metrics", "GET /events",
)  # fmt: skip


class Attacker(RawAttacks):
    """Draws attacks: a seed names a sequence of them."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        super().__init__(target, rng)
        weights: tuple[tuple[int, Callable[[], Attack]], ...] = (
            (12, self._route),
            (16, self._execute),
            (10, self._form),
            (8, self._adhoc),
            (6, self._edit),
            (8, self._result),
            (4, self._job),
            (8, self._operation),
            (8, self.head),
            (5, self.framing),
            (3, self._partial),
            (4, self.pipelined),
            (4, self.tokenless),
            (4, self.flood),
            (3, self._large),
            (10, self._from_hostile_redash),
            (2, self._unused),
            (1, self.swarm),
        )
        self._kinds = [kind for weight, kind in weights for _ in range(weight)]

    def next(self) -> Attack:
        """Draw one attack."""
        attack = self.rng.choice(self._kinds)()
        if attack.heads and self.rng.random() < 0.08:
            attack.reading = self.rng.choice(("slowly", "a part", "nothing"))
        return attack

    def _route(self) -> Attack:
        rng = self.rng
        route = rng.choice([route for route in ROUTES if route.kind != "events"])  # a stream has no end
        method = route.method if rng.random() < 0.9 else rng.choice(METHODS)
        has_body = method not in ("GET", "HEAD") or rng.random() < 0.03
        body = encoded(value(rng), rng) if has_body else None
        return self.request(f"{method} {route.template}", method, self.path(route.template) + self.arguments(), body)

    def _execute(self) -> Attack:
        rng = self.rng
        values = {"parameters": self.parameters(rng.choice((40, 5_000, 900_000))), "max_age": self.max_age()}
        if rng.random() < 0.1:
            values["apply_auto_limit"] = value(rng, 50)
        path = f"/api/queries/{self.id()}/results" + (self.arguments() if rng.random() < 0.1 else "")
        waits = ("0", "1", "2", "9" * 20, "-1", "x")
        lines = [f"Prefer: wait={self.choose(*waits)}"] if rng.random() < 0.2 else []
        return self.request("execute", "POST", path, self.json_body(values), lines=lines)

    def _form(self) -> Attack:
        rng = self.rng
        drawn = rng.sample(PARAMETERS, rng.choice((1, 1, 2, 3)))
        names = [name + self.choose("", "", ".start", ".end") for name in drawn]
        given = [f"p_{name}={self.coded(text(rng, 2_400))}" for name in names]
        given.append(f"max_age={self.coded(self.choose('0', '60', '3600', text(rng, 2_000)))}")
        path = f"/api/queries/{self.id()}/results.{self.choose(*FORMS)}?" + "&".join(given)
        return self.request("GET with parameters", self.choose("GET", "GET", "GET", "HEAD"), path)

    def _adhoc(self) -> Attack:
        rng = self.rng
        sql = rng.choice(SQL) if rng.random() < 0.4 else text(rng, 900_000)
        if rng.random() < 0.4:
            sql += f" /* {text(rng, 50_000)} */ " + "'{{ x }}' {{#t}} 1 {{/t}}" * rng.choice((1, 10, 600))
        source = self.choose("1", "1", "1", "2", "99", '"1"', "1.0", number(rng))
        values = {"query": quoted(sql, rng), "data_source_id": source, "max_age": self.max_age()}
        if rng.random() < 0.5:
            values["parameters"] = self.parameters(rng.choice((40, 5_000, 400_000)))
        return self.request("free SQL", "POST", "/api/query_results", self.json_body(values), client="every")

    def _edit(self) -> Attack:
        """A query of the sandbox gets a hostile template or hostile options, or a new one is made."""
        rng = self.rng
        template = f"{rng.choice(SQL)} {text(rng, 300_000)}"
        if rng.random() < 0.5:
            template += "{{ " + rng.choice(PARAMETERS) + " }}" + text(rng, 1_000)
        parameters = array([self.definition() for _ in range(rng.choice((0, 1, 2, 5, 300)))])
        options = f'{{"parameters":{parameters},"x":{value(rng, 1_000)}}}'
        values = {
            "query": quoted(template, rng),
            "options": options if rng.random() < 0.9 else value(rng, 50_000),
            "data_source_id": "1",
            "name": quoted(text(rng, 100_000), rng),
        }
        if rng.random() < 0.2:
            values["tags"] = array([quoted(text(rng, 300), rng) for _ in range(9)])
        ids = [query_id for name, query_id in self.target.queries.items() if name != KEPT_QUERY]
        path = f"/api/queries/{rng.choice(ids)}" if rng.random() < 0.8 else "/api/queries"
        return self.request("edit", "POST", path, self.json_body(values), client="every")

    def _result(self) -> Attack:
        lines = ["Accept-Encoding: gzip"] if self.rng.random() < 0.4 else []
        path = self.path(self.choose(*RESULTS))
        return self.request("result", self.choose("GET", "GET", "GET", "HEAD"), path, lines=lines)

    def _job(self) -> Attack:
        path = self.path(self.choose("/api/jobs/{job_id}", "/api/queries/{query_id}/jobs/{job_id}"))
        lines = [f"Prefer: wait={self.choose('1', '2', '0')}"] if self.rng.random() < 0.3 else []
        return self.request("job", self.choose("GET", "GET", "GET", "DELETE"), path, lines=lines)

    def _operation(self) -> Attack:
        """A request to the admin listener."""
        rng = self.rng
        method, path = rng.choice(OPERATIONS).split(" ")
        body, lines = None, [f"Authorization: Bearer {ADMIN_TOKEN}"] if rng.random() < 0.9 else []
        if path == "/purge":
            known = (b'{"query": %d}' % rng.randrange(1, 10**9), b'{"all": true}', b'{"scope": "user"}')
            body = rng.choice((*known, encoded(value(rng), rng), self.json_body({"query": value(rng, 5_000)})))
        if path == "/metrics" and rng.random() < 0.5:
            version = f"application/openmetrics-text; version={text(rng, 100)}"
            lines += [one_line("Accept: " + self.choose(version, "*/*", "application/openmetrics-text;q=0.5"))]
        target = path + (self.arguments() if rng.random() < 0.2 else "")
        attack = self.request(f"admin {path}", method, target, body, lines=lines)
        attack.admin = True
        if path == "/events":
            attack.heads, attack.reading = [], rng.choice(("a part", "nothing"))
        return attack

    def _large(self) -> Attack:
        """A result of megabytes, in every form, read in every way."""
        path = f"/api/queries/{self.target.queries['large']}/results.{self.choose(*FORMS)}"
        lines = ["Accept-Encoding: gzip"] if self.rng.random() < 0.5 else []
        attack = self.request("large", "GET", path, client="every", lines=lines)
        attack.reading = self.rng.choice(("all", "all", "slowly", "a part", "nothing"))
        return attack

    def _from_hostile_redash(self) -> Attack:
        """What only Redash's responses make dangerous: see `texts_responses.py`."""
        rng = self.rng
        client = "narrow" if rng.random() < 0.4 else "every"
        query_id = HOSTILE + rng.randrange(4 if client == "narrow" else 400)
        kind = rng.randrange(5)
        if kind <= 1:
            body = b'{"max_age": %d}' % rng.choice((0, 60, 3600))
            path = f"/api/queries/{query_id}/results"
            return self.request("hostile result", "POST", path, body, client=client, lines=["Prefer: wait=2"])
        if kind == 2:
            path = f"/api/queries/{query_id}/results.{self.choose(*FORMS)}?max_age={self.choose('0', '3600')}"
            return self.request("hostile file", "GET", path, client=client)
        if kind == 3:
            path = f"/api/{self.choose('queries', 'dashboards', 'data_sources', 'users')}/{query_id}"
            return self.request("hostile object", "GET", path, client=self.choose("every", "revealer"))
        return self.request("hostile id", "GET", f"/api/query_results/{query_id}.{self.choose(*FORMS)}", client=client)

    def _unused(self) -> Attack:
        """A body near the limit whose parameters the query does not have."""
        rng = self.rng
        unused = quoted("u" * 900_000, rng) if rng.random() < 0.5 else texts_values.wide(rng)
        body = f'{{"max_age": 0, "parameters": {{"unused": {unused}}}}}'.encode()
        query_id = rng.choice(list(self.target.queries.values()))
        return self.request("unused parameter", "POST", f"/api/queries/{query_id}/results", body)

    def _partial(self) -> Attack:
        """A part of a request, and then nothing for a while."""
        whole = self._execute().sent
        cut = self.rng.randrange(len(whole) if self.rng.random() < 0.5 else min(60, len(whole)))
        return Attack("partial", [whole[:cut]], [], reading="nothing", admin=self.rng.random() < 0.2)

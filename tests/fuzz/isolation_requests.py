"""What the clients of the isolation fuzz send: every form of request that gives rows, jobs or objects."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from urllib.parse import urlencode

from support.calls import token

from .isolation_redash import COUNTRIES, LEFT, RIGHT, SHARED, Redash, sql
from .isolation_setup import ANONYMOUS, PEOPLE, Setup

MAX_AGES: tuple[Any, ...] = (None, "absent", 0, 1, 60, 600, 600, 3600, 3600, 36_000, -1)
_FAVOURITES = ("plain", "enum", "enum", "left", "twin left", "twin right", "spaced", "closed", "right", "number")
FORMS = ("json", "json", "json", "csv", "tsv", "xlsx", "ndjson", "html")
ADHOC_TEXTS = 3

_AGAIN = 0.4
"""How often an earlier request is sent again, which the fast path serves the third time."""

_MODEST = 0.7
"""How often a person requests only what it probably may have."""

ARGUMENT = "api_key"
"""Redash's own name of the argument with the token."""


@dataclass(frozen=True)
class Sent:
    """One request, and what its response must be about. `label` or `value` None: not known from the request.

    `path` and `headers` are without the token, which `target` and `fields` add: a request made of another one is always
    one of its person.
    """

    person: str
    kind: str
    method: str
    path: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    query: int = 0
    label: str | None = None
    value: str | None = None
    source: int | None = None
    job: str = ""
    carrier: str = ""
    """What the token is sent in: a header, or `ARGUMENT`; "" for `anonymous`, who has none."""
    phase: int = 0
    started: float = 0.0
    ended: float = 0.0

    @property
    def target(self) -> str:
        """Path and arguments as they are sent."""
        if self.carrier != ARGUMENT:
            return self.path
        return f"{self.path}{'&' if '?' in self.path else '?'}{ARGUMENT}={token(self.person)}"

    @property
    def fields(self) -> dict[str, str]:
        """The headers as they are sent."""
        if self.carrier in ("", ARGUMENT):
            return dict(self.headers)
        scheme = "Key " if self.carrier == "Authorization" else ""
        return {**dict(self.headers), self.carrier: f"{scheme}{token(self.person)}"}


def in_form(sent: Sent, form: str, max_age: int = 3600) -> Sent:
    """Return a GET with parameters for another form and age."""
    path = re.sub(r"/results\.\w+", f"/results.{form}", sent.path)
    return replace(sent, path=re.sub(r"max_age=-?\d+", f"max_age={max_age}", path))


def object_of(sent: Sent) -> Sent:
    """Return the request of the same person for the object of the same query."""
    path = f"/api/queries/{sent.query}"
    return replace(sent, kind="object", method="GET", path=path, body=None, label=None, value=None)


@dataclass
class Memory:
    """Ids that any client has seen: all clients try them."""

    jobs: deque[tuple[str, Sent]] = field(default_factory=lambda: deque(maxlen=60))
    """With the request that got it."""
    results: deque[int] = field(default_factory=lambda: deque(maxlen=60))
    requests: deque[Sent] = field(default_factory=lambda: deque(maxlen=40))
    hits: deque[Sent] = field(default_factory=lambda: deque(maxlen=20))
    """Requests whose responses came from the store."""


class Draw:
    """Draws one request after the other."""

    def __init__(self, redash: Redash, setup: Setup, memory: Memory, rng: Random) -> None:
        self._redash = redash
        self._setup = setup
        self._memory = memory
        self._rng = rng
        self._person = ANONYMOUS

    def request(self, kind: str = "") -> Sent:
        """Return a request of somebody, with a token in one of the accepted ways; often an earlier one again."""
        if not kind and self._memory.requests and self._rng.random() < _AGAIN:
            return self._rng.choice(self._memory.requests)
        self._person = self._rng.choices([*PEOPLE, ANONYMOUS], [4, 2, 3, 3, 3, 4, 3, 2, 3, 1, 1, 1, 1, 1])[0]
        kinds = list(_KINDS)
        kind = kind or self._rng.choices(kinds, [_KINDS[k][0] for k in kinds])[0]
        sent: Sent = _KINDS[kind][1](self)
        sent = replace(sent, person=self._person, kind=kind, carrier=self._carrier())
        self._memory.requests.append(sent)
        return sent

    # -- parts

    def _carrier(self) -> str:
        if self._person == ANONYMOUS:
            return ""
        return self._rng.choices([ARGUMENT, "X-API-Key", "Authorization"], [4, 6, 90])[0]

    def _query(self) -> int:
        names = [*_FAVOURITES, *self._redash.ids] if self._rng.random() < 0.5 else _FAVOURITES
        queries = [self._redash.ids[name] for name in names]
        if self._rng.random() < _MODEST:
            queries = [query for query in queries if self._may(query)] or queries
        return self._rng.choice(queries)

    def _may(self, query: int) -> bool:
        """Whether it is likely that this person may use this query now."""
        found = self._setup.of(self._person, 0.0)
        if found is None:
            return False
        rights, client = self._redash.rights.last, found[1]
        covered = {*client.queries, *(query for board in client.boards for query in rights.boards[board])}
        source = rights.queries[query].source
        keys = [c for c in self._setup.credentials_of(client) if c.query in (None, query)]
        readable = any(c.query is not None or source in rights.reads.get(c.key, ()) for c in keys)
        return readable and (not client.is_bound or query in covered)

    def _wait(self) -> tuple[tuple[str, str], ...]:
        return (("Prefer", "wait=1"),) if self._rng.random() < 0.6 else ()

    def _values(self, query: int) -> tuple[dict[str, Any], str]:
        """Return values for a query's parameters, and what its rows must say of them."""
        name = next(n for n, i in self._redash.ids.items() if i == query)
        if name == "enum":
            country = self._rng.choice(COUNTRIES)
            return {"country": country}, country
        if name == "number":
            number = self._rng.randint(1, 3)
            return {"n": number}, str(number)
        if name == "text":
            text = self._rng.choice("ab")
            return {"t": text}, text
        return {}, ""

    def _label(self, query: int) -> str:
        return self._redash.rights.last.queries[query].label

    def _result(self) -> int:
        known = self._memory.results
        if known and self._rng.random() < 0.85:
            return self._rng.choice(known)
        return max(1, max(self._redash.sandbox.database.results, default=1) - self._rng.randint(0, 9))

    def _job(self, kind: str = "") -> tuple[str, Sent | None]:
        jobs = [job for job in self._memory.jobs if kind in ("", job[1].kind)]
        if self._rng.random() < _MODEST:
            jobs = [job for job in jobs if job[1].person == self._person] or jobs
        return self._rng.choice(jobs) if jobs else ("0" * 8, None)

    def _text(self) -> tuple[str, str, int]:
        label = f"adhoc {self._rng.randrange(ADHOC_TEXTS)}"
        return sql(label), label, self._rng.choice([SHARED, LEFT, LEFT, RIGHT])

    # -- forms

    def post(self) -> Sent:
        query, max_age = self._query(), self._rng.choice(MAX_AGES)
        values, value = self._values(query)
        body: dict[str, Any] = {} if max_age == "absent" else {"max_age": max_age}
        body |= {"parameters": values} if values else {}
        path = f"/api/queries/{query}/results"
        label = self._label(query)
        return Sent("", "", "POST", path, json.dumps(body).encode(), self._wait(), query, label, value)

    def refresh(self) -> Sent:
        query = self._query()
        path = f"/api/queries/{query}/refresh"
        return Sent("", "", "POST", path, None, self._wait(), query, self._label(query))

    def get(self) -> Sent:
        query = self._query()
        values, value = self._values(query)
        arguments = {f"p_{name}": value for name, value in values.items()}
        arguments["max_age"] = self._rng.choice([0, 1, 60, 600, 3600, -1])
        path = f"/api/queries/{query}/results.{self._rng.choice(FORMS)}?{urlencode(arguments)}"
        method = "HEAD" if self._rng.random() < 0.1 else "GET"
        return Sent("", "", method, path, query=query, label=self._label(query), value=value)

    def go_on(self) -> Sent:
        job, before = self._job("get")
        sent = before if before is not None and self._rng.random() < _MODEST else self.get()
        self._person = sent.person if before is sent and self._rng.random() < _MODEST else self._person
        return replace(sent, path=f"{sent.path}&run={job}", job=job, value=None)

    def latest(self) -> Sent:
        query = self._query()
        form = self._rng.choice(["", *(f".{form}" for form in FORMS)])
        return Sent("", "", "GET", f"/api/queries/{query}/results{form}", query=query, label=self._label(query))

    def by_id(self) -> Sent:
        form = self._rng.choice(["", *(f".{form}" for form in FORMS)])
        return Sent("", "", "GET", f"/api/query_results/{self._result()}{form}")

    def nested(self) -> Sent:
        query, form = self._query(), self._rng.choice(FORMS)
        return Sent("", "", "GET", f"/api/queries/{query}/results/{self._result()}.{form}", query=query)

    def job(self) -> Sent:
        job, _ = self._job()
        path = f"/api/jobs/{job}" if self._rng.random() < 0.7 else f"/api/queries/{self._query()}/jobs/{job}"
        return Sent("", "", "GET", path, headers=self._wait(), job=job)

    def cancel(self) -> Sent:
        return replace(self.job(), method="DELETE", headers=())

    def adhoc(self) -> Sent:
        text, label, source = self._text()
        if self._rng.random() < _MODEST:
            found = {person: self._setup.of(person, 0.0) for person in PEOPLE}
            self._person = self._rng.choice(
                [p for p, f in found.items() if f and "adhoc" in f[1].can] or [self._person]
            )
        max_age = self._rng.choice([0, 600, 3600, 3600, 36_000, -1])
        body = {"query": text, "data_source_id": source, "max_age": max_age}
        path = "/api/query_results"
        return Sent("", "", "POST", path, json.dumps(body).encode(), self._wait(), 0, label, "", source)

    def object(self) -> Sent:
        query = self._query()
        return Sent("", "", "GET", f"/api/queries/{query}", query=query)

    def dashboard(self) -> Sent:
        board = self._rng.choice([*map(str, self._redash.boards), "one?legacy", "two?legacy"])
        return Sent("", "", "GET", f"/api/dashboards/{board}")

    def dropdown(self) -> Sent:
        query = self._redash.ids["options"] if self._rng.random() < 0.5 else self._query()
        return Sent("", "", "GET", f"/api/queries/{query}/dropdown", query=query, label=self._label(query))

    def dropdowns(self) -> Sent:
        ids = self._redash.ids
        query = ids["picks"] if self._rng.random() < 0.7 else self._query()
        other = ids["options"] if self._rng.random() < 0.7 else self._query()
        path = f"/api/queries/{query}/dropdowns/{other}"
        return Sent("", "", "GET", path, query=query, label=self._label(other))

    def other(self) -> Sent:
        board = next(iter(self._redash.sandbox.database.dashboards.values()))
        public = f"/api/dashboards/public/{board.tokens[0]}"
        paths = ["/api/queries", "/api/queries?q=obj", "/api/dashboards", "/api/session", "/api/data_sources", public]
        return Sent("", "", "GET", self._rng.choice(paths))


_KINDS: dict[str, tuple[int, Any]] = {
    "post": (30, Draw.post),
    "refresh": (1, Draw.refresh),
    "get": (10, Draw.get),
    "go on": (3, Draw.go_on),
    "latest": (10, Draw.latest),
    "by id": (12, Draw.by_id),
    "nested": (8, Draw.nested),
    "job": (9, Draw.job),
    "cancel": (2, Draw.cancel),
    "adhoc": (6, Draw.adhoc),
    "object": (5, Draw.object),
    "dashboard": (3, Draw.dashboard),
    "dropdown": (2, Draw.dropdown),
    "dropdowns": (3, Draw.dropdowns),
    "other": (3, Draw.other),
}
"""How often each form is sent."""

"""A state machine that drives a real gateway before a sandbox, and the plain model of DESIGN 6 beside it.

After each request the model judges: was the result allowed to be that old, of that definition, for that client; was
Redash called exactly where it had to be; are Cache-Status and Age true? Two sets of rules watch: what has to
happen (`Model.judge`), and what the rows themselves say (each row tells its run, its definition and its parameter).
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from freshness_model import (
    ANY_AGE_CONFIRM,
    DEFINITION_CHECK,
    Bounds,
    Definition,
    Do,
    Fresh,
    Model,
    Redash,
    Request,
    StoredEntry,
    Verdict,
    key_of,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from support.calls import ADMIN_TOKEN, token
from support.clocks import TurnableClock
from support.http import Reply, send
from support.inside import flights, is_connected, polling_every
from support.length import TIMES
from support.versions import EVERY_KIND
from support.world import World

from gateway import config
from gateway.executions.execution import Phase
from gateway.sandbox import Sandbox
from gateway.sandbox.sample_objects import SHOP, parameter
from gateway.sandbox.timestamps import timestamp

MACHINES, STEPS = 12 * TIMES, 45
"""About 500 steps for each version; most of them end with a request that is judged."""

SLOP = 0.5
"""Seconds by which the clock of the model may differ: real time passes within a step."""

FIELDS = {
    "floor": "floor",
    "follow": "follow_schedule",
    "ceiling": "ceiling",
    "while_revalidate": "stale_while_revalidate",
    "if_error": "stale_if_error",
}
CACHE = {"if_error": 600.0}
CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("analyst", {}),
    "bounded": ("analyst", {"floor": 45.0, "ceiling": 600.0}),
    "patient": ("analyst", {"while_revalidate": 90.0, "if_error": 1800.0}),
    "strict": ("analyst", {"if_error": 0.0, "floor": 0.0}),
    "adaptive": ("analyst", {"floor": (20_000.0, 10.0, 300.0)}),  # the sandbox's runs take a fraction of a millisecond
    "other": ("admin", {}),
    "narrow": ("query", {}),
}
"""Client → credential and the settings in its table. `other` has its own credential: another scope."""

QUERIES = ("plain", "by_country", "calm", "elsewhere", "revalidated", "scheduled")
INTERVAL = 900
RULES: dict[str, dict[str, Any]] = {
    "scheduled": {"follow": True},
    "revalidated": {"while_revalidate": 120.0},  # [[cache.rules]] by query id
    "calm": {"floor": 30.0},  # by tag
    "elsewhere": {"ceiling": 300.0, "if_error": 60.0},  # by data source
}
MAX_AGES: tuple[Any, ...] = (0, 1, 30, 60, 600, None, -1, True, "60", "absent")
TURNS = (1, 5, 20, 29, 31, 44, 46, 59, 62, 88, 92, 119, 123, 305, 598, 603, 1795, 3600, 7300, 40_000)
SOME = st.integers(0, 5)
AWAY = ("reset_before_headers", "reset_after_headers", "reset_in_body", "truncate", "status", "disconnected")
UNUSABLE = ("html", "garbage")


@dataclass
class Run:
    """A run that the sandbox does not let end, and the callers that wait for it."""

    client: str
    request: Request
    hold: Any
    jobs: list[tuple[str, str]]  # client, job id
    began: float
    started: int
    edited: bool = False
    purged: bool = False


@dataclass
class Heard:
    """One response of Redash, as the gateway received it."""

    key: str
    method: str
    route: str
    query: int
    result: int | None
    status: int
    sent: Any
    body: Any
    at: float


class Watch:
    """Records Redash's responses, with the key of each request."""

    def __init__(self, sandbox: Sandbox, clock: TurnableClock) -> None:
        self.heard: list[Heard] = []
        self._clock = clock
        dispatcher = sandbox.dispatcher
        finish, log = dispatcher._finish, dispatcher._log
        bodies: dict[int, bytes] = {}

        def finished(request: Any, resource: Any, response: Any) -> Any:
            bodies[id(request)] = response.encoded(sandbox.version)
            return finish(request, resource, response)

        def logged(request: Any, resource: Any, status: int) -> None:
            self._note(request, resource.template, status, bodies.pop(id(request)))
            log(request, resource, status)

        dispatcher._finish, dispatcher._log = finished, logged  # type: ignore[method-assign]

    def _note(self, request: Any, route: str, status: int, body: bytes) -> None:
        key = request.headers.get("Authorization", "").removeprefix("Key ")
        query, result = int(request.params.get("query_id", 0)), request.params.get("query_result_id")
        sent, got = (json.loads(b) if b[:1] == b"{" else None for b in (request.body, body))
        self.heard.append(
            Heard(key, request.method, route, query, int(result or 0) or None, status, sent, got, self._clock.wall())
        )


class FreshnessMachine(RuleBasedStateMachine):
    redash_version = "26"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        # How often a job is polled is not what is tested here; it would be nine tenths of the time.
        self.quick = polling_every(0.003)
        self.quick.start()
        self.clock = TurnableClock()
        self.model = Model()
        self.redash = Redash.UP
        self.edits: dict[int, list[tuple[float, int]]] = {}  # query → (when, version), oldest first
        self.here: dict[int, int] = defaultdict(int)  # the latest version that was made through the gateway
        self.names: dict[int, list[tuple[float, str, bool]]] = {}
        self.given: dict[str, set[int]] = defaultdict(set)  # scope → runs that Redash has shown to its key
        self.deciding: dict[tuple[str, Any], Definition] = {}
        self.jobs: dict[str, tuple[str, int, Any, Definition]] = {}
        self.unsaved: set[tuple[str, int]] = set()  # definitions that are only in the gateway's memory
        self.loaded: set[tuple[str, int]] = set()  # those in its memory
        self.results: dict[str, list[tuple[int, int, int]]] = defaultdict(list)  # scope → (query, result id, run)
        self.seen = 0
        self.run: Run | None = None
        self.versions: dict[int, int] = {}  # of the SQL that each run executed
        self.uncertain = False  # whether the last run of the current request's key met an edit
        self.unexplained: set[tuple[str, Any]] = set()  # keys whose last run was not of the SQL that was known

    @initialize(
        skew=st.sampled_from([0.0, 0.0, -3600.0, 7200.0]),
        names=st.lists(st.sampled_from(QUERIES), min_size=1, max_size=2, unique=True),
        clients=st.lists(st.sampled_from([*CLIENTS]), min_size=1, max_size=3, unique=True),
    )
    def begin(self, skew: float, names: list[str], clients: list[str]) -> None:
        # Few queries and clients in one run, so that events interact; all runs together cover all of them.
        self.names_here, self.clients_here = names, clients
        self.last: tuple[str, str, str, bool | None, Any, str] = (clients[0], names[0], "DE", None, 600, "wait")
        self.skew = skew
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.sandbox = Sandbox(now=self.clock.wall, orders=1, samples=True, redash=self.redash_version)
        self.sandbox.faults.clock_skew = self.skew
        database = self.sandbox.database
        self.analysts = next(g.id for g in database.groups.values() if g.name == "Analysts")
        self.extra = database.add_source("Extra", {self.analysts: False}).id
        self.ids = {name: self._add(name) for name in QUERIES}
        self.watch = Watch(self.sandbox, self.clock)
        await self.sandbox.start()
        self.keys = {self.sandbox.user_keys["analyst"]: "analyst", self.sandbox.user_keys["admin"]: "admin"}
        self.keys[self.sandbox.query_key(self.ids["by_country"])] = "query"
        self.world = World(Path(self.directory.name), self.sandbox, self.clock)
        self.world.text = self._configuration()
        await self.world.resume()

    def _add(self, name: str) -> int:
        # Every row shows which run made it, from which definition and for which value.
        country = parameter("country", "enum", "DE", enumOptions="DE\nFR")
        parameters = [country] if name in ("by_country", "elsewhere") else []
        source = self.extra if name == "elsewhere" else SHOP
        schedule = {"interval": INTERVAL, "time": None, "day_of_week": None, "until": None}
        query = self.sandbox.add_query(
            name,
            self._text(name, 0),
            parameters=parameters,
            data_source_id=source,
            schedule=schedule if name == "scheduled" else None,
        )
        self.sandbox.queries[query].tags = ["calm"] if name == "calm" else []
        self.edits[query], self.names[query] = [(-1e18, 0)], [(-1e18, name, False)]
        return query

    def _text(self, name: str, version: int) -> str:
        value = "{{ country }}" if name in ("by_country", "elsewhere") else "none"
        return f"select '{name}' as name, {version} as version, '{value}' as country, run_number() as run"

    def _configuration(self) -> str:
        def written(value: Any) -> str:
            if value is True:
                return "true"
            if isinstance(value, tuple):
                return f"{{ runtimes = {value[0]}, at_least = {value[1]}, at_most = {value[2]} }}"
            return f'"{value:.0f}s"'

        def table(values: dict[str, Any]) -> str:
            return "\n".join(f"{FIELDS[name]} = {written(value)}" for name, value in values.items())

        narrow = self.ids["by_country"]
        clients = "".join(
            f'[clients.{name}]\ntoken_sha256 = ["{config.token_hash(token(name))}"]\ncredentials = ["{credential}"]\n'
            f"{table(values)}\n"
            for name, (credential, values) in CLIENTS.items()
        )
        which = {
            "revalidated": f"queries = [{self.ids['revalidated']}]",
            "scheduled": f"queries = [{self.ids['scheduled']}]",
            "calm": 'tags = ["calm"]',
            "elsewhere": f"data_sources = [{self.extra}]",
        }
        rules = "".join(f"[[cache.rules]]\n{which[name]}\n{table(values)}\n" for name, values in RULES.items())
        return f"""
[server]
listen = "127.0.0.1:0"
drain_timeout = "1s"
[admin]
listen = "127.0.0.1:0"
token_sha256 = "{config.token_hash(ADMIN_TOKEN)}"
[upstream]
url = "{self.sandbox.url}"
breaker_reset = "10s"
[log]
access = false
[credentials.analyst]
kind = "user"
key_env = "KEY_ANALYST"
[credentials.admin]
kind = "user"
key_env = "KEY_ADMIN"
[credentials.by_country]
kind = "query"
query = {narrow}
key_env = "QUERY_KEY_{narrow}"
{clients}
[clients.writer]
token_sha256 = ["{config.token_hash(token("writer"))}"]
credentials = ["admin"]
can = ["read", "execute", "write"]
[cache]
store = "sqlite:gateway.db"
definition_check = "{DEFINITION_CHECK:.0f}s"
any_age_confirm = "{ANY_AGE_CONFIRM:.0f}s"
metadata_ttl = "5s"
{table(CACHE)}
{rules}
"""

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.runner.run(self._end())
        self.quick.stop()
        self.runner.close()
        self.directory.cleanup()

    async def _end(self) -> None:
        self.sandbox.release()
        if hasattr(self.world, "session"):
            await self.world.stop()
        await self.sandbox.stop()

    # -- what callers do -------------------------------------------------------------------------------------------

    @rule(
        who=SOME,
        what=SOME,
        country=st.sampled_from(["DE", "DE", "DE", "FR"]),
        limit=st.sampled_from([None, None, None, None, True, False]),
        max_age=st.sampled_from(MAX_AGES),
        way=st.sampled_from(["wait", "wait", "get", "job"]),
    )
    def ask(self, who: int, what: int, country: str, limit: bool | None, max_age: Any, way: str) -> None:
        self.last = (self._client(who), self._name(what), country, limit, max_age, way)
        self.runner.run(self._ask(*self.last))

    @rule(who=SOME, what=SOME, max_age=st.sampled_from([60, 600, 10_000, None]))
    def ask_plainly(self, who: int, what: int, max_age: int | None) -> None:
        """What most callers do: the same request again."""
        self.last = (self._client(who), self._name(what), "DE", None, max_age, "wait")
        self.runner.run(self._ask(*self.last))

    def _again(self) -> None:
        """After every event an earlier request is repeated: otherwise most runs would judge little."""
        client, name, country, limit, max_age, way = self.last
        self.runner.run(self._ask(client, name, country, limit, max_age or 600, way))
        if self.run is not None:
            self.runner.run(self._ask_during_the_run(client, _as_redash_reads(max_age)))

    @rule(who=SOME, what=SOME)
    def read_latest(self, who: int, what: int) -> None:
        self.runner.run(self._read_latest(self._client(who), self._name(what)))

    @rule(who=SOME, which=st.integers(0, 5))
    def read_by_id(self, who: int, which: int) -> None:
        client = self._client(who)
        scope = CLIENTS[client][0]
        if scope != "query" and self.results[scope]:
            query, result, run = self.results[scope][-1 - which % len(self.results[scope])]
            self.runner.run(self._read_by_id(client, query, result, run))

    @rule(client=st.sampled_from(["plain", "other"]), what=SOME)
    def read_object(self, client: str, what: int) -> None:
        self.runner.run(self._read_object(client, self._name(what)))

    # -- a run that takes some time --------------------------------------------------------------------------------

    @precondition(lambda self: self.redash is Redash.UP and self.run is None)
    @rule(who=SOME, what=SOME)
    def begin_a_long_run(self, who: int, what: int) -> None:
        client = self._client(who)
        name = "by_country" if client == "narrow" else self._name(what)
        self.last = (client, name, "DE", None, self.last[4], "wait")
        if (
            client not in ("narrow", "bounded", "adaptive")
            and name not in ("calm", "scheduled")
            and self._may(CLIENTS[client][0], self.ids[name])
        ):
            self.runner.run(self._begin_a_long_run(client, name))

    async def _begin_a_long_run(self, client: str, name: str) -> None:
        request = self._request(client, name, "DE", None, 0)
        began, started = self.clock.wall(), self.sandbox.counters.started_by_query[request.query]
        decided = self.deciding[request.scope, request.key] = self._decided(request)
        truth = self._truth(request.scope, request.query)
        hold = self.sandbox.hold(request.query)
        self.loaded.add((request.scope, request.query))
        reply = await self._send(client, request.query, self._values(name, "DE"), None, 0, "job")
        assert reply.status == 200, _short(reply)
        # Edited in Redash since the definition was read: callers that read it anew do not join this run.
        edited = truth is None or decided.marker != truth.marker
        self.run = Run(client, request, hold, [(client, reply.job["id"])], began, started, edited)
        await self._settled()
        self._listen()

    @precondition(lambda self: self.run is not None)
    @rule(who=SOME, max_age=st.sampled_from([0, 60, 600, None]))
    def ask_during_the_run(self, who: int, max_age: int | None) -> None:
        self.runner.run(self._ask_during_the_run(self._client(who), max_age))

    async def _ask_during_the_run(self, client: str, max_age: int | None) -> None:
        """Once a job runs, callers with a numeric limit join it; any age does not wait while a result is stored."""
        run = self.run
        assert run is not None
        query = run.request.query
        name = next(n for n, q in self.ids.items() if q == query)
        request = self._request(client, name, "DE", None, max_age)
        if (request.scope, request.key) != (run.request.scope, run.request.key) or run.edited:
            return
        verdicts = self._verdicts(request)
        reply = await self._send(client, query, self._values(name, "DE"), None, max_age, "job")
        heard = self._listen()
        message = (
            f"{verdicts} for {client} {name} max_age={max_age} while it runs: {_short(reply)}; heard {_brief(heard)}"
        )
        assert reply.status == 200, message
        if len(verdicts) > 1:
            return
        stored = (request.scope, request.key) in self.model.entries and verdicts[0].ttl is not None
        if verdicts[0].do in (Do.HIT, Do.REVALIDATE):
            assert "; hit" in reply.cache, message
        elif request.effective is not None or not stored:
            assert not any(h.method == "POST" for h in heard), message
            assert "collapsed" in reply.cache, message
        if "job" in reply.json:
            run.jobs.append((client, reply.job["id"]))

    @precondition(lambda self: self.run is not None)
    @rule()
    def let_the_run_end(self) -> None:
        self.runner.run(self._let_the_run_end())

    async def _let_the_run_end(self) -> None:
        run = self.run
        assert run is not None
        run.hold.release()
        ended = []
        for client, job_id in run.jobs:
            job: dict[str, Any] = {"status": 1}
            while job["status"] not in (3, 4):
                reply = await self._call(client, "GET", f"/api/jobs/{job_id}", Prefer="wait=10")
                assert reply.status == 200, (job_id, _short(reply))
                job = reply.job
            assert job["status"] == 3, job
            ended.append((client, job))
        self.run = None
        await self._settled()
        if run.purged:
            self.model.late[run.request.scope, run.request.query] = self.clock.wall()
        self._listen(run)
        # One run for all of them; only an edit that looks like a mix-up after a restart may cost another.
        runs = self.sandbox.counters.started_by_query[run.request.query] - run.started
        assert runs <= (2 if run.edited else 1), run
        for client, job in ended:
            read = await self._call(
                client, "GET", f"/api/queries/{run.request.query}/results/{job['query_result_id']}.json"
            )
            await self._settled()
            self._listen()
            assert read.status == 200, (run, _short(read))
            got = read.rows[0]["run"]
            assert got in self.given[run.request.scope], (run, _short(read))
            if (client, job["id"]) == run.jobs[0]:
                assert self._born(got) >= run.began - 0.01, (run, _short(read))

    def _client(self, who: int) -> str:
        return self.clients_here[who % len(self.clients_here)]

    def _name(self, what: int) -> str:
        return self.names_here[what % len(self.names_here)]

    # -- what happens in Redash ------------------------------------------------------------------------------------

    @rule(which=SOME, what=st.sampled_from(["sql", "sql", "name", "default", "archive"]))
    def edit_in_redash(self, which: int, what: str) -> None:
        name = self._name(which)
        query = self.sandbox.queries[self.ids[name]]
        self._note_edit(query.id)
        if what == "sql":
            version = self.edits[query.id][-1][1] + 1
            self.sandbox.edit_query(query.id, query=self._text(name, version))
            self.edits[query.id].append((self.clock.wall(), version))
        elif what == "name":
            self._renamed(query.id, False)
            self.sandbox.edit_query(query.id, name=self.names[query.id][-1][1])
        elif what == "archive":
            self.sandbox.edit_query(query.id, is_archived=not query.is_archived)
        else:
            options = copy.deepcopy(query.options)
            for definition in options["parameters"]:
                definition["value"] = "FR" if definition["value"] == "DE" else "DE"
            self.sandbox.edit_query(query.id, options=options)
        self._again()

    @precondition(lambda self: self.redash is Redash.UP)
    @rule(which=SOME, what=st.sampled_from(["sql", "sql", "name"]))
    def edit_through_the_gateway(self, which: int, what: str) -> None:
        name = self._name(which)
        query = self.ids[name]
        if self.sandbox.queries[query].org != 1:
            return  # deleted
        self._note_edit(query)
        if what == "sql":
            version = self.edits[query][-1][1] + 1
            body = {"query": self._text(name, version)}
            self.edits[query].append((self.clock.wall(), version))
        else:
            self._renamed(query, True)
            body = {"name": self.names[query][-1][1]}
        reply = self.runner.run(self._call("writer", "POST", f"/api/queries/{query}", body))
        assert reply.status == 200, reply
        self.here[query] = self.edits[query][-1][1]
        self.model.edited_here(query)
        self._listen()
        self._again()

    def _note_edit(self, query: int) -> None:
        if self.run is not None and self.run.request.query == query:
            self.run.edited = True

    def _renamed(self, query: int, here: bool) -> None:
        self.names[query].append((self.clock.wall(), f"name {len(self.names[query])}", here))

    @rule(which=SOME, country=st.sampled_from(["DE", "FR"]))
    def run_behind_the_gateway(self, which: int, country: str) -> None:
        name = self._name(which)
        values = {"country": country} if self._has_country(name) else {}
        self.runner.run(self.sandbox.execute_directly(self.ids[name], values))
        self._again()

    @precondition(lambda self: self.run is None)
    @rule()
    def redash_refreshes_what_is_due(self) -> None:
        self.runner.run(self._refresh())
        self._again()

    async def _refresh(self) -> None:
        self.sandbox.scheduler.refresh_due()
        await self.sandbox.wait_idle()

    @rule(seconds=st.sampled_from(TURNS))
    def let_time_pass(self, seconds: int) -> None:
        if self.run is None or seconds < 1000:  # job ids live for 12 h
            self.clock.turn(seconds)
        self._again()

    @precondition(lambda self: self.run is None)
    @rule(which=SOME, how=st.sampled_from([403, 404]), stays=st.booleans())
    def take_access_away(self, which: int, how: int, stays: bool) -> None:
        query = self.sandbox.queries[self.ids[self._name(which)]]
        if how == 404:
            query.org = 2
        else:
            self.sandbox.database.sources[query.data_source_id or 0].groups.pop(self.analysts, None)
        self._again()
        if not stays:
            self.give_access_back()

    @rule()
    def give_access_back(self) -> None:
        for query in self.ids.values():
            self.sandbox.queries[query].org = 1
        for source in (SHOP, self.extra):
            self.sandbox.database.sources[source].groups[self.analysts] = False
        self._again()

    @precondition(lambda self: self.redash is Redash.UP and self.run is None)
    @rule(
        how=st.sampled_from([*AWAY, *UNUSABLE]),
        status=st.sampled_from([502, 503, 504]),
        seconds=st.sampled_from([0, *TURNS]),
        stays=st.booleans(),
    )
    def redash_goes_away(self, how: str, status: int, seconds: int, stays: bool) -> None:
        self.redash = Redash.UNUSABLE if how in UNUSABLE else Redash.UNAVAILABLE
        if how == "disconnected":
            self.runner.run(self.sandbox.disconnect())
        else:
            self.sandbox.faults.add(how, status=status)
        self.clock.turn(seconds)
        self._again()
        if not stays:
            self.redash_comes_back()

    @precondition(lambda self: self.redash is not Redash.UP)
    @rule()
    def redash_comes_back(self) -> None:
        self.redash = Redash.UP
        self.sandbox.faults.clear()
        self.sandbox.faults.clock_skew = self.skew
        if not is_connected(self.sandbox):
            self.runner.run(self.sandbox.reconnect())
        self.clock.turn(11)  # the breaker's time; then one request closes it, while others may still be refused
        self.runner.run(self._call("other", "GET", "/api/queries/999999"))  # never cached, as Redash has no such query
        self.runner.run(self.sandbox.wait_idle())  # runs whose POSTs were lost: they would be joined
        self._again()

    # -- what operators do -----------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.runner.run(self._restart())
        for place in self.unsaved:
            self.model.known.pop(place, None)
        self.unsaved.clear()
        self.loaded.clear()
        self._again()

    async def _restart(self) -> None:
        await self.world.restart()
        self.model.restarted()
        if self.run is not None:  # it reads the definition before it follows its job again
            running = self.world.runtime.executions.flights.running
            while any(x.phase < Phase.RUNNING for x in running):  # noqa: ASYNC110 - not worth a signal
                await asyncio.sleep(0.002)
            self._listen()
            place = self.run.request.scope, self.run.request.query
            decided = self.deciding[self.run.request.scope, self.run.request.key]
            if place in self.model.known and self.model.known[place].marker != decided.marker:
                self.run.edited = True  # from before it began, but only now does the gateway know: no caller joins it

    @rule(which=st.one_of(SOME, st.none()))
    def purge(self, which: int | None) -> None:
        self.runner.run(self._purge(None if which is None else self.ids[self._name(which)]))
        self._again()

    async def _purge(self, query: int | None) -> None:
        what = {"all": True} if query is None else {"query": query}
        await self.world.purge(what)
        self.model.purged(query)
        self.model.renewed[query] = self.clock.wall()
        if self.run is not None and query in (None, self.run.request.query):
            self.run.purged = True  # "A purge also keeps results of executions begun before it from being stored"
            self.run.edited = True  # its rows may be from before the new data: no caller joins it
        # Purging drops stored definitions, too; DESIGN does not mention it, and what is in memory may stay.
        for place in [place for place in self.model.known if query in (None, place[1])]:
            if place in self.loaded:
                self.unsaved.add(place)
            else:
                del self.model.known[place]
        if query is not None:
            self.model.run_ended(query)

    # -- the true state of Redash ----------------------------------------------------------------------------------

    def _has_country(self, name: str) -> bool:
        return name in ("by_country", "elsewhere")

    def _may(self, scope: str, query: int) -> bool:
        found = self.sandbox.queries[query]
        source = self.sandbox.database.sources[found.data_source_id or 0]
        return found.org == 1 and (scope != "analyst" or self.analysts in source.groups)

    def _truth(self, scope: str, query: int) -> Definition | None:
        if not self._may(scope, query):
            return None
        q = self.sandbox.queries[query]
        return Definition(
            str(timestamp(q.updated_at)),
            q.query,
            q.latest_query_data_id,
            self.clock.wall(),
            archived=q.is_archived,
            interval=_interval(q.schedule),
        )

    def _result_of_run(self, run: int) -> Any:
        return next(
            r for r in self.sandbox.database.results.values() if r.is_loaded and r.data["rows"][0].get("run") == run
        )

    def _born(self, run: int) -> float:
        return self._result_of_run(run).retrieved_at / 1e6 - self.skew

    # -- listening -------------------------------------------------------------------------------------------------

    def _listen(self, run: Run | None = None) -> list[Heard]:
        """Feed the model with Redash's responses since the last time. A broken response says nothing."""
        new = self.watch.heard[self.seen :]
        self.seen = len(self.watch.heard)
        self.ended: set[int] = set()
        self.unstored = (run.request.scope, run.request.key) if run is not None and run.purged else None
        for heard in new if self.redash is Redash.UP else ():
            scope = self.keys.get(heard.key, "")
            if heard.method == "GET" and heard.route == "/api/queries/<query_id>":
                self._heard_definition(scope, heard)
            elif heard.status == 200 and "results" in heard.route:
                self._heard_result(scope, heard)
        for query in self.ended:  # last: a run ends after all requests that were made for it
            self.model.run_ended(query)
        return new

    def _heard_definition(self, scope: str, heard: Heard) -> None:
        if heard.status in (403, 404):
            self.model.deny(scope, heard.query)
        elif heard.status == 200:
            body = heard.body
            self.unsaved.discard((scope, heard.query))
            self.loaded.add((scope, heard.query))
            definition = Definition(
                body["updated_at"],
                body["query"],
                body["latest_query_data_id"],
                heard.at,
                archived=body["is_archived"],
                interval=_interval(body["schedule"]),
            )
            self.model.record_definition(scope, heard.query, definition)
            if definition.newest is not None:  # ids seen in any response are known
                self._remember(scope, heard.query, definition.newest)

    def _remember(self, scope: str, query: int, result: int) -> None:
        run = self.sandbox.database.results[result].data["rows"][0]["run"]
        if (query, result, run) not in self.results[scope]:
            self.results[scope].append((query, result, run))

    def _heard_result(self, scope: str, heard: Heard) -> None:
        if "job" in heard.body:
            key = self._key_of_post(heard)
            self.jobs[heard.body["job"]["id"]] = (scope, heard.query, key, self.deciding[scope, key])
            return
        body = heard.body["query_result"]
        run = body["data"]["rows"][0]["run"]
        self.given[scope].add(run)
        self.versions[run] = body["data"]["rows"][0]["version"]
        if heard.method == "POST":
            key = self._key_of_post(heard)
            began = [job for job, (s, _, k, _) in self.jobs.items() if (s, k) == (scope, key)]
            decided = self.deciding[scope, key]
            self._store(scope, heard.query, key, decided, body, heard.at)
            if began:  # a query key's second POST: the run has ended
                del self.jobs[began[0]]
                self.ended.add(heard.query)
            return
        ended = [job for job in self.jobs if getattr(self.sandbox.jobs.get(job), "result", None) == body["id"]]
        for job in ended:
            scope, query, key, decided = self.jobs.pop(job)
            self._store(scope, query, key, decided, body, heard.at)
            self.ended.add(query)
        if not ended:
            query = heard.query or next((q for q, r, _ in self.results[scope] if r == body["id"]), None)
            if query is None:
                return  # of a run whose end was heard before: its rows are requested again after an edit
            self.model.results[scope, body["id"]] = (query, run)
            self._remember(scope, query, body["id"])

    def _store(self, scope: str, query: int, key: Any, decided: Definition, body: Any, at: float) -> None:
        run, version = body["data"]["rows"][0]["run"], body["data"]["rows"][0]["version"]
        # Rows of SQL that the definition in force before the POST does not explain must not be assigned to it. The
        # definition is then read again: if it explains them, and allows the run, they are its rows.
        self.unexplained.discard((scope, key))
        if scope != "query" and not _explains(decided, version):
            self.unexplained.add((scope, key))
            decided = self._truth(scope, query) or decided
        explained = scope == "query" or _explains(decided, version)
        marker = decided.marker if explained else ""
        confirmed = at if explained else float("-inf")
        entry = StoredEntry(run, self._born(run), marker, confirmed, body.get("id"), body.get("runtime", 0.0))
        if (scope, key) == self.unstored:
            return
        self.model.record_result(scope, query, key, entry)
        if entry.result_id is not None:
            self._remember(scope, query, entry.result_id)

    @staticmethod
    def _key_of_post(heard: Heard) -> Any:
        sent = heard.sent
        return key_of(heard.query, sent.get("parameters", {}), sent.get("apply_auto_limit"))

    # -- requests and judgement ------------------------------------------------------------------------------------

    async def _call(self, client: str, method: str, path: str, body: object = None, **headers: str) -> Reply:
        sent = {"Authorization": f"Key {token(client)}", **headers}
        return await send(self.world.session, method, self.world.url + path, body, headers=sent)

    async def _settled(self) -> None:
        """Wait until the gateway does nothing in the background any more."""
        runtime = self.world.runtime
        parts = runtime.results.definitions, runtime.results.fetcher
        expected = 0 if self.run is None else 1
        while len(runtime.executions.flights.running) > expected or flights(*parts):  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    async def _ask(self, client: str, name: str, country: str, limit: bool | None, max_age: Any, way: str) -> None:
        if client == "narrow":
            name = "by_country"
        if way == "get":
            limit = None
            max_age = -1 if max_age in (None, "absent") else int(max_age)
        request = self._request(client, name, country, limit, max_age)
        scope, query, values = request.scope, request.query, self._values(name, country)
        if self.run is not None and self.run.request.query == query:
            return  # see ask_during_the_run
        began = self.clock.wall()
        if not self.jobs_pending(request):
            self.deciding[scope, request.key] = self._decided(request)
        before = SimpleNamespace(
            verdicts=self._verdicts(request),
            started=self.sandbox.counters.started_by_query[query],
            allowed=self._redash_has(query, values, limit, request),
        )
        self.loaded.add((scope, query))
        reply = await self._send(client, query, values, limit, max_age, way)
        await self._settled()
        ended = self.clock.wall()
        heard = self._listen()
        shown = f"{client} {name} {values} limit={limit} max_age={max_age!r} by {way}: {_short(reply)}"
        for verdict in before.verdicts:
            with suppress(AssertionError):
                self._judge(request, verdict, reply, heard, before, way, shown)
                break
        else:
            self._judge(request, before.verdicts[0], reply, heard, before, way, shown)
        rows = await self._rows_of(client, query, reply)
        if rows is not None:
            self._check_rows(request, name, country, rows[0], began, ended, shown)

    def _values(self, name: str, country: str) -> dict[str, str]:
        return {"country": country} if self._has_country(name) else {}

    def _request(self, client: str, name: str, country: str, limit: bool | None, max_age: Any) -> Request:
        scope, table = CLIENTS[client]
        query = self.ids[name]
        bounds = Bounds.first(table, RULES.get(name, {}), CACHE)
        key = key_of(query, self._values(name, country), limit)
        request = Request(scope, query, key, _as_redash_reads(max_age), bounds)
        definition, last = self._decided(request), self.model.entries.get((scope, key))
        return replace(
            request,
            runtime=last.runtime if last is not None and last.marker == definition.marker else 0.0,
            purged=self.clock.wall() - self.model.new_data(scope, query),
            interval=definition.interval if bounds.follow and not definition.archived else None,
        )

    def jobs_pending(self, request: Request) -> bool:
        return any((scope, key) == (request.scope, request.key) for scope, _, key, _ in self.jobs.values())

    def _decided(self, request: Request) -> Definition:
        known = self.model.known.get((request.scope, request.query))
        fresh = self.model.check(request.scope, request.query, self.clock.wall())
        truth = self._truth(request.scope, request.query)
        if (fresh is Fresh.READ_FIRST and self.redash is Redash.UP) or known is None:
            return truth or Definition("none", "", None, 0.0)
        return known

    def _verdicts(self, request: Request) -> list[Verdict]:
        """What may have to happen: one thing, or two where the clock is at a boundary."""
        found: list[Verdict] = []
        self.uncertain = (request.scope, request.key) in self.unexplained
        for ahead in (0.05, -SLOP, SLOP + (1.5 if self.skew else 0.0)):
            # Whether the client's own stale_if_error or the general one applies to a definition is left open.
            for if_error in sorted({request.bounds.if_error, CACHE["if_error"]}):
                verdict = self.model.judge(
                    request, self.clock.wall() + ahead, self.redash, self._truth(request.scope, request.query), if_error
                )
                if all((v.do, v.check) != (verdict.do, verdict.check) for v in found):
                    found.append(verdict)
        return found

    def _redash_has(self, query: int, values: Any, limit: bool | None, request: Request) -> set[bool]:
        """Whether Redash has a result that is young enough: then it may not run the query.

        A query key's does not show its SQL: one from before an edit may be of another text, and does not count.
        """
        q, database = self.sandbox.queries[query], self.sandbox.database
        sql = database.executed(self.sandbox.sql_of(query, values), bool(limit))
        ages = {max(0, age - late) if age >= 0 else -1 for age in request.asked_ages for late in (0, 1)}
        found = ((age, database.newest(database.hash_of(sql), q.data_source_id, age)) for age in ages)
        return {
            result is not None and age != 0 and (request.scope != "query" or result.retrieved_at >= q.updated_at)
            for age, result in found
        }

    async def _send(self, client: str, query: int, values: Any, limit: bool | None, max_age: Any, way: str) -> Reply:
        if way == "get":
            fields = "".join(f"p_{name}={value}&" for name, value in values.items())
            return await self._call(client, "GET", f"/api/queries/{query}/results.json?{fields}max_age={max_age}")
        body: dict[str, Any] = {"parameters": values}
        if limit is not None:
            body["apply_auto_limit"] = limit
        if max_age != "absent":
            body["max_age"] = max_age
        headers = {"Prefer": "wait=20"} if way == "wait" else {}
        return await self._call(client, "POST", f"/api/queries/{query}/results", body, **headers)

    async def _rows_of(self, client: str, query: int, reply: Reply) -> list[dict[str, Any]] | None:
        """The rows of a response; for a job, fetched as polling clients do."""
        if reply.status != 200:
            return None
        if "query_result" in reply.json:
            return reply.rows
        job = reply.job
        for _ in range(20):
            if job["status"] in (3, 4):
                break
            job = (await self._call(client, "GET", f"/api/jobs/{job['id']}", Prefer="wait=10")).job
        assert job["status"] == 3, job
        path = f"/api/queries/{query}/results/{job['query_result_id']}.json"
        read = await self._call(client, "GET", path)
        await self._settled()
        self._listen()
        # A polling caller gets the run's result, unless Redash became unavailable or denied access in the meantime.
        if self.redash is Redash.UP and self._may(CLIENTS[client][0], query):
            assert read.status == 200, (path, read)
            assert "hit" in read.cache, read
        return read.rows if read.status == 200 else None

    def _judge(
        self, request: Request, verdict: Verdict, reply: Reply, heard: list[Heard], before: Any, way: str, shown: str
    ) -> None:
        message = f"{verdict} for {shown}; Redash is {self.redash.value} and heard {_brief(heard)}"
        if self.uncertain and reply.status in (200, 403, 404, 502, 503, 504):
            return  # whether the gateway has seen that edit is left open; that the rows may be shown is not
        under_older_marker = verdict.entry is not None and verdict.ttl is None and request.effective != 0
        if under_older_marker and verdict.do in (Do.FORWARD, Do.REFUSED) and "; hit" in reply.cache:
            return  # its run read the definition anew, and is of the one in force; its rows are checked all the same
        self._judge_upstream(request, verdict, heard, before, message)
        match verdict.do:
            case Do.FAIL:
                assert reply.status in (502, 503, 504), message
            case Do.REFUSED:
                # A query key gets Redash's 500 where its query is deleted (CONTRACT 2).
                assert reply.status in ((403, 404, 500) if request.scope == "query" else (403, 404)), message
            case Do.FORWARD:
                assert reply.status == 200, message
                assert "fwd=" in reply.cache, message
                assert "hit" not in reply.cache, message
            case Do.HIT | Do.REVALIDATE | Do.ON_ERROR:
                self._judge_stored(request, verdict, reply, way, message)

    def _judge_upstream(
        self, request: Request, verdict: Verdict, heard: list[Heard], before: Any, message: str
    ) -> None:
        heard = [h for h in heard if h.query == request.query]  # a run of another query may continue meanwhile
        posts = [h for h in heard if h.method == "POST"]
        definitions = [h for h in heard if h.route == "/api/queries/<query_id>"]
        started = self.sandbox.counters.started_by_query[request.query] - before.started
        if verdict.do is Do.HIT or (verdict.do in (Do.FAIL, Do.REFUSED) and verdict.check == "first"):
            assert not posts or verdict.do is not Do.HIT, message
        if verdict.do is Do.HIT:
            assert started == 0, message
        # A query key may not read by id: it has to POST again for its result (CONTRACT 8). Its first POST is in vain
        # where Redash's cached rows are from before an edit.
        most = 3 if request.scope == "query" else 1
        assert len(posts) <= most, message
        assert started <= 1, message
        if (
            verdict.do in (Do.FORWARD, Do.REVALIDATE)
            and self.redash is Redash.UP
            and self._may(request.scope, request.query)
        ):
            assert posts, message
            assert posts[0].sent["max_age"] in request.asked_ages, message
            assert (started == 0) in before.allowed, (message, before.allowed)
        if not verdict.check:
            # Not read needlessly; but rows of a text that the definition does not explain make the gateway read it.
            odd = bool(posts) and (request.scope, request.key) in self.unexplained
            assert not definitions or odd, message
        elif self.redash is Redash.UP:
            assert definitions, message

    def _judge_stored(self, request: Request, verdict: Verdict, reply: Reply, way: str, message: str) -> None:
        entry = verdict.entry
        assert entry is not None
        assert reply.status == 200, message
        assert "; hit" in reply.cache, message
        detail = "" if verdict.do is Do.HIT else verdict.do.value
        assert (re.search(r"detail=(\S+)", reply.cache) or ["", ""])[1] == detail, message
        age = self.clock.wall() - entry.born
        assert -1.0 <= age - int(reply.headers["Age"]) <= 2.0 or (
            self.skew and -3.0 <= age - int(reply.headers["Age"]) <= 2.0
        ), (age, message)
        ttl = re.search(r"ttl=(-?\d+)", reply.cache)
        assert verdict.ttl is not None
        assert ttl is not None, message
        assert abs(int(ttl[1]) - verdict.ttl) <= 3.0, (verdict.ttl, message)
        if "query_result" in reply.json:
            assert reply.rows[0]["run"] == entry.run, message
        if request.max_age == 0 and way == "job":  # forced, but a floor allows the entry: such clients expect ["job"]
            assert reply.job["status"] == 3, message

    def _check_rows(
        self, request: Request, name: str, country: str, row: Any, began: float, ended: float, shown: str
    ) -> None:
        """What the rows themselves show, whatever the model says."""
        assert row["name"] == name, shown
        assert row["country"] == (country if self._has_country(name) else "none"), shown
        assert row["run"] in self.given[request.scope], f"never given to {request.scope}: {row} {shown}"
        away = self.redash is not Redash.UP
        windows = max(request.bounds.while_revalidate, request.bounds.if_error if away else 0.0)
        slop = SLOP + (2.5 if self.skew else 0.0)
        born = self._born(row["run"])
        if request.effective == 0:
            assert born >= began - 0.01, f"not run for this caller: {row} {shown}"
        elif request.effective is not None:
            assert began - born <= request.effective + windows + slop, f"{began - born:.1f} s old: {row} {shown}"
        bound = DEFINITION_CHECK + slop + (max(request.bounds.if_error, CACHE["if_error"]) if away else 0.0)
        edits = self.edits[request.query]
        later = [when for when, version in edits if version > row["version"]]
        assert not later or later[0] >= began - bound, f"edited {began - later[0]:.0f} s ago: {row} {shown}"
        assert row["version"] >= self.here[request.query], f"edited through the gateway: {row} {shown}"
        if request.effective is None:
            result = self._result_of_run(row["run"])
            newer = [
                r.retrieved_at / 1e6 - self.skew
                for r in self.sandbox.database.results.values()
                if (r.query_hash, r.data_source_id) == (result.query_hash, result.data_source_id) and r.id > result.id
            ]
            limit = began - ANY_AGE_CONFIRM - windows - slop
            assert not newer or min(newer) >= limit, f"not the newest: {row} {shown}"

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _read(self, client: str, query: int, path: str, stored: int | None) -> tuple[Reply, list[Heard]] | None:
        """GET a result; `stored` is the run that the model has for it. Judged except for what it must be if fetched."""
        scope, table = CLIENTS[client]
        if_errors = {Bounds.first(table, CACHE).if_error, CACHE["if_error"]}
        truth = self._truth(scope, query)
        now = self.clock.wall()
        known = [
            self.model.definition(scope, query, now + ahead, self.redash, truth, window)
            for ahead in (0.0, -SLOP, SLOP)
            for window in if_errors
        ]
        checks = {self.model.check(scope, query, now + ahead) for ahead in (-SLOP, SLOP)}
        self.loaded.add((scope, query))
        reply = await self._call(client, "GET", path)
        await self._settled()
        heard = self._listen()
        message = f"{client} GET {path}: {_short(reply)}; known {known}, stored {stored}, heard {_brief(heard)}"
        assert not any(h.method == "POST" for h in heard), f"reading runs nothing: {message}"
        if len(set(map(type, known))) > 1 or len(checks) > 1:
            return None
        if known[0] is Do.FAIL and (scope, query) in self.model.dropped:
            return None  # nothing is known of the query's text, but a result by id never changes
        if isinstance(known[0], Do):
            assert reply.status in ((502, 503, 504) if known[0] is Do.FAIL else (403, 404)), message
            return None
        if stored is not None and not _explains(known[0], self.versions[stored]):
            pass  # of SQL that the query no longer has: it may be requested again, as nothing proves whose it is
        elif stored is not None:
            assert reply.status == 200, message
            assert "; hit" in reply.cache, message
            assert reply.rows[0]["run"] == stored, message
        elif self.redash is not Redash.UP and reply.status == 200:  # stored when it was read last, for any query
            assert "; hit" in reply.cache, message
            assert reply.rows[0]["run"] in self.given[scope], message
        elif self.redash is not Redash.UP:
            assert reply.status in (502, 503, 504), message
        return (reply, heard) if reply.status == 200 else None

    async def _read_latest(self, client: str, name: str) -> None:
        """The result that `latest_query_data_id` names in the definition in force."""
        if client == "narrow":
            name = "by_country"
        scope, _ = CLIENTS[client]
        query = self.ids[name]
        truth = self._truth(scope, query)
        known = self.model.definition(scope, query, self.clock.wall(), self.redash, truth, 600.0)
        named = known.newest if isinstance(known, Definition) else None
        stored = self.model.results.get((scope, named or 0), (0, None))[1]
        if scope == "query":  # shown only while the hashes match (CONTRACT 8): rows are checked, no more
            self.loaded.add((scope, query))
            reply = await self._call(client, "GET", f"/api/queries/{query}/results.json")
            await self._settled()
            self._listen()
            if reply.status == 200:
                assert reply.rows[0]["run"] in self.given[scope] | self.given["analyst"] | self.given["admin"]
            return
        read = await self._read(client, query, f"/api/queries/{query}/results.json", stored)
        if read is not None:
            assert read[0].rows[0]["run"] in self.given[scope]
            # Fetched now: Redash's own newest. Stored: the one that was named.
            assert read[0].json["query_result"]["id"] >= (named or 0), read

    async def _read_by_id(self, client: str, query: int, result: int, run: int) -> None:
        scope, _ = CLIENTS[client]
        stored = self.model.results.get((scope, result), (0, None))[1]
        read = await self._read(client, query, f"/api/queries/{query}/results/{result}.json", stored)
        if read is not None:
            assert read[0].rows[0]["run"] == run, "a result never changes"
            assert run in self.given[scope]

    async def _read_object(self, client: str, name: str) -> None:
        """The query object: cached for `metadata_ttl`, edits through the gateway at once."""
        query, scope = self.ids[name], CLIENTS[client][0]
        began = self.clock.wall()
        reply = await self._call(client, "GET", f"/api/queries/{query}")
        new, self.seen = self.watch.heard[self.seen :], len(self.watch.heard)
        for heard in new if self.redash is Redash.UP else ():  # no definition check, unless Redash refuses the query
            if (heard.method, heard.route) == ("GET", "/api/queries/<query_id>") and heard.status in (403, 404):
                self.model.deny(self.keys.get(heard.key, ""), heard.query)
        if reply.status != 200:
            assert reply.status in (403, 404) or self.redash is not Redash.UP, reply
            return
        assert self.redash is not Redash.UP or self._may(scope, query) or "hit" in reply.cache, reply
        window = 5.0 + SLOP + (600.0 if self.redash is Redash.UNAVAILABLE else 0.0)
        names = self.names[query]
        index = next(i for i, (_, n, _) in enumerate(names) if n == reply.json["name"])
        later = names[index + 1 :]
        assert not later or later[0][0] >= began - window, (reply, names)
        assert not any(here for _, _, here in later), f"edited through the gateway: {reply} {names}"


def _interval(schedule: Any) -> float | None:
    return schedule["interval"] if schedule else None


def _explains(definition: Definition, version: int) -> bool:
    """Whether these are rows of the definition's SQL."""
    return f" {version} as version" in definition.text


def _as_redash_reads(max_age: Any) -> int | None:
    return None if max_age in (None, "absent", -1) else max(0, int(max_age))


def _short(reply: Reply) -> str:
    return f"{reply.status} [{reply.cache}] Age {reply.headers.get('Age')} {reply.body[:300]!r}"


def _brief(heard: list[Heard]) -> list[str]:
    return [f"{h.method} {h.route} {h.query or h.result} {h.sent or ''} → {h.status}" for h in heard]


@pytest.mark.timeout(420)  # ten seconds; only a failure, which hypothesis then shrinks, takes longer
@EVERY_KIND
def test_gateway_and_model_agree_on_every_response(redash_version: str) -> None:
    run_state_machine_as_test(
        type("Machine", (FreshnessMachine,), {"redash_version": redash_version}),
        settings=settings(
            max_examples=MACHINES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[*HealthCheck],
        ),
    )


# -- what the machine has found, in short ------------------------------------------------------------------------------


async def _edited_here(world: World) -> int:
    """A query that has been run, and whose SQL has then been edited through the gateway."""
    query = world.sandbox.add_query("edited", "select 1 as version")
    assert await world.rows(query, max_age=600) == [{"version": 1}]
    edited = await world.call("POST", f"/api/queries/{query}", {"query": "select 2 as version"}, client="writer")
    assert edited.status == 200
    return query


async def test_an_edit_through_the_gateway_survives_a_restart(world: World) -> None:
    """ "A write through the gateway drops it": what was dropped must not be there again after a restart."""
    query = await _edited_here(world)
    await world.restart()
    assert await world.rows(query, max_age=600) == [{"version": 2}]


async def test_an_edit_through_the_gateway_is_not_undone_by_an_outage(world: World) -> None:
    """Nothing is known of the new definition, so no stored result may be used: the old rows are of another query."""
    query = await _edited_here(world)
    await world.sandbox.disconnect()
    reply = await world.post(query, max_age=600, wait=5)
    await world.sandbox.reconnect()
    assert reply.status in (502, 503, 504), reply


async def test_the_end_of_a_run_survives_a_restart(world: World) -> None:
    """A caller that polls and then reads "latest" sees the new result, also from the next process."""
    query = world.sandbox.add_query("latest", "select run_number() as run")
    await world.rows(query, max_age=0)
    before = (await world.get(f"/api/queries/{query}/results.json")).rows
    reply = await world.post(query, max_age=0, wait=10)
    await world.restart()
    after = (await world.get(f"/api/queries/{query}/results.json")).rows
    assert after == reply.rows != before


async def test_any_age_accepts_a_definition_check_as_a_confirmation(world: World) -> None:
    """Any age accepts "the result that a definition check or a POST confirmed as newest"."""
    query = world.sandbox.add_query("confirmed", "select run_number() as run")
    await world.post(query, max_age=600, wait=10)
    world.clock.turn(50)
    await world.post(query, max_age=600)  # the run has ended: the definition is read, and names this result
    world.clock.turn(20)
    posts = world.sandbox.counters.posts[query]
    reply = await world.post(query)
    assert "; hit" in reply.cache, reply
    assert world.sandbox.counters.posts[query] == posts


async def test_a_purge_survives_a_restart(world: World) -> None:
    """ "A purge also keeps results of executions begun before it from being stored", whichever process stores them."""
    query = world.sandbox.add_query("purged", "select run_number() as run")
    hold = world.sandbox.hold(query)
    job = (await world.post(query, max_age=0)).job["id"]
    await world.purge({"query": query})
    await world.restart()
    hold.release()
    assert (await world.finish(job))["status"] == 3
    assert "hit" not in (await world.post(query, max_age=600, wait=10)).cache

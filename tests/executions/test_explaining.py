"""What `explain` says is what then happens; and it neither runs nor asks anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from random import Random
from typing import Any
from unittest import mock

import aiohttp
import pytest
from support.calls import ADMIN_TOKEN, AS_OPERATOR, TOKENS
from support.http import Reply
from support.waiting import until
from support.world import World

from gateway import cli, config
from gateway.cli import admin_client
from gateway.executions.execution import LIFE_SECONDS

CASES = int(os.environ.get("GATEWAY_EXPLAIN_CASES", "400"))
"""10,000 take some minutes."""

CLIENTS = ("dashboard", "second", "writer", "narrow", "bound", "limited", "spender")
TABLES = """
[clients.bound]
token_sha256 = ["{bound}"]
credentials = ["analyst"]
queries = [{query}]
[clients.limited]
token_sha256 = ["{limited}"]
credentials = ["query", "analyst"]
max_executions = 1
floor = {{ runtimes = 10, at_least = "30s" }}
[clients.spender]
token_sha256 = ["{spender}"]
credentials = ["analyst"]
budget = ["20ms/h", "1m/d"]
stale_over_budget = "1m"
[[cache.rules]]
queries = [{query}]
ceiling = "5m"
"""


async def explained(world: World, question: dict[str, Any]) -> dict[str, Any]:
    async with world.session.post(f"{world.admin}/api/explain", json=question, headers=AS_OPERATOR) as response:
        assert response.status == 200, await response.text()
        made: dict[str, Any] = await response.json()
        return made


def happened(reply: Reply) -> str:
    """The decision that a response shows (RFC 9211)."""
    cache = reply.cache
    if "fwd=" in cache:
        return "collapsed" if "collapsed" in cache else "miss"
    if "hit" not in cache:
        return "refused"
    return "stale" if "detail=stale" in cache or "detail=budget" in cache else "hit"


@pytest.fixture
async def explaining(bare: World) -> World:

    hashes = {name: config.token_hash(_token(name)) for name in ("bound", "limited", "spender")}
    await bare.start(
        TABLES.format(query=bare.named["by_country"], **hashes),
        cache='stale_while_revalidate = "20s"\ndefinition_check = "30s"\nany_age_confirm = "40s"\nfailure_ttl = "60s"',
        second='floor = "2m"\nstale_while_revalidate = "0s"',
    )
    return bare


def _token(name: str) -> str:
    return TOKENS.get(name) or f"rg_{name}_{'fedcba9876543210' * 2}"


class Cases:
    """Random requests between random events, each explained first."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = Random(seed)
        self.edits: dict[int, int] = {}
        self.known: dict[tuple[str, int], int] = {}
        """Up to which edit a credential has read a query."""
        self.seen: dict[str, int] = {}

    async def run(self) -> None:
        slow = {"parameters": {"seconds": 3000}, "max_age": 0}
        await self.world.post("slow_seconds", client="dashboard", **slow)
        for number in range(CASES):
            await self._event()
            await self._case(number)

    async def _event(self) -> None:
        """Time passes, somebody purges, somebody edits a query in Redash."""
        world, roll = self.world, self.chance.random()
        if roll < 0.5:
            world.clock.turn(self.chance.choice((0.5, 5, 25, 45, 130, 400)))
        elif roll < 0.55:
            await world.purge({"query": self._query()})
        elif roll < 0.65:
            query = self._query()
            database = world.sandbox.database
            database.edit(database.queries[query], {"name": f"Edited {self.chance.random()}"})
            self.edits[query] = self.edits.get(query, 0) + 1

    def _query(self) -> int:
        return self.world.named[self.chance.choice(("by_country", "in_country", "kb1", "above", "failing"))]

    def _question(self) -> dict[str, Any]:
        name = self.chance.choice(
            ("by_country", "in_country", "in_country", "above", "kb1", "failing", "customers_in_city", "slow_seconds")
        )
        values: dict[str, Any] = {
            "in_country": {"country": self.chance.choice(("DE", "FR", "XX"))},
            "above": {"min_amount": self.chance.choice((480, 490, "many"))},
            "customers_in_city": {"city": "New York"},
            "slow_seconds": {"seconds": 3000},
        }.get(name, {})
        made: dict[str, Any] = {
            "client": self.chance.choice(CLIENTS if name != "slow_seconds" else ("dashboard", "second", "limited")),
            "query": self.world.named[name],
            "max_age": self.chance.choice((None, -1, 0, 1, 10, 60, 600, 86400)),
        }
        if name != "slow_seconds" and self.chance.random() < 0.5:
            made["arguments"] = [[name, str(value)] for name, value in values.items()]
        else:
            made["parameters"] = values
        return made

    async def _send(self, question: dict[str, Any]) -> Reply:
        query, max_age = question["query"], question["max_age"]
        headers = {"Authorization": f"Key {_token(question['client'])}"}
        if "parameters" in question:
            body = {"parameters": question["parameters"]} | ({} if max_age is None else {"max_age": max_age})
            path = f"/api/queries/{query}/results"
            return await self.world.call("POST", path, body, client=None, headers=headers)
        arguments = "&".join(f"p_{name}={value}" for name, value in question["arguments"])
        age = -1 if max_age is None else max_age
        path = f"/api/queries/{query}/results.json?{arguments}&max_age={age}"
        return await self.world.call("GET", path, client=None, headers=headers)

    async def _case(self, number: int) -> None:
        world, question = self.world, self._question()
        runs, oldest = world.runtime.executions.flights, world.clock.monotonic() - LIFE_SECONDS
        await until(lambda: all(run.started > oldest for run in runs.running))  # at its next poll it is given up
        foreseen = await explained(world, question)
        reply = await self._send(question)
        found = happened(reply)
        place, edits = (foreseen["credential"], question["query"]), self.edits.get(question["query"], 0)
        moved = foreseen["asks_first"] and self.known.get(place, 0) != edits
        if foreseen["decision"] != "unknown" and not moved and not _is_at_a_limit(foreseen):
            told = json.dumps([number, question, foreseen, reply.status, reply.cache, str(reply.body[:200])], indent=1)
            assert foreseen["decision"] == found, told
        self.seen[foreseen["decision"]] = self.seen.get(foreseen["decision"], 0) + 1
        slow = world.named["slow_seconds"]
        await until(lambda: all(run.plan.query_id == slow for run in runs.running))
        if any("query has changed" in one for one in foreseen["asks_first"]) or foreseen["decision"] == "unknown":
            self.known[place] = edits


def _is_at_a_limit(foreseen: dict[str, Any]) -> bool:
    """Whether time that passes between question and request may change the decision: fresh, or stale for 20 s."""
    fresh_for = (foreseen["stored"] or {}).get("fresh_for_seconds")
    return fresh_for is not None and min(abs(fresh_for), abs(fresh_for + 20)) < 1


async def test_what_it_says_is_what_then_happens(explaining: World) -> None:
    cases = Cases(explaining, 1)
    await cases.run()
    assert cases.seen.keys() >= {"hit", "stale", "miss", "refused", "collapsed", "unknown"}, cases.seen


async def test_it_says_what_is_stored_and_where_each_bound_comes_from(explaining: World) -> None:
    world, country = explaining, explaining.named["by_country"]
    question = {"client": "limited", "query": country, "max_age": 10}
    unknown = await explained(world, question)
    assert (unknown["decision"], unknown["credential"]) == ("unknown", "analyst")
    assert unknown["credential_why"] == "a user's key; the first of query, analyst that can run this query"
    await world.post("by_country", max_age=0, wait=20)
    world.clock.turn(20)
    made = await explained(world, question)
    assert made["decision"] == "hit"
    assert (made["max_age_seconds"], made["effective_max_age_seconds"]) == (10, 30)
    bounds = {bound["name"]: (bound["value"], bound["origin"]) for bound in made["bounds"]}
    assert bounds["floor"] == ("10 runtimes, at least 30s", "clients.limited")
    assert bounds["ceiling"] == ("300 s", "cache.rules, number 1")
    assert bounds["stale_while_revalidate"] == ("20 s", "cache")
    assert 20 <= made["stored"]["age_seconds"] < 25
    assert made["last_miss"]["reason"] == "forced"
    assert made["last_miss"]["client"] == "dashboard"
    world.sandbox.reset_counters()
    await explained(world, question | {"max_age": 0, "client": "second"})
    assert world.sandbox.counters.requests == 0


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"client": "bound", "query": "kb1"}, "is not among those of client 'bound'"),
        ({"client": "narrow", "query": "kb1"}, "None of the credentials of client 'narrow' can do this"),
        ({"client": "dashboard", "query": "in_country", "arguments": [["land", "DE"]]}, "'land'"),
        ({"client": "dashboard", "query": "in_country", "parameters": {"country": "XX"}}, "country"),
        ({"client": "dashboard", "query": "undeclared", "parameters": {"x": "1"}}, "text_parameters"),
        ({"client": "dashboard", "query": "kb1", "max_age": 10**13}, "max_age must be a whole number"),
    ],
)
async def test_it_says_why_a_request_would_be_refused(explaining: World, question: dict[str, Any], why: str) -> None:
    world = explaining
    name = question["query"]
    await world.post(name, wait=20, client="sql", parameters=question.get("parameters", {}))  # so that it is known
    made = await explained(world, question | {"query": world.named[name]})
    assert made["decision"] == "refused"
    assert why in made["why"]


async def test_when_redash_does_not_work_it_says_so(explaining: World) -> None:
    world = explaining
    await world.post("kb1", max_age=0, wait=20)
    world.clock.turn(100)
    question = {"client": "dashboard", "query": world.named["kb1"], "max_age": 10}
    world.sandbox.faults.add("reset_before_headers")
    while not world.runtime.upstream.is_unavailable:
        await world.post("kb1", max_age=0, client="second")
        await world.post("above", client="second")
    made = await explained(world, question)
    assert made["decision"] == "stale"
    assert "Redash does not work" in made["why"]
    reply = await world.post("kb1", max_age=10)
    assert "detail=stale-if-error" in reply.cache
    assert (await explained(world, question | {"max_age": 0}))["decision"] == "refused"


async def test_only_the_admin_token_opens_it(explaining: World) -> None:
    """On loopback, too: a reverse proxy may be there (DESIGN 12)."""
    world, question = explaining, {"client": "dashboard", "query": 1}
    for headers in ({}, {"Authorization": f"Bearer {TOKENS['dashboard']}"}):
        async with world.session.post(f"{world.admin}/api/explain", json=question, headers=headers) as response:
            assert response.status == 401


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"client": "nobody", "query": 1}, "There is no client 'nobody'; the clients are: bound, "),
        ({"client": "dashboard"}, "missing required field `query`"),
        ({"client": "dashboard", "query": 1, "sql": "x"}, "unknown field `sql`"),
        ({"client": "dashboard", "query": 1, "parameters": {}, "arguments": []}, "not both"),
    ],
)
async def test_a_question_that_is_none(explaining: World, body: dict[str, Any], text: str) -> None:
    async with explaining.session.post(f"{explaining.admin}/api/explain", json=body, headers=AS_OPERATOR) as response:
        answer: dict[str, Any] = await response.json()
    assert text in (answer["detail"] if response.status == 400 else answer["why"])


async def test_on_the_command_line(
    explaining: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = explaining
    await world.post("in_country", max_age=0, wait=20, parameters={"country": "DE"})
    monkeypatch.setenv(admin_client.TOKEN_VARIABLE, ADMIN_TOKEN)
    words = ["--admin", world.admin, "--client", "dashboard", "--query", str(world.named["in_country"])]
    given = ["-p", "country=DE", "--max-age", "600"]
    assert await asyncio.to_thread(_main, ["explain", *words, *given]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("hit: what is stored is fresh enough\n")
    assert "Orders in a country" in shown
    assert "clients.second" not in shown
    assert await asyncio.to_thread(_main, ["explain", *words, "-p", "country=FR", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decision"] == "miss"


def _main(words: list[str]) -> int:
    with mock.patch.object(admin_client, "_deadline", contextlib.nullcontext):  # signals belong to the main thread
        return cli.main(words)


async def test_on_the_console(explaining: World) -> None:
    """A form with the session's CSRF token, for who has signed in (DESIGN 12)."""
    world = explaining
    await world.post("in_country", max_age=0, wait=20, parameters={"country": "DE"})
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(f"{world.admin}/explain") as response:
            assert "sign in" in await response.text()
        fields = {
            "client": "dashboard",
            "query": str(world.named["in_country"]),
            "values": "country=DE",
            "max_age": "60",
        }
        async with browser.post(f"{world.admin}/explain", data=fields) as response:
            assert response.status == 401
        async with browser.post(f"{world.admin}/sign-in", data={"token": ADMIN_TOKEN}) as response:
            assert response.status == 200
        async with browser.get(f"{world.admin}/explain") as response:
            (csrf,) = set(re.findall(r'name="csrf" value="([^"]+)"', await response.text()))
        async with browser.post(f"{world.admin}/explain", data=fields | {"csrf": csrf}) as response:
            shown = await response.text()
        assert "hit: what is stored is fresh enough" in shown
        assert ">country=DE</textarea>" in shown
        async with browser.post(f"{world.admin}/explain", data=fields | {"csrf": csrf, "values": "DE"}) as response:
            assert "each value is a line NAME=VALUE" in await response.text()


async def test_it_says_what_a_budget_allows(explaining: World) -> None:
    world, query = explaining, explaining.named["by_country"]
    question = {"client": "spender", "query": query, "max_age": 10}
    await world.post("by_country", max_age=0, wait=20)
    world.clock.turn(60)
    assert (await explained(world, question))["decision"] == "miss"
    hold, spending = world.sandbox.hold(), {"Authorization": f"Key {_token('spender')}"}
    job = await world.call("POST", f"/api/queries/{query}/results", {"max_age": 0}, client=None, headers=spending)
    await world.sandbox.wait_executions(2)
    (running,) = world.runtime.executions.flights.running
    await until(lambda: running.upstream_status == 2)
    world.clock.turn(30)
    await world.call("DELETE", f"/api/jobs/{job.job['id']}", client=None, headers=spending)
    await until(lambda: not world.runtime.executions.flights.running)
    hold.release()
    made = await explained(world, question | {"max_age": 60})
    assert made["decision"] == "stale"
    assert "has spent or reserved too much of its budget (20ms/h and 1m/d)" in made["why"]
    refused = await explained(world, question | {"max_age": 0})
    assert (refused["decision"], refused["credential"]) == ("refused", "analyst")
    bounds = {bound["name"]: (bound["value"], bound["origin"]) for bound in made["bounds"]}
    assert bounds["budget"] == ("20ms/h, 1m/d", "clients.spender")
    assert bounds["stale_over_budget"] == ("60 s", "clients.spender")


async def test_a_client_whose_tokens_have_expired_is_refused(bare: World) -> None:
    await bare.start(dashboard="expires = 2100-01-01")
    await bare.post("by_country", max_age=0, wait=20, client="second")
    question = {"client": "dashboard", "query": bare.named["by_country"], "max_age": 600}
    assert (await explained(bare, question))["decision"] == "hit", "not yet"
    bare.reconfigure(bare.text.replace("2100-01-01", "2020-01-01"))
    assert (await bare.post("by_country", max_age=600)).status == 401
    made = await explained(bare, question)
    assert (made["decision"], made["why"]) == (
        "refused",
        "401: the tokens of client 'dashboard' have expired (clients.dashboard.expires)",
    )
    assert "stored" not in made or made["stored"] is None

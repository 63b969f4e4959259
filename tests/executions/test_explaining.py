"""What `explain` says is what then happens; and it neither runs nor asks anything."""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import pytest
from support.calls import AS_OPERATOR, TOKENS
from support.http import Reply
from support.waiting import until
from support.world import World

CASES = int(os.environ.get("GATEWAY_EXPLAIN_CASES", "400"))
"""10,000 take some minutes."""

CLIENTS = ("dashboard", "second", "writer", "narrow", "bound", "limited")
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
    return "stale" if "detail=stale" in cache else "hit"


@pytest.fixture
async def explaining(bare: World) -> World:
    from gateway import config

    hashes = {name: config.token_hash(_token(name)) for name in ("bound", "limited")}
    await bare.start(
        TABLES.format(query=bare.named["by_country"], **hashes),
        cache='stale_while_revalidate = "20s"\ndefinition_check = "30s"\nany_age_confirm = "40s"',
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
            "max_age": self.chance.choice((None, 0, 1, 10, 60, 600, 86400)),
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
        foreseen = await explained(world, question)
        reply = await self._send(question)
        found = happened(reply)
        place, edits = (foreseen["credential"], question["query"]), self.edits.get(question["query"], 0)
        moved = foreseen["asks_first"] and self.known.get(place, 0) != edits
        if foreseen["decision"] != "unknown" and not moved:
            told = json.dumps([number, question, foreseen, reply.status, reply.cache, str(reply.body[:200])], indent=1)
            assert foreseen["decision"] == found, told
        self.seen[foreseen["decision"]] = self.seen.get(foreseen["decision"], 0) + 1
        await until(lambda: len(world.runtime.executions.flights.running) <= 1)
        if any("query has changed" in one for one in foreseen["asks_first"]) or foreseen["decision"] == "unknown":
            self.known[place] = edits


async def test_what_it_says_is_what_then_happens(explaining: World) -> None:
    cases = Cases(explaining, 1)
    await cases.run()
    assert cases.seen.keys() >= {"hit", "stale", "miss", "refused", "collapsed", "unknown"}, cases.seen

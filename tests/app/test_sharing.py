"""Two gateways with one Redis: purges, reloads and rates reach the other, and each says how it stands with Redis."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.calls import AS_OPERATOR
from support.clocks import TurnableClock
from support.http import Reply, send
from support.redis_server import RedisServer
from support.waiting import until, within
from support.world import World, token_table

from gateway.app.operations import RuntimeOperations
from gateway.app.runtime import Runtime
from gateway.sandbox import Sandbox

PROMISED_SECONDS = 1.0
"""Within this, what is done on one gateway holds on all (docs/several-machines.md)."""


class Sharer(World):
    """A gateway with a file of its own, which a reload reads."""

    async def resume(self) -> None:
        self.write(self.text)
        path = self.directory / "config.toml"
        self.runtime = Runtime(
            self.settings(), operations=lambda runtime: RuntimeOperations(runtime, path), clock=self.clock
        )
        await self.runtime.start()
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def write(self, text: str) -> None:
        self.text = text
        (self.directory / "config.toml").write_text(text)

    async def tell(self, action: str, **what: object) -> Any:
        return (await send(self.session, "POST", f"{self.admin}/{action}", what, headers=AS_OPERATOR)).json

    async def times(self, count: int, client: str = "dashboard") -> list[int]:
        """Read a list so often at once; the statuses."""
        replies = await asyncio.gather(*(self.get("/api/session", client=client) for _ in range(count)))
        return [reply.status for reply in replies]

    async def hit(self) -> Reply:
        return await self.post("by_country", max_age=600)


@pytest.fixture
async def pair(
    tmp_path: Path, redis: RedisServer, sandbox: Sandbox, clock: TurnableClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    """Starts the two, which know each other; `tables` adds lines to a table of both."""
    for name, key in token_table(sandbox).items():
        monkeypatch.setenv(name, key)
    made: list[Sharer] = []

    async def start(rates: str = "shared", **tables: str) -> tuple[Sharer, Sharer]:
        for name in ("one", "two"):
            (directory := tmp_path / name).mkdir()
            sharer = Sharer(directory, sandbox, clock)
            await sharer.start(f'[redis]\nname = "{name}"\nrates = "{rates}"\n', redis.url, **tables)
            made.append(sharer)
        await until(lambda: all(len(one.runtime.levels().sharing.gateways) == 2 for one in made))  # type: ignore[union-attr]
        return made[0], made[1]

    yield start
    for sharer in made:
        await sharer.stop()


async def away(redis: RedisServer, *sharers: Sharer) -> None:
    await redis.kill()
    await until(lambda: not any(one.runtime.levels().sharing.up for one in sharers))  # type: ignore[union-attr]


async def purged(sharer: Sharer) -> None:
    """Wait until it does not send what was stored; it may do so for as long as promised."""
    async with within(PROMISED_SECONDS):
        while "hit" in (await sharer.hit()).cache:  # noqa: ASYNC110 - another process announces it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "what", [{"query": 0}, {"tag": "sales"}, {"data_source": 1}, {"all": True}, {"scope": "analyst"}]
)
async def test_a_purge_reaches_the_other_gateway(what: dict[str, object], pair: Callable[..., Any]) -> None:
    one, two = await pair()
    what = {"query": one.named["by_country"]} if "query" in what else what
    await one.rows("by_country", max_age=600)
    for _ in range(3):  # prepared responses of the fast path, too
        assert "hit" in (await two.hit()).cache
    assert (await one.tell("purge", **what)).keys() == {"purged"}
    await purged(two)


@pytest.mark.parametrize(
    "what", [{"query": 0}, {"tag": "sales"}, {"data_source": 1}, {"all": True}, {"scope": "analyst"}]
)
async def test_no_gateway_takes_rows_of_redash_from_before_a_purge(
    what: dict[str, object], pair: Callable[..., Any]
) -> None:
    # Nobody has stored anything of the query, so there is nothing to delete: what was said must reach the other.
    one, two = await pair()
    one.sandbox.queries[one.named["kb1"]].tags = ["sales"]
    old = await one.sandbox.execute_directly(one.named["kb1"])
    noted = two.runtime.results.cache._purges
    before = noted.record(0)
    await one.tell("purge", **({"query": one.named["kb1"]} if "query" in what else what))
    await until(lambda: noted.record(0) != before, timeout=PROMISED_SECONDS)
    assert (await two.post("kb1", max_age=600, wait=20)).json["query_result"]["id"] != old.id


async def test_what_gateways_purge_by_themselves_runs_nothing_again(
    pair: Callable[..., Any], redis: RedisServer
) -> None:
    # An emptied Redis may have lost a purge, and an edit deletes: that says nothing of the rows that Redash has.
    one, two = await pair()
    old = await one.sandbox.execute_directly(one.named["kb1"])
    await redis.ask("FLUSHALL")
    links = [each.runtime.store.link for each in (one, two)]
    await until(lambda: all(link.losses and link.up for link in links))
    await one.runtime.results.definitions.delete(one.named["kb1"])
    edited = (None, one.named["kb1"])
    await until(lambda: edited in two.runtime.results.cache._purges._purged._by_key)
    assert (await two.post("kb1", max_age=600, wait=20)).json["query_result"]["id"] == old.id


async def test_what_is_said_while_redis_is_away_is_said_later(pair: Callable[..., Any], redis: RedisServer) -> None:
    one, two = await pair()
    old = await one.sandbox.execute_directly(one.named["kb1"])
    link = one.runtime.store.link
    link.usable.clear()  # only this one has lost it
    noted, before = two.runtime.results.cache._purges, two.runtime.results.cache._purges.record(0)
    await one.tell("purge", all=True)
    assert noted.record(0) == before
    for step in link.on_up:
        await step()
    link.usable.set()
    await until(lambda: noted.record(0) != before, timeout=PROMISED_SECONDS)
    assert (await two.post("kb1", max_age=600, wait=20)).json["query_result"]["id"] != old.id


async def test_a_run_that_a_purge_elsewhere_has_overtaken_is_not_stored(pair: Callable[..., Any]) -> None:
    one, two = await pair()
    job = (await two.post("slow_seconds", parameters={"seconds": 1}, max_age=0)).job
    await one.tell("purge", all=True)
    assert (await two.finish(job["id"]))["status"] == 3
    assert "fwd" in (await two.post("slow_seconds", parameters={"seconds": 1}, max_age=600)).cache


async def test_a_run_is_not_stored_if_a_purge_may_have_been_missed(
    pair: Callable[..., Any], redis: RedisServer
) -> None:
    _, two = await pair()
    job = (await two.post("slow_seconds", parameters={"seconds": 1}, max_age=0)).job
    losses = two.runtime.levels().sharing.losses  # type: ignore[union-attr]
    await redis.ask("FLUSHALL")
    await until(lambda: two.runtime.levels().sharing.losses > losses)  # type: ignore[union-attr]
    assert (await two.finish(job["id"]))["status"] == 3
    assert "fwd" in (await two.post("slow_seconds", parameters={"seconds": 1}, max_age=600)).cache


async def test_a_reload_reaches_the_other_gateway_which_reads_its_own_file(pair: Callable[..., Any]) -> None:
    one, two = await pair()
    two.write(two.text.replace("[clients.second]", "[clients.third]"))
    reply = await one.tell("reload")
    note = "two was asked to load its own file; the log there says whether it has mistakes"
    assert reply == {"reloaded": True, "changed": [], "notes": [note]}
    await until(lambda: "third" in two.runtime.live.settings.clients, timeout=PROMISED_SECONDS)
    assert "second" not in two.runtime.live.settings.clients


async def test_mistakes_in_the_others_file_change_nothing_there_and_are_told(
    pair: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await pair()
    before = two.runtime.live.settings
    two.write(two.text + "[nothing]\n")
    await one.tell("reload")
    await until(lambda: not two.runtime.reload.successful)
    assert two.runtime.live.settings is before
    assert await two.metric("redash_gateway_config_last_reload_successful") == 0
    assert await one.metric("redash_gateway_config_last_reload_successful") == 1
    assert "reload: " in caplog.text
    assert "unknown key" in caplog.text


async def test_a_signal_reloads_only_its_own_process(pair: Callable[..., Any]) -> None:
    one, two = await pair()
    loaded = two.runtime.reload.at
    assert (await one.runtime.operations.reload()).notes == []
    await two.rows("by_country", max_age=600)
    await one.tell("purge", all=True)
    await purged(two)  # a reload would have reached it by then, too
    assert two.runtime.reload.at == loaded


async def test_without_redis_the_operator_is_told_who_does_not_hear(
    pair: Callable[..., Any], redis: RedisServer
) -> None:
    one, two = await pair()
    await away(redis, one, two)
    assert (await one.tell("reload"))["notes"] == [
        "Redis is unavailable: only this gateway has loaded its configuration again"
    ]
    notes = ["Redis is unavailable: the other gateways purge this as soon as they share it again"]
    assert (await one.tell("purge", all=True))["notes"] == notes


RATE = 'rate = "60/h"\nburst = 12'


async def test_a_rate_is_shared(pair: Callable[..., Any]) -> None:
    one, two = await pair(dashboard=RATE)
    served = sum([(await each.times(9)).count(200) for each in (one, two)])
    assert 11 <= served <= 12, "the first may keep one token"
    refused = await two.get("/api/session")
    assert refused.status == 429
    assert refused.headers["RateLimit"].startswith('"client";r=0;')
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


async def test_a_client_without_a_rate_and_another_client_are_not_counted(pair: Callable[..., Any]) -> None:
    one, _ = await pair(dashboard=RATE, second=RATE)
    assert (await one.times(12)).count(200) == 12
    assert (await one.times(12, client="second")).count(200) == 12
    assert (await one.times(20, client="writer")).count(200) == 20


async def test_rates_for_each_gateway_by_itself(pair: Callable[..., Any]) -> None:
    one, two = await pair(rates="gateway", dashboard=RATE)
    assert [(await each.times(15)).count(200) for each in (one, two)] == [12, 12]


async def test_a_reload_changes_who_shares_rates(pair: Callable[..., Any]) -> None:
    one, two = await pair(dashboard=RATE)
    assert (await one.times(15)).count(200) == 12
    for each in (one, two):
        each.write(each.text.replace('rates = "shared"', 'rates = "gateway"'))
        assert (await each.runtime.operations.reload()).notes == []
        assert (await each.times(15)).count(200) == 12


async def test_a_reload_reads_the_password_of_redis_again(
    tmp_path: Path, redis: RedisServer, sandbox: Sandbox, clock: TurnableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used from the next connection on. Else a rotated password would cost a restart of every gateway."""
    for name, key in token_table(sandbox).items():
        monkeypatch.setenv(name, key)
    await redis.ask("ACL", "SETUSER", "gateway", "on", ">first-password", "~*", "&*", "+@all")
    (password := tmp_path / "redis.password").write_text("first-password")
    sharer = Sharer(tmp_path, sandbox, clock)
    await sharer.start('[redis]\nusername = "gateway"\npassword_file = "redis.password"\n', redis.url)
    sharing = sharer.runtime.sharing
    assert sharing is not None
    await until(lambda: sharing.stats().up)
    await redis.ask("ACL", "SETUSER", "gateway", ">second-password", "<first-password")
    password.write_text("second-password")
    assert (await sharer.runtime.operations.reload()).changed == ["redis.password"]
    await redis.ask("CLIENT", "KILL", "USER", "gateway")
    await until(lambda: sharing.stats().losses == 1 and sharing.stats().up)
    await sharer.stop()


async def test_without_redis_each_gateway_allows_its_part(pair: Callable[..., Any], redis: RedisServer) -> None:
    one, two = await pair(dashboard=RATE)
    await away(redis, one, two)
    assert [(await each.times(15)).count(200) for each in (one, two)] == [6, 6]
    await redis.start()
    await until(lambda: all(each.runtime.levels().sharing.up for each in (one, two)))
    assert [(await each.times(5)).count(200) for each in (one, two)] == [0, 0]


async def test_most_hits_of_a_client_with_a_rate_ask_redis_nothing(
    pair: Callable[..., Any], redis: RedisServer
) -> None:
    one, _ = await pair(dashboard='rate = "100000/s"')
    await one.rows("by_country", max_age=600)
    for _ in range(3):
        await one.hit()
    before = await calls(redis)
    async with asyncio.timeout(20):
        for _ in range(200):
            assert "hit" in (await one.hit()).cache
    # What is left: each gateway looks around four times a second.
    assert await calls(redis) - before < 100


async def calls(redis: RedisServer) -> int:
    found = str(await redis.ask("INFO", "commandstats"))
    return sum(map(int, re.findall(r"[:,]calls=(\d+)", found)))


async def test_metrics_and_status_tell_who_shares_the_store(pair: Callable[..., Any], redis: RedisServer) -> None:
    one, two = await pair()
    metrics = await one.metrics()
    assert metrics["redash_gateway_peers"] == 2
    assert metrics['redash_gateway_store_up{tier="redis"}'] == 1
    assert metrics["redash_gateway_redis_losses_total"] == 0
    assert metrics["redash_gateway_redis_memory_bytes"] > 0
    assert any('name="one"' in name for name in metrics if name.startswith("redash_gateway_build_info"))
    report = await status(one)
    assert report["name"] == "one"
    assert [(row["name"], row["here"]) for row in report["gateways"]] == [("one", "this one"), ("two", "")]
    assert tile(report)["text"].startswith("2 share the store; Redis answers in ")
    await away(redis, one, two)
    metrics = await one.metrics()
    assert metrics["redash_gateway_peers"] == 1
    assert metrics['redash_gateway_store_up{tier="redis"}'] == 0
    assert metrics["redash_gateway_redis_losses_total"] == 1
    report = await status(one)
    assert report["gateways"] == []
    assert tile(report)["state"] == "bad"
    assert re.match("Redis is unavailable, this one works alone: .*[Cc]onnect", tile(report)["text"]), tile(report)
    assert "part of the store is down" in report["verdict"]


async def test_an_evicting_redis_is_told(pair: Callable[..., Any], redis: RedisServer) -> None:
    await redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    one, _ = await pair()
    report = await status(one)
    assert tile(report)["state"] == "bad"
    assert "maxmemory-policy is not noeviction" in report["verdict"]


async def status(sharer: Sharer) -> Any:
    async with sharer.session.get(f"{sharer.admin}/api/status") as response:
        return await response.json()


def tile(report: Any) -> Any:
    (found,) = [part for part in report["health"] if part["name"] == "Gateways"]
    return found


async def test_a_newer_result_reaches_who_waits_on_the_other_gateway(pair: Callable[..., Any]) -> None:
    one, two = await pair()
    germany: dict[str, Any] = {"parameters": {"country": "DE"}, "max_age": 0}
    await one.post("in_country", wait=20, **germany)
    path = f"/api/queries/{one.named['in_country']}/results.json?p_country=DE&max_age=86400"
    first = await two.get(path)
    held = asyncio.create_task(two.get(path, prefer="wait=20", if_none_match=first.headers["ETag"]))
    await until(lambda: two.runtime.watchers.count == 1)
    made = (await one.post("in_country", wait=20, **germany)).json["query_result"]["id"]
    async with within(PROMISED_SECONDS):
        reply = await held
    assert (reply.status, reply.json["query_result"]["id"]) == (200, made)


async def test_who_loads_data_says_so_to_one_gateway_for_all(pair: Callable[..., Any]) -> None:
    one, two = await pair(dashboard='can = ["read", "execute", "purge"]')
    await one.rows("by_country", max_age=600)
    await two.hit()
    assert (await one.call("POST", "/gateway/purge", {"tag": "sales"})).status == 200
    await purged(two)
    started = two.started
    await two.rows("by_country", max_age=600)
    assert two.started == started, "one of the two has run it after the purge, for both"

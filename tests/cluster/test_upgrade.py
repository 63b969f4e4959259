"""Three gateways are replaced one after the other while callers go on, as a rollout does."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from random import Random

import aiohttp
import pytest
from support.cluster import Cluster, Gateway
from support.http import Reply
from support.redis_server import RedisServer
from support.waiting import until

import gateway
from gateway.sandbox import Sandbox, parameter

KEYS = 12
CALLERS = 6


def another_version(directory: Path) -> Path:
    """A copy of the program whose format in Redis has another version."""
    shutil.copytree(Path(gateway.__file__).parent, directory / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    path = directory / "gateway" / "store" / "redis" / "scripts.py"
    text, changed = re.subn(
        r"(?m)^(FORMAT: Final = )(\d+)$", lambda found: f"{found[1]}{int(found[2]) + 1}", path.read_text()
    )
    assert changed == 1
    path.write_text(text)
    return directory


class Front:
    """A load balancer: new requests go to gateways in rotation, and a job's polls to the gateway that gave it."""

    def __init__(self, cluster: Cluster, sandbox: Sandbox) -> None:
        self.rotation = list(cluster.gateways)
        self.failed: list[str] = []
        self.done = 0
        self.query = sandbox.add_query(
            "rolling", "select {{ n }} as n, sleep(0.1) as slept", parameters=[parameter("n", "number", 1)]
        )
        self.busy: dict[str, int] = {gateway.name: 0 for gateway in cluster.gateways}
        self.stopping = False

    async def call(self, number: int) -> None:
        chance = Random(number)
        while not self.stopping:
            gateway, n = chance.choice(self.rotation), chance.randrange(KEYS)
            self.busy[gateway.name] += 1
            try:
                await self._one(gateway, n, chance.choice((0, 60, 86400)))
            except (aiohttp.ClientError, OSError, AssertionError) as error:
                self.failed.append(f"{gateway.name}: {error!r}")
            finally:
                self.busy[gateway.name] -= 1
            self.done += 1
            await asyncio.sleep(0.01)

    async def _one(self, gateway: Gateway, n: int, max_age: int) -> None:
        reply = await gateway.post(self.query, max_age=max_age, parameters={"n": n})
        check(reply, reply.status == 200)
        if reply.body.startswith(b'{"job"'):
            job = await gateway.finish(reply.job["id"])
            assert job["status"] == 3, job
            reply = await gateway.get(f"/api/query_results/{job['query_result_id']}")
        check(reply, reply.status == 200 and reply.rows[0]["n"] == n)

    async def progress(self) -> None:
        before = self.done
        await until(lambda: self.done > before + 5 * CALLERS, timeout=60)


def check(reply: Reply, good: bool) -> None:
    assert good, f"{reply.status} {reply.cache} {reply.body[:300]!r}"


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", ["the same format", "another format"])
async def test_no_request_fails_in_a_rolling_upgrade(
    cluster: Cluster, sandbox: Sandbox, redis: RedisServer, tmp_path: Path, version: str
) -> None:
    front = Front(cluster, sandbox)
    tree = another_version(tmp_path / "other") if version == "another format" else None
    calling = [asyncio.create_task(front.call(number)) for number in range(CALLERS)]
    await front.progress()
    for gateway_ in cluster.gateways:
        front.rotation.remove(gateway_)
        await until(lambda name=gateway_.name: front.busy[name] == 0, timeout=30)  # type: ignore[misc]
        await gateway_.stop()
        gateway_.tree = tree
        await gateway_.start()
        front.rotation.append(gateway_)
        await front.progress()
    front.stopping = True
    await asyncio.gather(*calling)
    assert not front.failed, "\n".join(front.failed[:20])
    found = await redis.ask("KEYS", "*")
    assert isinstance(found, list)
    formats = {key.split(":")[1] for key in found}
    assert len(formats) == (2 if tree is not None else 1), formats


async def test_gateways_of_two_formats_share_nothing(cluster: Cluster, sandbox: Sandbox, tmp_path: Path) -> None:
    query = sandbox.add_query("apart", "select run_number() as run")
    old, new, _ = cluster.gateways
    await new.stop()
    new.tree = another_version(tmp_path / "other")
    await new.start()
    with sandbox.hold(query):
        job = (await old.post(query, max_age=0)).job["id"]
        await sandbox.wait_executions(1)
        assert (await new.get(f"/api/jobs/{job}")).status == 404
    await old.finish(job)
    assert "; hit" in (await old.post(query, max_age=600)).cache
    reply = await new.post(query, max_age=600)
    assert "; hit" not in reply.cache
    assert reply.status == 200

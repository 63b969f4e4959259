"""Buckets that several processes share: how many tokens all get together, and that nobody waits without need."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import until

from gateway.concurrency import leased_bucket
from gateway.concurrency.leased_bucket import PORTIONS, Granted, LeasedBucket
from gateway.concurrency.token_bucket import TokenBucket

RATE = 10.0


@dataclass
class Shared:
    """A bucket in this process, as Redis has it: it fills by its own clock, and is full when it is not there yet."""

    now: float = 0.0
    up: bool = True
    sharers: int = 1
    exchanges: int = 0
    held: dict[str, TokenBucket] = field(default_factory=dict)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def exchange(
        self, name: str, rate: float, burst: float, *, want: int, back: int, at_most: float | None
    ) -> Granted | None:
        await asyncio.sleep(0)
        await self.open.wait()
        if not self.up:
            return None
        self.exchanges += 1
        bucket = self.held.get(name)
        level = burst if bucket is None else bucket.level(self.now)
        if at_most is not None:
            level = min(level, at_most)
        level = min(burst, level + back)
        tokens = min(want, int(level))
        self.held[name] = TokenBucket(rate, burst, self.now, level - tokens)
        return Granted(tokens, level - tokens)

    def bucket(self, burst: float) -> LeasedBucket:
        return LeasedBucket("a", RATE, burst, self, lambda: self.now)


async def use(bucket: LeasedBucket, now: float) -> bool:
    """Take a token as a request does: one that is here, else one of the shared bucket, if it may have one."""
    return bucket.take(now) or (bucket.may_fetch(now) and await bucket.fetch())


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_sharer_gets_the_whole_burst_at_once_and_then_the_rate() -> None:
    shared = Shared(sharers=3)
    bucket = shared.bucket(40)
    assert (await asyncio.gather(*(use(bucket, 0.0) for _ in range(60)))).count(True) == 40
    shared.now = 1.0
    assert (await asyncio.gather(*(use(bucket, 1.0) for _ in range(60)))).count(True) == 10


async def test_most_uses_cost_no_round_trip() -> None:
    shared = Shared(sharers=2)
    bucket = shared.bucket(800)
    taken = 0
    for _ in range(500):
        taken += await use(bucket, 0.0)
    assert taken == 500
    assert shared.exchanges <= 12


async def test_all_who_wait_share_a_round_trip() -> None:
    shared = Shared()
    shared.open.clear()
    bucket = shared.bucket(1000)
    waiting = asyncio.gather(*(use(bucket, 0.0) for _ in range(900)))
    await settled()
    shared.open.set()
    assert all(await waiting)
    assert shared.exchanges <= 3


async def test_an_empty_bucket_is_not_asked_again_before_it_has_a_token() -> None:
    """A client far over its rate must cost no round trip for each request that is refused."""
    shared = Shared()
    bucket = shared.bucket(1)
    assert await use(bucket, 0.0)
    assert not await use(bucket, 0.0)
    before = shared.exchanges
    for _ in range(100):
        assert not await use(bucket, 0.05)
    assert shared.exchanges == before
    assert bucket.seconds_until_token(0.05) == pytest.approx(0.05)
    shared.now = 0.1
    assert await use(bucket, 0.1)


async def test_what_is_not_used_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tokens that other gateways hold would be missing for a client that moves on."""
    monkeypatch.setattr(leased_bucket, "IDLE_SECONDS", 0.01)
    shared = Shared(sharers=2)
    one, other = shared.bucket(80), shared.bucket(80)
    assert await use(one, 0.0)
    assert shared.held["a"].level(0.0) == 80 - 11
    await until(lambda: shared.held["a"].level(0.0) == 79)
    assert [await use(other, 0.0) for _ in range(80)].count(True) == 79


async def test_one_whose_caller_left_costs_no_token() -> None:
    shared = Shared()
    bucket = shared.bucket(2)
    shared.open.clear()
    left = asyncio.create_task(bucket.fetch())
    await settled()
    stays = asyncio.create_task(bucket.fetch())
    await settled()
    left.cancel()
    shared.open.set()
    assert await stays
    assert await use(bucket, 0.0)
    assert not await use(bucket, 0.0)


async def test_without_the_source_each_has_its_part() -> None:
    shared = Shared(sharers=4)
    buckets = [shared.bucket(40) for _ in range(4)]
    shared.up = False
    for bucket in buckets:
        assert [await use(bucket, 0.0) for _ in range(40)].count(True) == 10
    for bucket in buckets:
        assert [await use(bucket, 1.0) for _ in range(40)].count(True) == 2  # 10/s by 4, in whole tokens
    assert buckets[0].remaining(1.0) == 0
    assert 0 < buckets[0].seconds_until_token(1.0) <= 0.4


async def test_who_waits_when_the_source_is_lost_is_served_from_the_part() -> None:
    shared = Shared(sharers=2)
    shared.open.clear()
    bucket = shared.bucket(20)
    waiting = asyncio.gather(*(use(bucket, 0.0) for _ in range(20)))
    await settled()
    shared.up = False
    shared.open.set()
    assert (await waiting).count(True) == 10


async def test_what_was_used_alone_counts_when_it_is_shared_again() -> None:
    shared = Shared(sharers=2)
    one, other = shared.bucket(20), shared.bucket(20)
    shared.up = False
    assert [await use(one, 0.0) for _ in range(10)].count(True) == 10
    shared.up, shared.held = True, {}  # a Redis that came back empty
    assert [await use(one, 0.0), await use(other, 0.0)] == [False, False]
    shared.now = 1.0
    assert [await use(other, 1.0) for _ in range(20)].count(True) == 10


@dataclass
class Step:
    who: int
    uses: int
    later: float
    up: bool


steps = st.builds(
    Step,
    st.integers(0, 2),
    st.integers(0, 30),
    st.sampled_from([0.0, 0.01, 0.3, 2.0]),
    st.sampled_from([True] * 9 + [False]),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 50), st.lists(steps, max_size=40))
def test_all_together_get_no_more_than_promised(burst: int, history: list[Step]) -> None:
    """In any time T in which the source was lost k times: (1 + k) x burst + rate x T, and a portion for each sharer.

    docs/several-machines.md says so.
    """
    taken, lost = asyncio.run(played(burst, history))
    held = 3 * max(1, burst // (PORTIONS * 3))
    alone = 3 * max(1.0, burst / 3) - burst  # each has one token at least
    for first, (since, _) in enumerate(taken):
        count = 0
        for then, number in taken[first:]:
            count += number
            losses = sum(since <= at <= then for at in lost)
            most = (1 + losses) * (burst + alone) + RATE * (then - since) + held
            assert count <= most + 1e-6, (since, then)


async def played(burst: int, history: list[Step]) -> tuple[list[tuple[float, int]], list[float]]:
    shared = Shared(sharers=3)
    buckets = [shared.bucket(burst) for _ in range(3)]
    taken, lost = [], []
    for step in history:
        shared.now += step.later
        if shared.up and not step.up:
            lost.append(shared.now)
        shared.up = step.up
        bucket = buckets[step.who]
        uses = await asyncio.gather(*(use(bucket, shared.now) for _ in range(step.uses)))
        taken.append((shared.now, uses.count(True)))
        await settled()
    return taken, lost

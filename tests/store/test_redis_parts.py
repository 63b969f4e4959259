"""The pure parts of the shared store: pieces of bodies, and invalidations that wait for Redis."""

from __future__ import annotations

import contextlib
import zlib

import hypothesis.strategies as st
import pytest
from hypothesis import given
from store_helpers import key, noise

from gateway.store.redis import invalidations, pieces
from gateway.store.redis.invalidations import EVERYTHING, Invalidations
from gateway.store.redis.pieces import PIECE_BYTES, DamagedError, count_of, decode, encode

# -- pieces


@given(st.binary(max_size=5_000) | st.builds(lambda count: b"row," * count, st.integers(0, PIECE_BYTES // 4)))
def test_a_piece_comes_back_as_it_was(data: bytes) -> None:
    stored = encode(data)
    assert decode(stored) == data
    assert len(stored) <= len(data) + 1


ENCODED = encode(b"some rows of a result, " * 1_000)
cut = st.integers(0, len(ENCODED)).map(lambda at: ENCODED[:at])
changed = st.builds(
    lambda at, byte: ENCODED[:at] + bytes([byte]) + ENCODED[at + 1 :], st.integers(0, 500), st.integers(0, 255)
)


@given(st.binary(max_size=200) | cut | changed)
def test_whatever_stands_in_redis_is_a_piece_or_damaged(stored: bytes) -> None:
    with contextlib.suppress(DamagedError):
        assert len(decode(stored)) <= PIECE_BYTES


def test_a_piece_never_becomes_larger_than_a_piece() -> None:
    """A few bytes must not fill the memory of a gateway."""
    bomb = b"\x01" + zlib.compress(bytes(PIECE_BYTES + 1))
    with pytest.raises(DamagedError):
        decode(bomb)
    with pytest.raises(DamagedError):
        decode(b"\x00" + bytes(PIECE_BYTES + 1))
    assert len(decode(encode(bytes(PIECE_BYTES)))) == PIECE_BYTES


@given(st.integers(0, 2**31))
def test_the_pieces_of_a_body_are_just_enough(size: int) -> None:
    count = count_of(size)
    assert (count - 1) * PIECE_BYTES < size <= count * PIECE_BYTES if count else size <= PIECE_BYTES


def test_only_what_gets_smaller_is_compressed() -> None:
    assert len(encode(noise(10_000))) == 10_001
    assert len(encode(b"row," * 2_500)) < 1_000
    assert encode(b"small") == b"\x00small"
    assert pieces.count_of(PIECE_BYTES + 1) == 2


# -- invalidations


class Redis:
    """Notes what it hears, until it fails."""

    def __init__(self, works: int = 10**9) -> None:
        self.heard: list[object] = []
        self._works = works

    async def hear(self, what: object) -> None:
        if len(self.heard) >= self._works:
            raise ConnectionError
        self.heard.append(what)


async def test_what_was_missed_is_passed_on_once() -> None:
    missed, redis = Invalidations(), Redis()
    missed.purge(("s", 1))
    missed.deny([key(1), key(2)])
    missed.deny([key(1)])
    await missed.pass_on(redis.hear, redis.hear)
    await missed.pass_on(redis.hear, redis.hear)
    assert redis.heard == [("s", 1), [key(1), key(2)]]


@pytest.mark.parametrize("works", [0, 1, 2])
async def test_what_fails_is_passed_on_later(works: int) -> None:
    missed, redis, later = Invalidations(), Redis(works), Redis()
    missed.purge(("s", 1))
    missed.purge((None, 2))
    missed.deny([key(1)])
    with pytest.raises(ConnectionError):
        await missed.pass_on(redis.hear, redis.hear)
    await missed.pass_on(later.hear, later.hear)
    assert [*redis.heard, *later.heard] == [("s", 1), (None, 2), [key(1)]]


@pytest.mark.parametrize("many", ["selections", "keys"])
async def test_too_many_are_a_purge_of_everything(many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidations, "MOST_SELECTIONS", 5)
    monkeypatch.setattr(invalidations, "MOST_KEYS", 5)
    missed, redis = Invalidations(), Redis()
    for number in range(6):
        if many == "selections":
            missed.purge(("s", number))
        else:
            missed.deny([key(number)])
    await missed.pass_on(redis.hear, redis.hear)
    assert redis.heard == [EVERYTHING]

"""A Bloom filter of the keys in the file, so that most misses need no look-up on disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.model import Key

BITS: Final = 1 << 24
"""2 MB: 1 % false positives with a million keys, half with ten million. Each costs a look-up on disk."""

_MASK: Final = BITS - 1


class BloomFilter:
    """Keys are added and never removed. Not thread-safe: two threads that add at the same time lose bits."""

    def __init__(self) -> None:
        self.complete = False
        """Whether every key that was in the file when it was opened has been added; until then any key may be in it."""
        self._bits = bytearray(BITS // 8)

    def add(self, keys: Iterable[Key]) -> None:
        """Add keys. They are SHA-256 digests, so their own bytes serve as hashes."""
        bits = self._bits
        for key in keys:
            number = int.from_bytes(key[:8], "big")
            first, second = number & _MASK, number >> 32 & _MASK
            bits[first >> 3] |= 1 << (first & 7)
            bits[second >> 3] |= 1 << (second & 7)

    def may_contain(self, key: Key) -> bool:
        """Whether the file may have the key; False is certain."""
        number = int.from_bytes(key[:8], "big")
        first, second = number & _MASK, number >> 32 & _MASK
        bits = self._bits
        return not self.complete or bool(bits[first >> 3] >> (first & 7) & bits[second >> 3] >> (second & 7) & 1)

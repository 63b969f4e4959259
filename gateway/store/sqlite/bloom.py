"""Which keys the file may hold: a Bloom filter, so that a miss does not wait for the disk to say no."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.model import Key

BITS: Final = 1 << 24
"""2 MB: of a million keys 1 % are taken for held that are not, of ten million half. Those then cost a look."""

_MASK: Final = BITS - 1


class BloomFilter:
    """Keys are added and never taken out. Not for threads: two that add at once lose bits."""

    def __init__(self) -> None:
        self.complete = False
        """Whether every key that the file held when it was opened has been added; until then all may be held."""
        self._bits = bytearray(BITS // 8)

    def add(self, keys: Iterable[Key]) -> None:
        """Add keys. They are SHA-256: any of their bytes do as a hash."""
        bits = self._bits
        for key in keys:
            number = int.from_bytes(key[:8], "big")
            first, second = number & _MASK, number >> 32 & _MASK
            bits[first >> 3] |= 1 << (first & 7)
            bits[second >> 3] |= 1 << (second & 7)

    def may_contain(self, key: Key) -> bool:
        """Whether the file may hold the key; False is certain."""
        number = int.from_bytes(key[:8], "big")
        first, second = number & _MASK, number >> 32 & _MASK
        bits = self._bits
        return not self.complete or bool(bits[first >> 3] >> (first & 7) & bits[second >> 3] >> (second & 7) & 1)

"""Bodies as they stand in Redis: in pieces, each compressed by itself where that helps. A large body is never whole in
memory on its way. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final

try:  # a sixth of the time for the same size; there are machines without it
    from isal.isal_zlib import compress as _compress
    from isal.isal_zlib import decompressobj as _decompressobj

    _make: Callable[..., Any] = _decompressobj
    LEVEL = 1
except ImportError:
    _compress = zlib.compress
    _make = zlib.decompressobj
    LEVEL = 1

PIECE_BYTES: Final = 256 * 1024
INLINE_BYTES: Final = 16 * 1024
"""Up to this size a thread would cost more than the work."""

_MIN_BYTES: Final = 1_000
_MAX_RATIO: Final = 0.9
_PLAIN, _DEFLATED = b"\x00", b"\x01"


class DamagedError(Exception):
    """What stands in Redis is not what a gateway of this version has written there."""


def encode(data: bytes) -> bytes:
    """Return a piece as it is stored."""
    if len(data) >= _MIN_BYTES:
        packed = _compress(data, LEVEL)
        if len(packed) < len(data) * _MAX_RATIO:
            return _DEFLATED + packed
    return _PLAIN + data


def decode(stored: bytes) -> bytes:
    """Return the bytes of a piece, at most `PIECE_BYTES`. Raises DamagedError."""
    if stored[:1] == _PLAIN and len(stored) <= PIECE_BYTES + 1:
        return stored[1:]
    if stored[:1] != _DEFLATED:
        raise DamagedError("has an unknown form")
    unpacker = _make()
    try:
        data: bytes = unpacker.decompress(stored[1:], PIECE_BYTES)
    except Exception as error:  # zlib's and isal's errors have no common base
        raise DamagedError("cannot be decompressed") from error
    if not unpacker.eof:
        raise DamagedError("is longer or shorter than it was")
    return data


def count_of(size: int) -> int:
    """Return in how many pieces a body of that size is stored; 0: beside its digest, in one key."""
    return 0 if size <= PIECE_BYTES else -(-size // PIECE_BYTES)

"""`max_age`, parsed as Redash does."""

from __future__ import annotations

from typing import Final

from gateway.errors import BadRequest

ANY_AGE: Final = None
"""`max_age` is absent, null or -1: the newest result of any age."""

LONGEST_MAX_AGE: Final = 10**12
"""Recorded as accepted; Redash answers 10**15 with 500 (CONTRACT 6)."""


def parse_max_age(value: object) -> int | None:
    """Parse `max_age` as Redash does, with Python's `int()` (CONTRACT 6).

    Returns seconds, or `ANY_AGE`; 0 for every value with which Redash would execute.

    Raises:
        BadRequest: for what Redash answers with 500: text that is not a whole number, NaN, lists, beyond 10**12.
    """
    if value is None:
        return ANY_AGE
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        raise _bad_max_age() from None
    if number > LONGEST_MAX_AGE:
        raise _bad_max_age()
    return ANY_AGE if number == -1 else max(0, number)


def _bad_max_age() -> BadRequest:
    return BadRequest(f"max_age must be a whole number of seconds up to {LONGEST_MAX_AGE}; -1 or absent for any age.")

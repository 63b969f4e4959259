"""`Prefer: wait=N`: how long a caller wants to wait, and how long it may."""

from __future__ import annotations

import pytest

from gateway.model import Request
from gateway.policy.context import honoured_wait


@pytest.mark.parametrize(
    ("preference", "seconds"),
    [
        ("wait=0", 0),
        ("wait=7", 7),
        ("respond-async, wait=007", 7),
        ('wait="50"', 50),
        ("wait=999999", 60),
        ("wait=9999999", 60),
        (f"wait={'9' * 7_000}", 60),
        (f"wait={'0' * 7_000}5", 5),
        (f"wait={'0' * 7_000}", 0),
        ("wait=7x", None),
        ("wait=-7", None),
        ("wait=", None),
        ("await=7", None),
    ],
)
def test_a_caller_waits_as_long_as_it_wants_to_and_may(preference: str, seconds: int | None) -> None:
    # A number of any length is a number (RFC 7240 2.3); int() refuses more than 4,300 digits.
    assert honoured_wait(Request("GET", "/", "", {"Prefer": preference}, False), 60.9) == seconds

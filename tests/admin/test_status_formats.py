"""Numbers as people read them."""

from __future__ import annotations

import pytest

from gateway.admin.formats import formatted


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("count", 12304, "12,304"),
        ("count", None, "–"),
        ("percent", 0.942, "94 %"),
        ("percent", 0.9999, ">99 %"),
        ("percent", 0.0001, "<1 %"),
        ("percent", 1.0, "100 %"),
        ("percent", 0, "0 %"),
        ("duration", 0, "0 s"),
        ("duration", 0.00004, "<0.1 ms"),
        ("duration", 0.0034, "3.4 ms"),
        ("duration", 0.34, "340 ms"),
        ("duration", 0.9999, "1 s"),
        ("duration", 4.24, "4.2 s"),
        ("duration", 59.7, "1 min"),
        ("duration", 192, "3 min 12 s"),
        ("duration", 11520, "3 h 12 min"),
        ("duration", 200_000, "2 d 7 h"),
        ("ago", 0.4, "just now"),
        ("ago", 4.9, "4 s ago"),
        ("size", 0, "0 B"),
        ("size", 999, "999 B"),
        ("size", 12_400_000, "12 MB"),
        ("size", 1_240_000, "1.2 MB"),
        ("size", 3e15, "3000 TB"),
        ("query", 42, "42"),
        ("query", 0, "ad hoc"),
    ],
)
def test_numbers_are_formatted_for_people(form: str, value: object, text: str) -> None:
    assert formatted(value, form) == text

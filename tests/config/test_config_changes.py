"""Which keys a reload says have changed: names only, whatever the values are."""

from __future__ import annotations

import pytest
from config_helpers import BASE, CLIENT, HASH, OTHER_HASH, QUERY, good

from gateway.config import changes


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (BASE, []),
        (BASE + "[cache]\nfloor = 5\n", ["cache.floor"]),
        (BASE + '[cache]\nstore = "memory:"\n[server]\nlisten = "[::1]:1"\n', ["server.listen", "cache.store"]),
        (BASE.replace(HASH, OTHER_HASH), ["clients.c.token_sha256"]),
        (BASE.replace(CLIENT, CLIENT.replace(".c]", ".d]")), ["clients.c (removed)", "clients.d (new)"]),
        (BASE.replace(QUERY, ""), ["credentials.q (removed)"]),
        (BASE + "[[cache.rules]]\nqueries = [1]\nfloor = 1\n", ["cache.rules"]),
        (BASE.replace('"https://redash.example.com"', '"https://other.example.com"'), ["upstream.url"]),
    ],
)
def test_what_differs_is_named(after: str, expected: list[str]) -> None:
    assert changes(good(BASE), good(after)) == expected


def test_a_rotated_key_is_a_change_though_the_file_is_the_same() -> None:
    """It stands in a variable or another file; a reload is how it is rotated."""
    assert changes(good(BASE), good(BASE, environ={"KEY": "n" * 40})) == ["credentials.a.key", "credentials.q.key"]

"""The recorded behaviour of other versions of Redash against the sandbox of that version, exchange by exchange."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .recorded import differences, send
from .recorded_versions import VERSIONS, prepared, version_names

DIFFERENT = {
    "versions/v25.1.0/session_user": "the sandbox of 25 is 25.8, whose client_config has nullValue; 25.1 has not",
}
"""Exchanges to which the sandbox responds differently, with the reason."""

NAMES = [name for version in VERSIONS for name in version_names(version)]


async def _differences(name: str) -> list[str]:
    async with prepared(name) as (sandbox, exchange):
        ours = await send(exchange, int(sandbox.url.rsplit(":", 1)[1]))
    return differences(exchange.response, ours)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DIFFERENT])
async def test_responds_like_that_version(name: str) -> None:
    assert await _differences(name) == []


@pytest.mark.parametrize("name", sorted(DIFFERENT))
async def test_a_declared_difference_is_still_one(name: str) -> None:
    assert await _differences(name) != []


def test_all_exchanges_are_replayed(note: Callable[[str], None]) -> None:
    for version, spoken in VERSIONS.items():
        found = version_names(version)
        declared = len(set(found) & set(DIFFERENT))
        equal = len(found) - declared
        note(f"{version}: {equal} recorded exchanges equal on the sandbox of {spoken}, {declared} declared")
        assert found
    assert len(NAMES) == 150
    assert set(DIFFERENT) <= set(NAMES)

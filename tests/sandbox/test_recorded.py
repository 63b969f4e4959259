"""The recorded behaviour of the real Redash, exchange by exchange, against the sandbox."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .preparations import PREPARATIONS
from .recorded import ROOT, differences, load, names, send
from .seed import recorded_redash

DIFFERENT = {
    "auth/header_trailing_space": "aiohttp strips blanks at the end of a header before the sandbox can see them",
    "auth/lowercase_method": "aiohttp's parser rejects the method with a text of its own; gunicorn sends an HTML page",
}
"""Exchanges to which the sandbox responds differently, with the reason."""

NOT_REPLAYED = {
    "cors": "needs a Redash started with CORS settings; the sandbox sends no CORS headers, as Redash by default",
    "rate_limit": "the sandbox has no rate limits",
}
"""Folders of the recording that are not replayed, with the reason."""

NAMES = names()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DIFFERENT])
async def test_responds_like_redash(name: str) -> None:
    exchange = load(name)
    sandbox = recorded_redash(slug="default" if name.startswith("multiorg/") else None)
    async with sandbox:
        if name in PREPARATIONS:
            await PREPARATIONS[name](sandbox, exchange)
        ours = await send(exchange, int(sandbox.url.rsplit(":", 1)[1]))
    assert differences(exchange.response, ours) == []


@pytest.mark.parametrize("name", sorted(DIFFERENT))
async def test_a_declared_difference_is_still_one(name: str) -> None:
    exchange = load(name)
    async with recorded_redash() as sandbox:
        ours = await send(exchange, int(sandbox.url.rsplit(":", 1)[1]))
    assert differences(exchange.response, ours) != []


def test_most_exchanges_are_replayed(note: Callable[[str], None]) -> None:
    replayed = len(NAMES) - len(DIFFERENT)
    note(f"{replayed} of {len(NAMES)} recorded exchanges replayed, {len(DIFFERENT)} differ")
    assert replayed >= 800
    assert set(DIFFERENT) <= set(NAMES)
    listed = {line.partition("/")[0] for line in (ROOT / "INDEX.tsv").read_text().splitlines()[1:]}
    assert listed == {name.partition("/")[0] for name in NAMES} | set(NOT_REPLAYED)


def test_every_preparation_is_for_a_recorded_exchange() -> None:
    assert set(PREPARATIONS) <= set(NAMES)

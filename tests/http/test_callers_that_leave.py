"""A caller that leaves is no error of the gateway's, at whatever moment: no ERROR, no traceback in the log."""

from __future__ import annotations

import logging

import aiohttp
import pytest
from support.inside import open_requests
from support.waiting import until
from support.world import World

STEPS = ["send_response", "read_body"]
"""What writes to the caller: the response, and `100 Continue` before its body is read."""


@pytest.mark.parametrize("step", STEPS)
async def test_a_connection_that_closes_before_the_gateway_writes_is_no_error(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The transport closes while it still has to send an earlier response; what is written then fails at once.
    async def left(*_: object, **__: object) -> None:
        raise ConnectionResetError("the caller has left")

    monkeypatch.setattr(f"gateway.http.api.{step}", left)
    with pytest.raises(aiohttp.ClientError):
        await world.get("/api/session")
    await until(lambda: not open_requests(world.runtime))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert await world.metric("redash_gateway_requests_total", status="4xx") >= 1, "recorded as 499"


async def test_an_error_of_the_gateways_own_is_still_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr("gateway.http.api.send_response", broken)
    assert (await world.get("/api/session")).status == 500
    assert [record.levelname for record in caplog.records if record.levelno >= logging.ERROR] == ["ERROR"]

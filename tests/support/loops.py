"""The event loops that the gateway runs on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from gateway.app.event_loop import loop_factory, refusal
from gateway.config.schema import EventLoop


def installed(loop: EventLoop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of this loop, or skip the test where there is no uvloop."""
    if refusal(loop) is not None:
        assert os.environ.get("GATEWAY_TEST_REQUIRE_ALL") != "1", "uvloop is not installed"
        pytest.skip("there is no uvloop for this machine")
    return loop_factory(loop)

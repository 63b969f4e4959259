from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .front import Responder, Upstream


@pytest.fixture
async def upstream(redash: Responder) -> AsyncIterator[Upstream]:
    """A server that responds as the test module's fixture `redash` says."""
    async with Upstream(redash) as made:
        yield made

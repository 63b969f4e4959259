from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .front import Answerer, Upstream


@pytest.fixture
async def upstream(redash: Answerer) -> AsyncIterator[Upstream]:
    """A server that answers as the test module's fixture `redash` says."""
    async with Upstream(redash) as made:
        yield made

from __future__ import annotations

from typing import Any

import pytest

from gateway.http.fast_path import FastPath


@pytest.fixture
def by_lane(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The requests that the lane has answered, in order."""
    answered: list[bytes] = []
    original = FastPath.respond

    def watched(self: FastPath, request: bytes, transport: Any) -> bool:
        done = original(self, request, transport)
        if done:
            answered.append(request)
        return done

    monkeypatch.setattr(FastPath, "respond", watched)
    return answered

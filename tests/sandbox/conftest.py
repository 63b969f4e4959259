from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gateway.sandbox import Sandbox


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1_795_000_000.25

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Response:
    status: int
    headers: Any
    body: bytes
    json: Any


class Client:
    """Sends requests to one sandbox, by default as the analyst."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self._session = session

    async def request(self, method: str, path: str, *, key: str = "analyst", **more: Any) -> Response:
        key = self.sandbox.user_keys.get(key, key)
        headers = {"Authorization": f"Key {key}"} if key else {}
        async with self._session.request(method, self.sandbox.url + path, headers=headers, **more) as response:
            body = await response.read()
            is_json = response.content_type == "application/json"
            return Response(response.status, response.headers, body, await response.json() if is_json else None)

    async def get(self, path: str, **more: Any) -> Response:
        return await self.request("GET", path, **more)

    async def execute(self, query_id: int, *, key: str = "analyst", **fields: Any) -> Response:
        return await self.request("POST", f"/api/queries/{query_id}/results", key=key, json=fields)

    async def result_of(self, started: Response) -> dict[str, Any]:
        """The result that a started job ends with."""
        await self.sandbox.wait_idle()
        job = (await self.get(f"/api/jobs/{started.json['job']['id']}")).json["job"]
        result: dict[str, Any] = (await self.get(f"/api/query_results/{job['query_result_id']}")).json["query_result"]
        return result


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(clock: Clock) -> AsyncIterator[Sandbox]:
    async with Sandbox(now=clock, orders=800) as running:
        yield running


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(sandbox, session)

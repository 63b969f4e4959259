"""What callers and operators ask of a gateway, wherever it runs: in the process of the test or in one of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import aiohttp

from support.http import Reply, send


def token(client: str) -> str:
    """The token of a client of the tests."""
    return f"rg_{client}_{'0123456789abcdef' * 2}"


TOKENS = {name: token(name) for name in ("dashboard", "second", "sql", "narrow", "writer")}
"""Tokens by client. `dashboard` and `second` read and run with the analyst's key, `sql` may send any SQL, `narrow` has
only the key of one query, `writer` may edit."""


ADMIN_TOKEN = token("admin")
AS_OPERATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
"""Purging and reloading need it, on every listener."""


class Calls:
    """Requests to one gateway. Who inherits says where it listens, and opens and closes the session."""

    named: dict[str, int]
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        """Of the API listener."""
        raise NotImplementedError

    @property
    def admin(self) -> str:
        """URL of the admin listener."""
        raise NotImplementedError

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        client: str | None = "dashboard",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request as a client; `body` is JSON unless it is bytes."""
        sent = dict(headers or {})
        if client is not None:
            sent["Authorization"] = f"Key {TOKENS[client]}"
        return await send(self.session, method, self.url + path, body, headers=sent)

    async def get(self, path: str, *, client: str | None = "dashboard", **headers: str) -> Reply:
        return await self.call("GET", path, client=client, headers=_fields(headers))

    async def post(
        self, name: str | int, *, client: str = "dashboard", wait: int | None = None, **body: object
    ) -> Reply:
        """POST a query's results, by its short name or id; `wait` sends `Prefer: wait`."""
        query_id = self.named[name] if isinstance(name, str) else name
        headers = {} if wait is None else {"Prefer": f"wait={wait}"}
        return await self.call("POST", f"/api/queries/{query_id}/results", body, client=client, headers=headers)

    async def purge(self, what: Mapping[str, object]) -> None:
        """Purge as an operator does."""
        async with self.session.post(f"{self.admin}/purge", json=what, headers=AS_OPERATOR) as response:
            assert response.status == 200, await response.text()

    async def finish(self, job_id: str, *, client: str = "dashboard") -> dict[str, Any]:
        """Follow a job to its end (the gateway holds each answer, so nothing sleeps here)."""
        for _ in range(20):
            reply = await self.get(f"/api/jobs/{job_id}", client=client, prefer="wait=10")
            if reply.job["status"] in (3, 4):
                return reply.job
        raise AssertionError("the job does not end")

    async def rows(self, name: str | int, *, client: str = "dashboard", **body: Any) -> list[dict[str, Any]]:
        """Run or read a query as a polling client does: POST, job, result."""
        query_id = self.named[name] if isinstance(name, str) else name
        reply = await self.post(query_id, client=client, **body)
        if "query_result" in reply.json:
            return reply.rows
        job = await self.finish(reply.job["id"], client=client)
        assert job["status"] == 3, job
        read = await self.get(f"/api/queries/{query_id}/results/{job['query_result_id']}.json", client=client)
        return read.rows

    async def metrics(self) -> dict[str, float]:
        """Scrape: every sample by its full name with labels, in the text format."""
        async with self.session.get(f"{self.admin}/metrics") as response:
            text = await response.text()
        samples = re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in samples}

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of one metric over every series that has these labels."""
        total = 0.0
        for sample, value in (await self.metrics()).items():
            if sample.partition("{")[0] == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                total += value
        return total


def _fields(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}

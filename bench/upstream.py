"""A fixed upstream in its own process: a minimal Redash, as fast as Python can be, that counts its requests.

The id of a query says what it does; each has the text `select {{n}}` and one number parameter. The upstream neither
joins runs nor caches results: the counts show what the gateway saves. A second argument names a file with the `data`
of a result, columns and rows.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aiohttp import web

INLINE, SLOW, LARGE, KILOBYTE, ARRIVING, DENSE, MEDIUM, FILE = 1, 2, 3, 4, 5, 6, 7, 8
"""Query ids: a result in the POST; a job of one second; a job of 100 MB that is ready at once; 1 KB in the POST; 50 MB
that arrive in a second; just under 16 MB, and 5 MB, that are hard to compress; the data in the file."""

LASTING: Final = 1_000_000
"""Added to a number of milliseconds: the id of a query whose runs last as long."""

LARGE_BYTES: Final = 100 * 10**6
SIZES: Final = {LARGE: LARGE_BYTES, ARRIVING: 50 * 10**6, DENSE: 15_500_000, MEDIUM: 5_000_000}
_PAUSE_SECONDS: Final = {ARRIVING: 0.005}
"""After each piece of about 250 KB."""


def _chunk(note: Callable[[], bytes]) -> bytes:
    return b"".join(b'{"n": 1, "note": "' + note() + b'"}, ' for _ in range(256))


_EVEN: Final = _chunk(lambda: b"x" * 980)
_HARD: Final = _chunk(lambda: os.urandom(490).hex().encode())
_CHUNKS: Final = {LARGE: _EVEN, ARRIVING: _EVEN, DENSE: _HARD, MEDIUM: _HARD}


@dataclass
class Job:
    """One execution."""

    query_id: int
    n: object
    result_id: int
    begun: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it runs."""
        return 1.0 if self.query_id == SLOW else max(0, self.query_id - LASTING) / 1000


class Upstream:
    """Responds, and counts the requests."""

    def __init__(self, data: Path | None = None) -> None:
        self._data = data
        self.posts = self.definitions = self.polls = self.fetches = self.executions = 0
        self.finished_at = 0.0
        """Monotonic: when a poll first reported 'finished'; all processes share this clock."""
        self._ids = itertools.count(1)
        self._jobs: dict[str, Job] = {}
        self._results: dict[int, Job] = {}
        self._reported: set[str] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if parts[0] == "bench":
            names = ("posts", "definitions", "polls", "fetches", "executions", "finished_at")
            return web.json_response({name: getattr(self, name) for name in names})
        match parts:
            case ["ping"]:
                return web.Response()
            case ["api", "queries", query_id]:
                self.definitions += 1
                return _json(_definition(int(query_id)))
            case ["api", "queries", query_id, "results"]:
                self.posts += 1
                return self._execute(int(query_id), json.loads(await request.read())["parameters"]["n"])
            case ["api", "jobs", job_id]:
                self.polls += 1
                return self._job(job_id)
            case ["api", "query_results", name]:
                self.fetches += 1
                return await self._result(request, self._results[int(name.removesuffix(".json"))])
        return web.Response(status=404)

    def _execute(self, query_id: int, n: object) -> web.Response:
        self.executions += 1
        job = Job(query_id, n, next(self._ids))
        if query_id in (INLINE, KILOBYTE):
            return _json(b"".join((_head(job), _rows(job), _tail(job))))
        job_id = str(uuid.uuid4())
        self._jobs[job_id] = self._results[job.result_id] = job
        return _json(_job_body(job_id, 1, None))

    def _job(self, job_id: str) -> web.Response:
        job = self._jobs[job_id]
        if time.monotonic() - job.begun < job.seconds:
            return _json(_job_body(job_id, 2, None))
        if job_id not in self._reported:
            self._reported.add(job_id)
            self.finished_at = time.monotonic()
        return _json(_job_body(job_id, 3, job.result_id))

    async def _result(self, request: web.BaseRequest, job: Job) -> web.StreamResponse:
        if job.query_id == FILE:
            return await self._from_file(request, job)
        if job.query_id not in SIZES:
            return _json(b"".join((_head(job), _rows(job), _tail(job))))
        chunk = _CHUNKS[job.query_id]
        count = SIZES[job.query_id] // len(chunk)
        head, tail = _head(job), b'{"n": 1, "note": "the last"}' + _tail(job)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(head) + count * len(chunk) + len(tail)
        await response.prepare(request)
        for piece in itertools.chain((head,), itertools.repeat(chunk, count), (tail,)):
            await response.write(piece)
            if job.query_id in _PAUSE_SECONDS:
                await asyncio.sleep(_PAUSE_SECONDS[job.query_id])
        await response.write_eof()
        return response

    async def _from_file(self, request: web.BaseRequest, job: Job) -> web.StreamResponse:
        assert self._data is not None, "started without a file"
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(_before_data(job))
        with self._data.open("rb") as file:
            while piece := file.read(1 << 18):
                await response.write(piece)
        await response.write(_after_data(job))
        await response.write_eof()
        return response


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _before_data(job: Job) -> bytes:
    sql = f"select {job.n}"
    digest = hashlib.md5(sql.encode()).hexdigest()
    return (f'{{"query_result": {{"id": {job.result_id}, "query_hash": "{digest}", "query": "{sql}", "data": ').encode()


def _head(job: Job) -> bytes:
    return _before_data(job) + b'{"columns": [{"name": "n", "friendly_name": "n", "type": "integer"}], "rows": ['


def _rows(job: Job) -> bytes:
    note = b', "note": "' + b"x" * 700 + b'"' if job.query_id == KILOBYTE else b""
    return f'{{"n": {job.n}'.encode() + note + b"}"


def _tail(job: Job) -> bytes:
    return b"]}" + _after_data(job)


def _after_data(job: Job) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f', "data_source_id": 1, "runtime": {job.seconds or 0.01}, "retrieved_at": "{now}"}}}}'.encode()


def _job_body(job_id: str, status: int, result_id: int | None) -> bytes:
    job = {"id": job_id, "updated_at": 0, "status": status, "error": "", "result": result_id}
    return json.dumps({"job": {**job, "query_result_id": result_id}}).encode()


def _definition(query_id: int) -> bytes:
    return json.dumps(
        {
            "id": query_id,
            "latest_query_data_id": None,
            "name": f"Query {query_id}",
            "query": "select {{n}}",
            "query_hash": "0" * 32,
            "api_key": "a key of the query",
            "is_archived": False,
            "updated_at": "2026-01-01T00:00:00.000Z",
            "data_source_id": 1,
            "options": {"parameters": [{"name": "n", "title": "n", "type": "number", "value": 1}]},
            "tags": [],
        }
    ).encode()


async def _main(port: int, *data: str) -> None:
    upstream = Upstream(*map(Path, data))
    runner = web.ServerRunner(web.Server(upstream.handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), *sys.argv[2:]))

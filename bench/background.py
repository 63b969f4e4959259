"""The load beside which hits are measured, as a process of its own: `python -m bench.background URL`.

It prints a line when all of it is under way, and goes on until it is ended.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import sys
import time
from urllib.parse import urlsplit

import aiohttp

from bench.caller import body_for
from bench.servers import TOKEN
from bench.upstream import ARRIVING, DENSE, INLINE

READY = "ready"
MISSES_PER_SECOND = 50
DENSE_PER_SECOND = 1
"""New results to compress."""

SLOW_READERS = 200
SLOW_BYTES, SLOW_SECONDS = 4096, 0.25
"""What a slow reader reads at a time, and how long it pauses."""

_HEADERS = {"Authorization": f"Key {TOKEN}", "Prefer": "wait=50", "Accept-Encoding": "gzip"}
_numbers = itertools.count(time.time_ns() // 1000)
"""Parameters that no process before this one has sent."""


class Background:
    """All callers."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._begun = asyncio.Event()
        """A result of 50 MB arrives."""

    async def run(self) -> None:
        """Send until the process is ended."""
        beginning = await self._post(DENSE)
        result = re.search(rb'"id": (\d+)', beginning)
        if result is None:
            raise SystemExit(f"the gateway responded {beginning[:200]!r}")
        async with asyncio.TaskGroup() as group:
            readers = [asyncio.Event() for _ in range(SLOW_READERS)]
            for reading in readers:
                group.create_task(self._read_slowly(int(result[1]), reading))
            group.create_task(self._repeat(INLINE, 1 / MISSES_PER_SECOND))
            group.create_task(self._repeat(DENSE, 1 / DENSE_PER_SECOND))
            group.create_task(self._repeat(ARRIVING, 0.0))
            for event in (*readers, self._begun):
                await event.wait()
            print(READY, flush=True)

    async def _repeat(self, query_id: int, seconds: float) -> None:
        """Run a query with new parameters, and begin again at most once in `seconds`."""
        while True:
            pause = asyncio.create_task(asyncio.sleep(seconds))
            await self._post(query_id, gzip=query_id == DENSE)
            await pause

    async def _post(self, query_id: int, *, gzip: bool = False) -> bytes:
        """Run a query and read its result; return the beginning."""
        headers = _HEADERS if gzip else {**_HEADERS, "Accept-Encoding": "identity"}
        url, body = f"{self._url}/api/queries/{query_id}/results", body_for(next(_numbers))
        async with self._session.post(url, data=body, headers=headers) as response:
            beginning = await response.content.readany()
            if response.status != 200:
                raise SystemExit(f"{url}: {response.status} {beginning!r}")
            if query_id == ARRIVING:
                self._begun.set()
            async for _ in response.content.iter_any():
                pass
        return beginning

    async def _read_slowly(self, result_id: int, reading: asyncio.Event) -> None:
        """Read a stored result in small pieces, with a small buffer; begin again when it ends."""
        loop, place = asyncio.get_running_loop(), urlsplit(self._url)
        request = f"GET /api/query_results/{result_id}.json HTTP/1.1\r\nHost: {place.netloc}\r\n"
        while True:
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
                connection.setblocking(False)
                await loop.sock_connect(connection, (place.hostname, place.port))
                await loop.sock_sendall(connection, f"{request}Authorization: Key {TOKEN}\r\n\r\n".encode())
                while await loop.sock_recv(connection, SLOW_BYTES):
                    reading.set()
                    await asyncio.sleep(SLOW_SECONDS)


async def _main(url: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        await Background(url, session).run()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))

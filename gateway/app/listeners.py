"""The sockets of the two listeners: opened, reported with their real addresses, closed in order."""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import web

from gateway import config


class Listeners:
    """The open listeners, in the order of opening."""

    def __init__(self) -> None:
        self._runners: list[web.BaseRunner] = []

    async def open(
        self, runner: web.BaseRunner, where: config.Listen, tls: ssl.SSLContext | None, *, backlog: int
    ) -> config.Listen:
        """Listen on an address and return it with the real port; `backlog` connections may wait to be accepted.

        Raises:
            OSError: listening on it fails.
        """
        await runner.setup()
        self._runners.append(runner)
        if where.unix:
            await web.UnixSite(runner, where.unix, ssl_context=tls, backlog=backlog).start()
            return where
        await web.TCPSite(runner, where.host, where.port, ssl_context=tls, backlog=backlog).start()
        return config.Listen(host=where.host, port=runner.addresses[0][1])

    async def stop_listening(self, *, but_last: bool = False) -> None:
        """Accept no more connections; with `but_last`, on all listeners except the one that was opened last."""
        for runner in self._runners[:-1] if but_last else self._runners:
            for site in list(runner.sites):
                await site.stop()

    async def aclose(self) -> None:
        """Close everything."""
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))

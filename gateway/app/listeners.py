"""The sockets of the two listeners: opened, reported with their real addresses, closed in order."""

from __future__ import annotations

import asyncio
import errno
import ssl
from typing import Final

from aiohttp import web

from gateway import config

_ANSWER_SECONDS: Final = 2.0


class Listeners:
    """The open listeners, in the order of opening."""

    def __init__(self) -> None:
        self._runners: list[web.BaseRunner] = []

    async def open(
        self, runner: web.BaseRunner, where: config.Listen, tls: ssl.SSLContext | None, *, backlog: int
    ) -> config.Listen:
        """Listen on an address and return it with the real port; `backlog` connections may wait to be accepted.

        Raises:
            OSError: listening on it fails, or another program listens on the Unix socket.
        """
        await runner.setup()
        self._runners.append(runner)
        if where.unix:
            await _check_nobody_answers(where.unix)
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


async def _check_nobody_answers(path: str) -> None:
    """Let only a dead socket be replaced: asyncio removes any socket that has the path of a new one.

    Raises:
        OSError: somebody listens there, or it cannot be told.
    """
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            _, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except OSError as error:  # TimeoutError is one
        raise _in_use(path) from error
    writer.close()
    raise _in_use(path)


def _in_use(path: str) -> OSError:
    text = "another program seems to listen at this Unix socket; stop it, or use another path"
    return OSError(errno.EADDRINUSE, text, path)

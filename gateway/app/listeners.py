"""The listeners: their sockets, from when connections may queue to when the last one is closed, in order."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from aiohttp import web

from gateway import config
from gateway.app.handover import Handover
from gateway.app.handshakes import Handshakes
from gateway.app.sockets import AS_USUAL, Rights, address_of, bind, fitting, set_rights

Inherited = Mapping[str, Sequence[socket.socket]]

_TRIES: Final = 3
_TRY_SECONDS: Final = 0.1
_TICK_SECONDS: Final = 0.01


class Listeners:
    """The listeners by name, in the order of opening."""

    def __init__(self, handover: Handover, inherited: Inherited) -> None:
        """`inherited`: listening sockets that the process was started with, by the name of the listener."""
        self._handover = handover
        self._inherited = inherited
        self._sockets: dict[str, list[tuple[config.Listen, list[socket.socket]]]] = {}
        self._runners: dict[str, web.BaseRunner] = {}

    async def open(
        self, name: str, addresses: Sequence[config.Listen], *, backlog: int, rights: Rights = AS_USUAL
    ) -> list[config.Listen]:
        """Listen on all addresses and return them with the real ports: up to `backlog` connections queue at each.

        The sockets of an address are those that the process was started with, or new ones, or those of a running
        gateway with this address and store, which this one is to follow. No connection queues before all are there.
        `rights` are those of Unix sockets, but for inherited ones.

        Raises:
            ConfigurationError: an inherited socket has none of the addresses.
            OSError: listening fails, or another program has the address.
        """
        inherited = await asyncio.to_thread(fitting, self._inherited.get(name, ()), name, addresses)
        opened = self._sockets[name] = []
        for where, given in zip(addresses, inherited, strict=True):
            opened.append((where, given or await self._take_or_bind(where)))
            if where.unix and not given:
                set_rights(where.unix, rights)
        for one in self._all(name):
            one.setblocking(False)
            one.listen(backlog)
        return [address_of(sockets[0], where) for where, sockets in opened]

    def _all(self, name: str) -> list[socket.socket]:
        return [one for _, sockets in self._sockets.get(name, ()) for one in sockets]

    async def _take_or_bind(self, where: config.Listen) -> list[socket.socket]:
        for _ in range(_TRIES):
            if sockets := await self._handover.take(where):
                return sockets
            try:
                return await bind(where)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                in_use = error
            await asyncio.sleep(_TRY_SECONDS)  # the running gateway may be just closing it
        raise in_use

    async def accept(self, name: str, runner: web.BaseRunner, tls: ssl.SSLContext | None, *, backlog: int) -> None:
        """Accept connections, those in the queue first."""
        self._runners[name] = runner
        await runner.setup()
        for one in self._all(name):
            await _Site(runner, one, ssl_context=tls, backlog=backlog).start()
        for where, sockets in self._sockets[name]:
            self._handover.offer(where, sockets)

    async def stop_accepting(self, name: str) -> None:
        """Accept no more connections. Those that queue are those of the next process, if it has the sockets."""
        for where, _ in self._sockets.get(name, ()):
            self._handover.withdraw(where)
        for one in self._all(name):
            asyncio.get_running_loop().remove_reader(one)
        # asyncio makes an accepted connection in a task, and drops it if the server was closed meanwhile.
        await asyncio.sleep(_TICK_SECONDS)
        if (runner := self._runners.get(name)) is not None:
            for site in list(runner.sites):
                await site.stop()
        for one in self._all(name):
            one.close()
        self._sockets.pop(name, None)

    async def aclose(self) -> None:
        """Close everything."""
        for name in list(self._sockets):
            await self.stop_accepting(name)
        await asyncio.gather(*(runner.cleanup() for runner in self._runners.values()))


class _Site(web.SockSite):
    """Accepts on a socket that another process may have, too: nothing is removed from the file system at the end."""

    async def start(self) -> None:
        await web.BaseSite.start(self)
        assert self._runner.server is not None  # noqa: S101 - the runner is set up
        loop, is_unix = asyncio.get_running_loop(), self._sock.family == socket.AF_UNIX
        if self._ssl_context is not None:
            handshakes = Handshakes(self._runner.server, self._sock, self._ssl_context, self._backlog)
            handshakes.accept()
            self._server = cast(asyncio.Server, handshakes)  # aiohttp only closes it
            return
        options: dict[str, Any] = {"cleanup_socket": False} if is_unix and sys.version_info >= (3, 13) else {}
        listen: Any = loop.create_unix_server if is_unix else loop.create_server
        self._server = await listen(self._runner.server, sock=self._sock, backlog=self._backlog, **options)

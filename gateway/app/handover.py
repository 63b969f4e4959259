"""Hands the listening sockets of a running gateway to the next one, so that no connection is lost between them.

The two meet at a socket in Linux's abstract namespace, which, like the addresses of TCP, is that of the network
namespace. Its name is made from address and store: only a process that waits for the store may have the sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from gateway import config

log = logging.getLogger("gateway.events")

ANSWER_SECONDS: Final = 5.0
"""How long the running gateway may take: its event loop may be busy."""

_MOST_SOCKETS: Final = 16
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid; see SO_PEERCRED in unix(7)


class Handover:
    """The sockets that this process offers to the next one, and those that it takes from the one before."""

    def __init__(self, store: str) -> None:
        """`store` is `cache.store`. With a store that no process must wait for, both would accept: nothing is done."""
        self._store = store if store.startswith("sqlite:") else ""
        self._offers: dict[config.Listen, socket.socket] = {}

    async def take(self, where: config.Listen) -> list[socket.socket]:
        """Return the sockets of the running gateway with this address; none if there is no such gateway."""
        if not self._is_possible(where):
            return []
        sockets = await asyncio.to_thread(_take, self._name(where))
        if sockets:
            log.info("%s: taking over the socket of the running gateway; stop that one now", where)
        return sockets

    def offer(self, where: config.Listen, sockets: Sequence[socket.socket]) -> None:
        """From now on, let the next process have these sockets."""
        if not self._is_possible(where):
            return
        meeting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            meeting.bind(self._name(where))
            meeting.listen()
        except OSError as error:
            meeting.close()
            log.warning("%s: no other process will be able to take over this socket: %s", where, error)
            return
        self._offers[where] = meeting
        asyncio.get_running_loop().add_reader(meeting, _hand_over, meeting, [one.fileno() for one in sockets])

    def withdraw(self, where: config.Listen) -> None:
        """Offer the sockets of this address no more."""
        if (meeting := self._offers.pop(where, None)) is not None:
            asyncio.get_running_loop().remove_reader(meeting)
            meeting.close()

    def _is_possible(self, where: config.Listen) -> bool:
        return bool(self._store) and (bool(where.unix) or where.port != 0)

    def _name(self, where: config.Listen) -> str:
        return "\0redash-gateway-" + hashlib.sha256(f"{where} {self._store}".encode()).hexdigest()


def _take(name: str) -> list[socket.socket]:
    """Return the sockets that are offered under this name. Waits."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as meeting:
        meeting.settimeout(ANSWER_SECONDS)
        meeting.connect(name)
        if _is_trusted(meeting):
            _, numbers, _, _ = socket.recv_fds(meeting, 1, _MOST_SOCKETS)
            return [socket.socket(fileno=number) for number in numbers]
    return []


def _hand_over(meeting: socket.socket, numbers: Sequence[int]) -> None:
    """Send the descriptors to a process that has come for them."""
    with contextlib.suppress(OSError):  # it has left
        other, _ = meeting.accept()
        with other:
            if _is_trusted(other):
                socket.send_fds(other, [b"\n"], numbers)


def _is_trusted(other: socket.socket) -> bool:
    """Whether the process at the other end is one of our own user: anybody can bind and connect to such a name."""
    given = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(given)
    return bool(uid == os.geteuid())

"""What systemd passes to a service, and what a service reports to it: sd_listen_fds(3), sd_notify(3),
sd_watchdog_enabled(3). Without systemd nothing is passed, and nothing is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Final

from gateway.errors import ConfigurationError

API: Final = "api"
ADMIN: Final = "admin"
"""The names of the listeners, as `FileDescriptorName=` in a socket unit says them."""

_FIRST: Final = 3
_LARGEST: Final = 64


def inherited_sockets(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """Return the sockets that the process was started with, by name; a single one without a name is the API's.

    Takes the variables out of the environment: they are not for other programs that this process may start.

    Raises:
        ConfigurationError: they are not what the gateway can use.
    """
    count, names = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_FDNAMES", "").split(":")
    if environ.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdecimal() or not 0 < int(count) <= _LARGEST:
        return {}
    if names == [""] and count == "1":
        names = [API]
    if len(names) != int(count) or not {API, ADMIN}.issuperset(names):
        given = ", ".join(names)
        raise ConfigurationError([f"inherited sockets: name each {API} or {ADMIN} (FileDescriptorName=), not: {given}"])
    found: dict[str, list[socket.socket]] = {}
    for number, name in enumerate(names, start=_FIRST):
        try:
            sock = socket.socket(fileno=number)
        except OSError as error:
            raise ConfigurationError([f"inherited sockets: descriptor {number} is none: {error.strerror}"]) from None
        sock.set_inheritable(False)
        found.setdefault(name, []).append(sock)
    return found


class Supervisor:
    """Reports to systemd how far the process has come, and regularly that its event loop is alive."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        ours = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        limit = environ.get("WATCHDOG_USEC", "") if ours else ""
        self._period = int(limit) / 2e6 if limit.isdecimal() else 0.0  # sd_watchdog_enabled(3): half of the limit
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Requests are served from now on."""
        self._notify("READY=1")
        if self._period and self._timer is None:
            self._live()

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The configuration is loaded again meanwhile."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._notify("READY=1")

    def stopping(self) -> None:
        """The process is about to end, and may take its time."""
        self._notify("STOPPING=1")

    def aclose(self) -> None:
        """Report nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _live(self) -> None:
        self._notify("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later(self._period, self._live)

    def _notify(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)  # systemd may be slow; the next message says the same
            sock.sendto(text.encode(), self._address)

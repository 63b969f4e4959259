"""Listening sockets: made for an address, or checked to have it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway import config
from gateway.errors import ConfigurationError

_ANSWER_SECONDS: Final = 2.0

_Place = tuple[int, str, int]
"""Family, host or path, and port."""


class Rights(NamedTuple):
    """Who may connect to Unix sockets: their mode and group, None for what the system gives them."""

    mode: str | None = None
    group: str | None = None


AS_USUAL: Final = Rights()


def obstacle(where: config.Listen) -> str | None:
    """Return what keeps everybody from listening on this address of this machine, and what to do; else None.

    It may be in use: by the gateway that runs already. What only this user may not do is no obstacle either: systemd
    or a capability can make up for it.
    """
    return _unix_obstacle(Path(where.unix)) if where.unix else _tcp_obstacle(where)


def _unix_obstacle(path: Path) -> str | None:
    if not path.parent.is_dir():
        return f"the directory {path.parent} is missing; make it, or use another path"
    if path.exists() and not path.is_socket():
        return f"{path} is there and is no socket; move it elsewhere, or use another path"
    return None


def _tcp_obstacle(where: config.Listen) -> str | None:
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return f"the name {where.host} has no address; write an address of this machine, 0.0.0.0 for all of them"
    for family, _, _, _, address in found:
        try:
            _bound(where, family, address).close()
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return f"this machine has no address {address[0]}; write one that it has, 0.0.0.0 for all of them"
    return None


def group_obstacle(name: str | None) -> str | None:
    """Return what to do if this machine has no such group; else None."""
    try:
        _ = name and grp.getgrnam(name)
    except KeyError:
        return f"this machine has no group {name}; make it (groupadd --system), or write another one"
    return None


def clashes(listeners: Sequence[tuple[str, config.Listen]]) -> Iterator[tuple[str, str]]:
    """Yield the key of each address that cannot be had beside an earlier one, and what to do.

    It may be the same one in another spelling, or either is for all addresses of this machine.
    """
    earlier: list[tuple[str, set[_Place]]] = []
    for key, where in listeners:
        here = _places(where)
        if other := next((key for key, there in earlier if _meet(here, there)), None):
            yield key, f"{where} cannot be had beside {other}, which covers it; leave one of the two out"
        earlier.append((key, here))


def _places(where: config.Listen) -> set[_Place]:
    """Return what has to be bound for an address; nothing for a port that the system chooses."""
    if where.unix:
        return {(socket.AF_UNIX, os.path.realpath(where.unix), 0)}
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return {(family, str(address[0]), where.port) for family, _, _, _, address in found if where.port}
    return set()


def _meet(here: set[_Place], there: set[_Place]) -> bool:
    return any(
        a[0] == b[0] and a[2] == b[2] and (a[1] == b[1] or {a[1], b[1]} & {"0.0.0.0", "::"})  # noqa: S104 - compared
        for a in here
        for b in there
    )


async def bind(where: config.Listen) -> list[socket.socket]:
    """Return new sockets with this address; a host name may have several.

    Raises:
        OSError: it cannot be had, or another program listens there.
    """
    if where.unix:
        await _check_nobody_answers(where.unix)
        return [_bound(where, socket.AF_UNIX, where.unix)]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as failed:
        sockets = [failed.enter_context(_bound(where, one[0], one[4], one[2])) for one in dict.fromkeys(found)]
        failed.pop_all()
    return sockets


def _bound(
    where: config.Listen, family: socket.AddressFamily, address: tuple[Any, ...] | str, protocol: int = 0
) -> socket.socket:
    # Without the protocol asyncio does not know TCP, and leaves Nagle's algorithm on: some responses take 40 ms more.
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        if family == socket.AF_UNIX:
            _remove_dead(where.unix)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {where}: {error.strerror or error}") from error
    return sock


def _remove_dead(path: str) -> None:
    """Remove a socket that a process has left behind; anything else stays, and is in the way."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)


def set_rights(path: str, rights: Rights) -> None:
    """Give a Unix socket its group and mode. Nobody can connect to a new one before it listens.

    Raises:
        OSError: the gateway's user may not do that.
    """
    try:
        if rights.group is not None:
            shutil.chown(path, group=rights.group)
        if rights.mode is not None:
            os.chmod(path, int(rights.mode, 8))
    except (OSError, LookupError) as error:
        group = f" (the gateway's user must be in {rights.group})" if rights.group else ""
        raise OSError(f"{path}: cannot set mode or group of the socket{group}: {error}") from error


async def _check_nobody_answers(path: str) -> None:
    """Let only a dead socket be replaced.

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


def address_of(sock: socket.socket, where: config.Listen) -> config.Listen:
    """Return the address with the real port."""
    return where if where.unix else config.Listen(host=where.host, port=sock.getsockname()[1])


def fitting(
    inherited: Sequence[socket.socket], name: str, addresses: Sequence[config.Listen]
) -> list[list[socket.socket]]:
    """Return which inherited sockets each address has: what is allowed on a listener depends on its address.

    Raises:
        ConfigurationError: one has another address, or does not listen for connections.
    """
    found: list[list[socket.socket]] = [[] for _ in addresses]
    for sock in inherited:
        found[_place_of(sock, name, addresses)].append(sock)
    return found


def _place_of(sock: socket.socket, name: str, addresses: Sequence[config.Listen]) -> int:
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigurationError(
            [f"the inherited socket '{name}' does not listen for connections (Accept=no is needed)"]
        )
    for number, where in enumerate(addresses):
        if _has_address(sock, where):
            return number
    key, configured = "server.listen" if name == "api" else "admin.listen", ", ".join(map(str, addresses))
    raise ConfigurationError([f"the inherited socket '{name}' listens on {_shown(sock)}, but {key} is {configured}"])


def _has_address(sock: socket.socket, where: config.Listen) -> bool:
    name = sock.getsockname()
    if where.unix or sock.family == socket.AF_UNIX:
        return bool(where.unix) and name == where.unix
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    return name[0] in {one[4][0] for one in found} and where.port in (0, name[1])


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"unix:{name}" if sock.family == socket.AF_UNIX else str(config.Listen(host=name[0], port=name[1]))

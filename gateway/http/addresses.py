"""Where a request comes from, for the log: the address of its connection, or what a trusted proxy says in its place.

Nothing but the log depends on it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aiohttp import hdrs, web

UNIX: Final = "unix"
UNKNOWN: Final = "-"

Networks = tuple[IPv4Network | IPv6Network, ...]

_FIELD: Final = re.compile(rb"\r\n" + hdrs.X_FORWARDED_FOR.encode() + rb":([^\r\n]*)", re.IGNORECASE)
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_LONGEST: Final = 60
"""No address with its port is so long."""


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """Return the address at the other end of a connection; "unix" for a Unix socket."""
    peer = None if transport is None else transport.get_extra_info("peername")
    if peer is None:
        return UNKNOWN
    found = _parsed(peer[0].partition("%")[0]) if isinstance(peer, tuple) else None
    return UNIX if found is None else str(found)


class TrustedProxies:
    """The proxies whose X-Forwarded-For counts (`server.trusted_proxies`)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """`names` are networks, and "unix" for whoever connects over a Unix socket."""
        self.any = bool(names)
        """Whether there are any: else the peer of a connection is the caller."""
        self._unix = UNIX in names
        self._networks: Networks = tuple(ip_network(name) for name in names if name != UNIX)

    def caller_in(self, peer: str, head: bytes) -> str:
        """Return who sent a request that came from this peer, by the bytes of its head."""
        if not self._trusts(peer):
            return peer
        return self._caller(peer, (value.decode("latin-1") for value in _FIELD.findall(head)))

    def caller_of(self, request: web.BaseRequest) -> str:
        """Return who sent a request that aiohttp has parsed."""
        peer = peer_of(request.transport)
        if not self.any or not self._trusts(peer):
            return peer
        return self._caller(peer, request.headers.getall(hdrs.X_FORWARDED_FOR, ()))

    def _trusts(self, address: str) -> bool:
        return self._unix if address == UNIX else _is_within(address, self._networks)

    def _caller(self, peer: str, values: Iterable[str]) -> str:
        """Return the last hop that is not a trusted proxy: everything to the left of it, anybody can have written."""
        caller = peer
        for hop in reversed(",".join(values).split(",")):
            address = _hop(hop.strip())
            if address is None:
                return caller
            caller = address
            if not _is_within(address, self._networks):
                return caller
        return caller


@lru_cache(maxsize=1024)
def _is_within(address: str, networks: Networks) -> bool:
    found = _parsed(address)
    return found is not None and any(found in network for network in networks)


def _hop(text: str) -> str | None:
    """Return the address that a proxy has written, in its usual form; None for anything else, as "unknown"."""
    with_port = _WITH_PORT.fullmatch(text) if len(text) <= _LONGEST else None
    found = _parsed((with_port[1] or with_port[2]) if with_port is not None else text)
    return None if found is None else str(found)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address without a zone; an IPv4 address in the form of IPv6 (a socket for both) becomes what it is."""
    if len(text) > _LONGEST or "%" in text:
        return None
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped

"""The parser for networks of proxies. Pure; a ValueError says what to write instead."""

from __future__ import annotations

import ipaddress

from gateway.config.values import text


def proxy(value: object) -> str:
    """Parse the network of a proxy, "10.0.0.0/8", a single address, or "unix" for a Unix socket."""
    given = text(value)
    if given == "unix":
        return given
    try:
        network = ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise ValueError('is not a network; write "10.0.0.0/8", "fd00::/8", one address, or "unix"') from None
    if network.prefixlen == 0:
        raise ValueError("trusts everybody, so that anybody could write any address into the log; name your proxies")
    if str(network.network_address) != given.partition("/")[0] and "/" in given:
        raise ValueError(f'has bits set beyond its length; write "{network}"')
    return str(network)

"""The commands that talk to a running gateway: status, purge, reload."""

from __future__ import annotations

import argparse
import json

from gateway.cli import admin_client
from gateway.cli.text import lines

_PURGES = ("query", "dashboard", "scope", "all")


def status(arguments: argparse.Namespace) -> int:
    """Show the state."""
    response = admin_client.request(admin_client.address(arguments), "GET", "/api/status")
    plain = {name: value for name, value in response.items() if name != "history"}  # too many points for a terminal
    print(json.dumps(response, indent=2) if arguments.json else "\n".join(lines(plain)))
    return 0


def purge(arguments: argparse.Namespace) -> int:
    """Delete cached results."""
    wanted = {name: value for name, value in vars(arguments).items() if name in _PURGES and value}
    print("\n".join(lines(admin_client.request(admin_client.address(arguments), "POST", "/purge", wanted))) or "purged")
    return 0


def reload(arguments: argparse.Namespace) -> int:
    """Load the configuration again."""
    print("\n".join(lines(admin_client.request(admin_client.address(arguments), "POST", "/reload"))) or "reloaded")
    return 0

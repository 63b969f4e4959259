"""The commands that talk to a running gateway: status, explain, purge, reload."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from typing import Any, Final

from gateway.cli import admin_client
from gateway.cli.terminal import Colour, is_terminal, paint, progress
from gateway.cli.text import lines, printable
from gateway.errors import GatewayError

WATCH_SECONDS: Final = 2.0

_CLEAR: Final = "\x1b[H\x1b[2J"
_COLOURS: Final[dict[object, Colour]] = {"good": "green", "warn": "yellow", "bad": "red"}
_DECISIONS: Final[dict[object, Colour]] = {"hit": "green", "stale": "green", "refused": "red"}
_TOO_LONG: Final = frozenset({"history"})
"""Members with too many points for a terminal."""

_FIRST: Final = ("verdict", "state", "hour", "running", "waiting", "slots", "failures", "health", "queries", "clients")
_RARELY_CHANGES: Final = frozenset({"name", "version", "redash_version", "redash", "at", "redash_url", "totals"})
"""Members that `--watch` leaves out: it has one screen."""


def _request(arguments: argparse.Namespace, method: str, path: str, body: object = None) -> Any:
    where = admin_client.address(arguments)
    with progress() as say:
        say(f"waiting for the gateway at {where}")
        return admin_client.request(where, method, path, body)


def status(arguments: argparse.Namespace) -> int:
    """Show the state, once or again and again."""
    if arguments.watch:
        _watch(arguments)
    response = _request(arguments, "GET", "/api/status")
    print(json.dumps(response, indent=2) if arguments.json else "\n".join(_shown(response)))
    return 0


def _shown(response: dict[str, Any]) -> list[str]:
    """Return the report; its first line, the verdict, has the colour of the state."""
    shown = lines({name: value for name, value in response.items() if name not in _TOO_LONG})
    colour = _COLOURS.get(response.get("state"))
    return shown if colour is None else [paint(shown[0], colour, sys.stdout), *shown[1:]]


def _short(response: dict[str, Any]) -> dict[str, Any]:
    """Return a report for one screen: what changes from minute to minute first, and no lists that are empty."""
    shown = {name: value for name, value in response.items() if name not in _RARELY_CHANGES and value != []}
    order = [name for name in _FIRST if name in shown]
    return {name: shown[name] for name in dict.fromkeys((*order, *shown))}


def _watch(arguments: argparse.Namespace) -> None:
    """Show the state until Ctrl-C. A gateway that is not there may come back."""
    while True:
        try:
            shown = _shown(_short(_request(arguments, "GET", "/api/status")))
        except GatewayError as error:
            shown = [paint(error.detail, "red", sys.stdout)]
        if is_terminal(sys.stdout):
            print(_CLEAR + "\n".join(shown[: shutil.get_terminal_size().lines - 1]), flush=True)
        else:
            print("\n".join(shown), end="\n\n", flush=True)
        time.sleep(WATCH_SECONDS)


def explain(arguments: argparse.Namespace) -> int:
    """Say what would happen with a request."""
    question = {
        "client": arguments.client,
        "query": arguments.query,
        "max_age": None if arguments.max_age == -1 else arguments.max_age,
        "arguments": arguments.parameter or [],
    }
    response = _request(arguments, "POST", "/api/explain", question)
    if arguments.json:
        print(json.dumps(response, indent=2))
        return 0
    decision, why = response.pop("decision"), response.pop("why")
    print(paint(f"{decision}: {printable(why)}", _DECISIONS.get(decision, "yellow"), sys.stdout))
    shown = {name: value for name, value in response.items() if value not in (None, "", [])}
    print("\n".join(lines(shown)))
    return 0


def purge(arguments: argparse.Namespace) -> int:
    """Delete cached results, and say what that means."""
    body, what = _purged(arguments)
    response = _request(arguments, "POST", "/purge", body)
    count = response["purged"]
    if count:
        print(f"purged {count} stored {'entry' if count == 1 else 'entries'}: {what}; a run under way is not stored")
    else:
        print(f"nothing to purge: of {what}, nothing is stored")
        print("Nobody has requested it through this gateway, or it was purged, edited or evicted since.")
    for note in response.get("notes", []):
        print(paint(f"note: {printable(note)}", "yellow", sys.stdout))
    return 0


def _purged(arguments: argparse.Namespace) -> tuple[dict[str, object], str]:
    """Return the request, and what it purges in words."""
    if arguments.query:
        return {"query": arguments.query}, f"the results of query {arguments.query}"
    if arguments.data_source:
        return {"data_source": arguments.data_source}, f"the results of data source {arguments.data_source}"
    if arguments.tag:
        return {"tag": arguments.tag}, f"the results of queries with the tag '{printable(arguments.tag)}'"
    if arguments.dashboard:
        return {"dashboard": arguments.dashboard}, f"the results of the queries on dashboard {arguments.dashboard}"
    if arguments.scope:
        return {"scope": arguments.scope}, f"what was fetched with credential '{printable(arguments.scope)}'"
    return {"all": True}, "everything"


def reload(arguments: argparse.Namespace) -> int:
    """Load the configuration again, and say what has changed."""
    response = _request(arguments, "POST", "/reload")
    changed = ", ".join(map(printable, response.get("changed", [])))
    print(f"reloaded: {changed} changed" if changed else "reloaded: no key has changed")
    for note in response.get("notes", []):
        print(paint(f"note: {printable(note)}", "yellow", sys.stdout))
    return 0

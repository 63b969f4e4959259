"""The page of the configuration in force, without secrets: no key, token, hash, nor the values of parameters. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any, Final, get_args, get_type_hints

import msgspec

from gateway import config
from gateway.admin.formats import formatted
from gateway.admin.shell import Frame, document
from gateway.config import units
from gateway.secret import Secret
from gateway.telemetry import log

LONGEST_VALUE: Final = 500
MOST_TABLES: Final = 500
"""Clients and credentials beyond this number are left out."""

_COUNTED: Final = {"token_sha256": "token"}
"""Keys of which only the number is shown."""

_UNITS: Final[dict[object, str]] = {
    units.duration: "duration",
    units.positive_duration: "duration",
    units.wait: "duration",
    units.positive_wait: "duration",
    units.floor: "duration",
    units.size: "size",
    units.expiry: "moment",
}

_BINDINGS: Final = frozenset({"queries", "dashboards"})
"""Where both are empty, a client is bound to nothing: it may use all."""

_HIDDEN: Final = frozenset({"parameters", "key"})


def render(frame: Frame, settings: config.Config) -> str:
    """Return the page."""
    tables = []
    for number, (name, table) in enumerate(_tables(settings)):
        if number == MOST_TABLES:
            tables.append(f'<p class="empty">Only the first {MOST_TABLES} tables are shown.</p>')
            break
        tables.append(_table(name, table))
    about = (
        '<p class="about">As it is in force now, defaults included. '
        "Keys, tokens, their hashes and the values of parameters are not shown.</p>"
    )
    return document(frame, "configuration", "Configuration", f'{about}<div class="sheets">{"".join(tables)}</div>')


def _tables(settings: config.Config) -> Iterator[tuple[str, msgspec.Struct]]:
    """Yield every table of the file with its name there."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", table) for key, table in value.items())
        elif isinstance(value, tuple):
            yield from ((f"[{name}] {number}", table) for number, table in enumerate(value, 1))
        else:
            yield name, value
    yield from ((f"[cache.rules] {number}", rule) for number, rule in enumerate(settings.cache.rules, 1))


def _table(name: str, table: msgspec.Struct) -> str:
    free = _BINDINGS if isinstance(table, config.Client) and not table.is_bound else frozenset()
    rows = "".join(
        f'<tr><th scope="row"><code>{field}</code></th>'
        f'<td class="words">{"all" if field in free else escape(shown(field, value, _unit(type(table), field)))}</td>'
        "</tr>"
        for field in table.__struct_fields__
        if field != "rules" and (value := getattr(table, field)) is not None
    )
    title = escape(name)
    return f"""<section class="sheet" aria-label="{title}"><h2>{title}</h2><div class="scroll" tabindex="0" \
role="region" aria-label="{title}"><table class="keys"><caption class="unseen">{title}</caption><tbody>{rows}</tbody>\
</table></div></section>"""


@cache
def _unit(table: type[msgspec.Struct], field: str) -> str:
    """Return what a key is measured in, as its type says how the file's value is parsed."""
    hint = get_type_hints(table, include_extras=True)[field]
    kinds = (hint, *get_args(hint))  # `Seconds | None` has it one level deeper
    parsers = [mark.parse for kind in kinds for mark in getattr(kind, "__metadata__", ()) if hasattr(mark, "parse")]
    return next((_UNITS[parser] for parser in parsers if parser in _UNITS), "")


def shown(field: str, value: Any, unit: str = "") -> str:
    """Return a value as text, without what is secret."""
    if field in _COUNTED:
        number = len(value) if isinstance(value, tuple) else 1
        return f"{number} {_COUNTED[field]}{'' if number == 1 else 's'}"
    if field in _HIDDEN or isinstance(value, Secret):
        return "not shown"
    if field == "store":  # an address may have a password in it
        kind = str(value).partition(":")[0]
        return str(value) if kind in ("memory", "sqlite") else f"{kind}: not shown"
    if unit == "moment":
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
    if isinstance(value, units.RuntimeFloor):
        return str(value)
    return formatted(value, unit) if unit else log.clean(_plain(value))[:LONGEST_VALUE]


def _plain(value: Any) -> str:
    if isinstance(value, frozenset):
        value = tuple(sorted(value, key=lambda one: (isinstance(one, str), one)))  # a dashboard is an id or a slug
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)

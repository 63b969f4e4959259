"""Parses a request into an operation: route, arguments and body. Bodies are parsed as Redash parses them."""

from __future__ import annotations

from typing import Final, NamedTuple, cast

import msgspec
from cachetools import LRUCache

from gateway.errors import BadRequest
from gateway.redash.accept import preferred_form
from gateway.redash.arguments import parse_arguments
from gateway.redash.downloads import ResultForm
from gateway.redash.footprint import weight
from gateway.redash.json_text import canonical, load_json
from gateway.redash.matching import Match
from gateway.redash.max_age import parse_max_age
from gateway.redash.purges import Purge, parse_purge
from gateway.redash.selection import WHOLE, Selection, is_ours, only_one, parse_selection


class Execute(msgspec.Struct, frozen=True, weakref=True):
    """POST of a saved query's results, or its `/refresh` (then with the `p_` arguments in `arguments`)."""

    query_id: int
    max_age: int | None
    parameters: dict[str, object]
    auto_limit: bool | None
    refresh: bool = False
    arguments: tuple[tuple[str, str], ...] = ()


class ExecuteText(msgspec.Struct, frozen=True, weakref=True):
    """POST of free SQL."""

    data_source_id: int | None
    """None if the body has none: Redash says so in its own words."""
    text: str
    max_age: int | None
    rest: dict[str, object]
    """The other members of the body that Redash uses: parameters, query_id, apply_auto_limit."""
    arguments: tuple[tuple[str, str], ...] = ()


class ReadLatest(msgspec.Struct, frozen=True):
    """GET of a query's latest result."""

    query_id: int
    form: ResultForm
    others: tuple[str, ...] = ()
    """Names of arguments that are not ours; they may be meant for a parameter of the query."""
    selection: Selection = WHOLE


class ReadParameterised(msgspec.Struct, frozen=True):
    """GET of a query's result for the values in `p_…` arguments; the query runs if needed."""

    query_id: int
    form: ResultForm
    max_age: int | None
    arguments: tuple[tuple[str, str], ...]
    others: tuple[str, ...] = ()
    """As in `ReadLatest`."""
    run: str = ""
    """The job id of the run that an earlier response has redirected this caller to."""
    hops: int = 0
    """How many such redirects it has followed: each one adds the argument once more, as no two may be the same URL."""
    selection: Selection = WHOLE


class Listen(msgspec.Struct, frozen=True):
    """GET of the stream that tells of newer results of what `read` reads."""

    read: ReadLatest | ReadParameterised


class ReadResult(msgspec.Struct, frozen=True):
    """GET of a result by its id; `query_id` if the path has one."""

    result_id: int
    form: ResultForm
    query_id: int | None
    selection: Selection = WHOLE


class ReadBoard(msgspec.Struct, frozen=True):
    """The results of all widgets of a dashboard."""

    dashboard: int | str
    """Its id or slug."""
    lines: bool
    """As NDJSON, in the order in which they are ready; else one JSON document, in the order of the page."""
    refresh: bool
    """Run all of them, and return their jobs."""
    max_age: int | None
    arguments: tuple[tuple[str, str], ...]


class ReadJob(msgspec.Struct, frozen=True):
    """GET of a job; `query_id` if the path has one."""

    job_id: str
    query_id: int | None


class CancelJob(msgspec.Struct, frozen=True):
    """DELETE of a job; `query_id` if the path has one."""

    job_id: str
    query_id: int | None


class Relay(msgspec.Struct, frozen=True):
    """Metadata or a write: forwarded with its parsed arguments and its JSON body, encoded again."""

    path: str
    arguments: tuple[tuple[str, str], ...]
    body: bytes | None
    query_id: int | None


class Ping(msgspec.Struct, frozen=True):
    """The gateway responds itself."""


Run = Execute | ExecuteText | ReadParameterised
Operation = Run | ReadLatest | Listen | ReadResult | ReadBoard | ReadJob | CancelJob | Purge | Relay | Ping


def parse_operation(match: Match, query_string: str, body: bytes, accept: str | None = None) -> Operation:
    """Parse a matched request into its operation. `accept` counts where the path does not name a form.

    Raises:
        BadRequest: Redash could not make sense of the arguments or the body.
    """
    form = cast(ResultForm, match.parts.get("form")) or preferred_form(accept)
    if match.route.kind not in _REPEATED or len(query_string) + len(body) > _SMALL_BYTES:
        return _parse(match, query_string, body, form)
    place = (match.path(), match.route.method, query_string, body, form)
    known = _known.get(place)
    if known is None:
        size = _OVERHEAD_BYTES + weight(body) + (weight(query_string.encode()) if query_string else 0)
        known = _known[place] = _Parsed(_parse(match, query_string, body, form), size)
    return known.operation


_REPEATED: Final = frozenset({"execute", "execute_text", "latest", "result"})
"""Kinds that dashboards repeat: the parsed operation is cached."""


class _Parsed(NamedTuple):
    operation: Operation
    size: int


_SMALL_BYTES: Final = 4_096
_KNOWN_BYTES: Final = 8 * 1024 * 1024
"""What all cached operations may take, also those of requests that were refused."""

_OVERHEAD_BYTES: Final = 1_000
_known: Final[LRUCache[tuple[str, str, str, bytes, str], _Parsed]] = LRUCache(_KNOWN_BYTES, getsizeof=lambda p: p.size)


def _parse(match: Match, query_string: str, body: bytes, form: ResultForm) -> Operation:
    arguments = parse_arguments(query_string)
    query_id = match.query_id or 0
    match match.route.kind:
        case "ping":
            return Ping()
        case "job":
            return ReadJob(match.parts["job_id"], match.query_id)
        case "cancel":
            return CancelJob(match.parts["job_id"], match.query_id)
        case "board":
            return _parse_board(match, arguments)
        case "purge":
            return parse_purge(body)
        case "result":
            selection = parse_selection(arguments, form)
            return ReadResult(match.number("result_id") or 0, form, match.query_id, selection)
        case "latest":
            return _parse_latest(query_id, form, arguments)
        case "events":
            return Listen(_parse_latest(query_id, form, arguments))
        case "execute":
            return _parse_execute(query_id, body)
        case "refresh":
            given = tuple((n, v) for n, v in arguments if n.startswith("p_"))
            return Execute(query_id, 0, {}, None, refresh=True, arguments=given)
        case "execute_text":
            return _parse_execute_text(body, arguments)
        case _:
            return Relay(match.path(), arguments, _relayed_body(match.route.method, body), match.query_id)


def parse_json(body: bytes) -> object:
    """Parse as Redash does (standard `json`, any Unicode encoding, the last of repeated keys); an empty body is `{}`.

    Raises:
        BadRequest: not JSON. Redash would treat it as `{}` and execute (CONTRACT 6).
    """
    if not body.strip():
        return {}
    try:
        return load_json(body)
    except ValueError:
        raise BadRequest('The body is not JSON. Send an object such as {"max_age": 3600}, or no body.') from None


def _parse_object(body: bytes) -> dict[str, object]:
    value = parse_json(body)
    if value is None or value == []:
        return {}  # as Redash treats them
    if not isinstance(value, dict):
        raise BadRequest('The body must be a JSON object such as {"max_age": 3600}.')
    return value


def _parse_execute(query_id: int, body: bytes) -> Execute:
    members = _parse_object(body)
    parameters = members.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest('"parameters" must be an object of names and values.')
    auto_limit = bool(members["apply_auto_limit"]) if "apply_auto_limit" in members else None
    return Execute(query_id, parse_max_age(members.get("max_age", -1)), parameters, auto_limit)


def _parse_execute_text(body: bytes, arguments: tuple[tuple[str, str], ...]) -> ExecuteText:
    if not body.strip():
        raise BadRequest('The body must be a JSON object with "query" and "data_source_id".')
    members = _parse_object(body)
    names = ("parameters", "query_id", "apply_auto_limit")
    rest: dict[str, object] = {name: members[name] for name in names if name in members}
    if not isinstance(rest.get("parameters", {}), dict):
        raise BadRequest('"parameters" must be an object of names and values.')
    given = tuple((n, v) for n, v in arguments if n.startswith("p_"))
    max_age = parse_max_age(members.get("max_age", -1))
    text, source = members.get("query"), members.get("data_source_id")
    if not isinstance(text, str):
        raise BadRequest('"query" must be the SQL text.')
    # Redash reads "1", 1.0 and true as 1, too; here they would be other data sources.
    if source is not None and type(source) is not int:
        raise BadRequest('"data_source_id" must be a whole number, not in quotes.')
    return ExecuteText(source, text, max_age, rest, given)


def _parse_board(match: Match, arguments: tuple[tuple[str, str], ...]) -> ReadBoard:
    named, refresh = match.parts["dashboard"], match.route.method == "POST"
    given, max_age, _ = _parse_aged(arguments)
    dashboard = int(named) if named.isdecimal() else named
    lines = match.route.template.endswith(".ndjson")
    return ReadBoard(dashboard, lines, refresh, 0 if refresh else max_age, given)


def _parse_latest(
    query_id: int, form: ResultForm, arguments: tuple[tuple[str, str], ...]
) -> ReadLatest | ReadParameterised:
    selection = parse_selection(arguments, form)
    given, max_age, others = _parse_aged(arguments)
    if not given and not any(name == "max_age" for name, _ in arguments):
        return ReadLatest(query_id, form, others, selection)
    runs = [v for n, v in arguments if n == "run"]
    run = runs[-1] if runs else ""
    return ReadParameterised(query_id, form, max_age, given, others, run, len(runs), selection)


def _parse_aged(
    arguments: tuple[tuple[str, str], ...],
) -> tuple[tuple[tuple[str, str], ...], int | None, tuple[str, ...]]:
    """Return the `p_…` arguments, `max_age`, and the names of all others but `run`."""
    given = tuple((n, v) for n, v in arguments if n.startswith("p_"))
    max_ages = [v for n, v in arguments if n == "max_age"]
    others = tuple(n for n, _ in arguments if not (n.startswith("p_") or n in ("max_age", "run") or is_ours(n)))
    for name in others:
        if name.lower().replace("_", "").replace("-", "") == "maxage":
            raise BadRequest(f"Unknown argument '{name}'; it is called max_age.")
    return given, parse_max_age(only_one("max_age", max_ages) if max_ages else None), others


def _relayed_body(method: str, body: bytes) -> bytes | None:
    if method == "GET" or not body.strip():
        return None
    return canonical(parse_json(body), sort=False)

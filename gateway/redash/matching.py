"""Matching raw paths to rows of the route table, by a strict grammar: each route has exactly one spelling."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from gateway.errors import BadRequest, MethodNotAllowed, NotFound
from gateway.model import SLUG
from gateway.redash.downloads import FORMS
from gateway.redash.routes import EXECUTE, PING, ROUTES, Route

_ID: Final = r"[1-9][0-9]{0,17}"
_PARTS: Final = {
    "form": "|".join(FORMS),
    "job_id": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "token": "[A-Za-z0-9]{40}",
    "dashboard": SLUG,
    "word": "[a-z_]{1,50}",
    "database": r"[A-Za-z0-9_-]{1,200}",
    "table": r"[A-Za-z0-9_-]{1,200}",
}


class Match(msgspec.Struct, frozen=True, eq=False):
    """A route with the parts of the path that it captured, as text."""

    route: Route
    parts: dict[str, str]
    query_id: int | None
    """The query that the path names."""

    def number(self, name: str) -> int | None:
        """Return the captured decimal id, None if the route has no such part."""
        text = self.parts.get(name)
        return int(text) if text is not None else None

    def path(self) -> str:
        """Return the path as Redash knows it, built from the table and the captured parts only."""
        return self.route.template.format_map(self.parts)


class _Node:
    """A path prefix: which segments may follow, and the routes that end here, by method."""

    def __init__(self) -> None:
        self.words: dict[str, _Node] = {}
        self.patterns: list[tuple[re.Pattern[str], _Node]] = []
        self.routes: dict[str, Route] = {}

    def child(self, segment: str) -> _Node:
        if "{" not in segment:
            return self.words.setdefault(segment, _Node())
        pattern = re.compile(re.sub(r"\\\{(\w+)\\\}", _group, re.escape(segment)))
        for known, node in self.patterns:
            if known.pattern == pattern.pattern:
                return node
        self.patterns.append((pattern, _Node()))
        return self.patterns[-1][1]

    def step(self, segment: str, parts: dict[str, str]) -> _Node | None:
        if segment in self.words:
            return self.words[segment]
        for pattern, node in self.patterns:
            if found := pattern.fullmatch(segment):
                parts.update(found.groupdict())
                return node
        return None


def _group(name: re.Match[str]) -> str:
    return f"(?P<{name[1]}>{_PARTS.get(name[1], _ID)})"


def _tree() -> _Node:
    root = _Node()
    for route in ROUTES:
        node = root
        for segment in route.template.split("/")[1:]:
            node = node.child(segment)
        node.routes[route.method] = route
    return root


_TREE: Final = _tree()
_PLAIN_WORD: Final = re.compile(r"[a-z_]{0,20}")
_MOST_SEGMENTS: Final = 10
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9_.~!$&'()*+,=:@/-]*")
_DOT_SEGMENT: Final = re.compile(r"/\.{1,2}(/|$)")


def _shape(path: str) -> str:
    """Return a path with only its plain words, for the log: any other segment may be a secret."""
    segments = path.split("/")[:_MOST_SEGMENTS]
    return "/".join(s if _PLAIN_WORD.fullmatch(s) else "{id}" if s.isdecimal() else "..." for s in segments)


def match(method: str, path: str, slug: str = "", prefix: str = "") -> Match:
    """Find the route of a raw path (as sent, without the query string).

    `prefix` is `server.path_prefix`: every path starts with it, except the one for load balancers. `slug` is the
    organisation's; the rest may start with it. HEAD uses the route of GET.

    Raises:
        BadRequest: the path cannot belong to Redash's API, or is another spelling of one that does (CONTRACT 20.3).
        NotFound: the table has no such path, or the prefix is missing.
        MethodNotAllowed: the table has the path for other methods only.
    """
    return _match(method, path, slug, prefix)


def is_ping(path: str, prefix: str) -> bool:
    """Whether it is the path for load balancers. They may ask below the prefix or without it."""
    return path in (PING.template, f"{prefix}{PING.template}")


def execution_of(query_id: int) -> Match:
    """Return the match of a request that runs a saved query."""
    return _match("POST", EXECUTE.template.format(query_id=query_id), "", "")


@lru_cache(maxsize=4096)
def _match(method: str, path: str, slug: str, prefix: str) -> Match:
    if not _PLAIN_PATH.fullmatch(path) or "//" in path or _DOT_SEGMENT.search(path):
        raise BadRequest(
            "The path has characters or segments that no Redash API path has (percent-encoding, '//', '.', '..', ';', "
            "'\\' and fragments are refused). Send the path in its plain form, e.g. /api/queries/1/results.",
            refused=f"path {_shape(path)}",
        )
    if prefix and not path.startswith(f"{prefix}/") and not is_ping(path, prefix):
        text = f"This gateway serves below {prefix} only: send {prefix}/api/... (its server.path_prefix)."
        raise NotFound(text, refused=f"path {_shape(path)}")
    parts: dict[str, str] = {}
    node = _walk(_without(slug and f"/{slug}", _without(prefix, path)), parts)
    if node is None or not node.routes:
        raise NotFound("This is no route of the Redash API that the gateway serves.", refused=f"path {_shape(path)}")
    route = node.routes.get("GET" if method == "HEAD" else method)
    if route is None:
        allow = tuple(sorted(node.routes)) + (("HEAD",) if "GET" in node.routes else ())
        raise MethodNotAllowed(f"This route takes {', '.join(allow)}.", allow)
    query_id = parts.get("query_id")
    return Match(route, parts, int(query_id) if query_id is not None else None)


def _without(start: str, path: str) -> str:
    """Return a path without its first segments, if it has them, and has more."""
    return path.removeprefix(start) if path.startswith(f"{start}/") else path


def _walk(path: str, parts: dict[str, str]) -> _Node | None:
    node: _Node | None = _TREE
    for segment in path.split("/")[1:]:
        node = node.step(segment, parts) if node is not None else None
    return node

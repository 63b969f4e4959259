"""The route table, and the strict grammar of paths. What the table does not name never reaches Redash."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal

import msgspec

from gateway.errors import BadRequest, MethodNotAllowed, NotFound

Capability = Literal["read", "execute", "adhoc", "write", "admin"]

Kind = Literal[
    "execute",  # POST of a saved query's results
    "execute_text",  # POST of free SQL
    "refresh",
    "latest",  # GET of a query's results: the latest, or, with p_ or max_age, the parameterised form
    "result",  # GET of a result by id
    "job",
    "cancel",
    "metadata",  # GET of anything else that may be kept for `metadata_ttl`
    "live",  # GET of what must not be kept
    "write",
    "ping",
]


class Route(msgspec.Struct, frozen=True):
    """One row of the table. `template` is also the label of metrics and log."""

    method: str
    template: str
    kind: Kind
    capability: Capability
    keys: bool = False
    """Its answers can hold Redash's keys or public links (CONTRACT 15)."""
    lists: bool = False
    """It shows objects of many queries: 403 for a client that is bound to some."""


class Match(msgspec.Struct, frozen=True):
    """A route with the parts of the path that it captured, as text."""

    route: Route
    parts: dict[str, str]

    def number(self, name: str) -> int | None:
        """Return the captured decimal id, None if the route has no such part."""
        text = self.parts.get(name)
        return int(text) if text is not None else None

    def path(self) -> str:
        """Return the path as Redash knows it, built from the table and the captured parts only."""
        return self.route.template.format_map(self.parts)


def _rows(text: str, **flags: bool) -> list[Route]:
    rows = []
    for line in text.strip().splitlines():
        capability, kind, methods, template = line.split()
        rows += [Route(m, template, kind, capability, **flags) for m in methods.split(",")]  # type: ignore[arg-type]
    return rows


ROUTES: Final[tuple[Route, ...]] = (
    *_rows("""
read    ping         GET     /ping
execute execute      POST    /api/queries/{query_id}/results
read    latest       GET     /api/queries/{query_id}/results
read    latest       GET     /api/queries/{query_id}/results.{form}
read    result       GET     /api/queries/{query_id}/results/{result_id}.{form}
read    result       GET     /api/query_results/{result_id}
read    result       GET     /api/query_results/{result_id}.{form}
adhoc   execute_text POST    /api/query_results
execute refresh      POST    /api/queries/{query_id}/refresh
read    job          GET     /api/jobs/{job_id}
read    job          GET     /api/queries/{query_id}/jobs/{job_id}
execute cancel       DELETE  /api/jobs/{job_id}
execute cancel       DELETE  /api/queries/{query_id}/jobs/{job_id}
read    metadata     GET     /api/queries/{query_id}/dropdown
read    metadata     GET     /api/queries/{query_id}/dropdowns/{dropdown_id}
read    metadata     GET     /api/session
read    metadata     GET     /api/data_sources/types
read    live         GET     /api/organization/status
"""),
    *_rows(
        """
read    metadata     GET     /api/dashboards/public/{token}
read    metadata     GET     /api/queries/tags
read    metadata     GET     /api/dashboards/tags
read    metadata     GET     /api/data_sources
read    metadata     GET     /api/data_sources/{id}
read    live         GET     /api/data_sources/{id}/schema
read    metadata     GET     /api/query_snippets
read    metadata     GET     /api/query_snippets/{id}
""",
        lists=True,
    ),
    *_rows(
        """
read    metadata     GET     /api/queries
read    metadata     GET     /api/queries/my
read    metadata     GET     /api/queries/recent
read    metadata     GET     /api/queries/favorites
read    metadata     GET     /api/queries/archive
read    metadata     GET     /api/queries/search
read    metadata     GET     /api/dashboards
read    metadata     GET     /api/dashboards/my
read    metadata     GET     /api/dashboards/favorites
read    metadata     GET     /api/alerts
read    metadata     GET     /api/alerts/{id}
read    metadata     GET     /api/alerts/{id}/subscriptions
""",
        keys=True,
        lists=True,
    ),
    *_rows(
        """
read    metadata     GET     /api/queries/{query_id}
read    metadata     GET     /api/dashboards/{dashboard}
write   write        POST    /api/queries
write   write        POST,DELETE /api/queries/{query_id}
write   write        POST    /api/queries/{query_id}/fork
write   write        POST,DELETE /api/queries/{query_id}/favorite
write   write        POST    /api/dashboards
write   write        POST,DELETE /api/dashboards/{dashboard}
write   write        POST    /api/dashboards/{dashboard}/fork
write   write        POST,DELETE /api/dashboards/{dashboard}/favorite
write   write        POST,DELETE /api/dashboards/{dashboard}/share
write   write        POST    /api/widgets
write   write        POST,DELETE /api/widgets/{id}
write   write        POST    /api/alerts
write   write        POST,DELETE /api/alerts/{id}
write   write        POST,DELETE /api/alerts/{id}/mute
write   write        POST    /api/alerts/{id}/subscriptions
write   write        DELETE  /api/alerts/{id}/subscriptions/{id2}
admin   write        POST    /api/queries/{query_id}/regenerate_api_key
admin   live         GET     /api/users
admin   write        POST    /api/users
admin   live         GET     /api/users/{id}
admin   write        POST,DELETE /api/users/{id}
admin   write        POST    /api/users/{id}/invite
admin   write        POST    /api/users/{id}/reset_password
admin   write        POST    /api/users/{id}/regenerate_api_key
admin   write        POST,DELETE /api/users/{id}/disable
admin   live         GET     /api/admin/queries/outdated
admin   live         GET     /api/admin/queries/rq_status
""",
        keys=True,
    ),
    *_rows("""
write   write        POST    /api/queries/format
write   write        POST    /api/visualizations
write   write        POST,DELETE /api/visualizations/{id}
write   write        POST    /api/query_snippets
write   write        POST,DELETE /api/query_snippets/{id}
admin   write        POST    /api/data_sources
admin   write        POST,DELETE /api/data_sources/{id}
admin   write        POST,DELETE /api/data_sources/{id}/pause
admin   write        POST    /api/data_sources/{id}/test
admin   live         GET     /api/groups
admin   write        POST    /api/groups
admin   live         GET     /api/groups/{id}
admin   write        POST,DELETE /api/groups/{id}
admin   live         GET     /api/groups/{id}/members
admin   write        POST    /api/groups/{id}/members
admin   write        DELETE  /api/groups/{id}/members/{id2}
admin   live         GET     /api/groups/{id}/data_sources
admin   write        POST    /api/groups/{id}/data_sources
admin   write        POST,DELETE /api/groups/{id}/data_sources/{id2}
admin   live         GET     /api/destinations
admin   write        POST    /api/destinations
admin   live         GET     /api/destinations/types
admin   live         GET     /api/destinations/{id}
admin   write        POST,DELETE /api/destinations/{id}
admin   live         GET     /api/settings/organization
admin   write        POST    /api/settings/organization
admin   live         GET     /api/queries/{query_id}/acl
admin   write        POST,DELETE /api/queries/{query_id}/acl
admin   live         GET     /api/queries/{query_id}/acl/{word}
admin   live         GET     /api/dashboards/{dashboard}/acl
admin   write        POST,DELETE /api/dashboards/{dashboard}/acl
admin   live         GET     /api/dashboards/{dashboard}/acl/{word}
admin   live         GET     /api/events
admin   write        POST    /api/events
"""),
)

_ID = r"[1-9][0-9]{0,17}"
_PARTS: Final = {
    "form": "json|csv|tsv|xlsx",
    "job_id": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "token": "[A-Za-z0-9]{40}",
    "dashboard": r"[A-Za-z0-9_-]{1,200}",
    "word": "[a-z_]{1,50}",
}


class _Node:
    """One segment of the paths so far: what may follow, and which methods end here."""

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
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9_.~!$&'()*+,=:@/-]*")
_DOT_SEGMENT: Final = re.compile(r"/\.{1,2}(/|$)")


def match(method: str, path: str, slug: str = "") -> Match:
    """Find the route of a raw path (as it stood on the wire, without query).

    `slug` is the organisation's, which a path may carry or leave out. HEAD takes the route of GET.

    Raises:
        BadRequest: the path is none that Redash's API could mean, or an alias of one (CONTRACT 20.3).
        NotFound: the table does not name it.
        MethodNotAllowed: the table names it for other methods.
    """
    return _match(method, path, slug)


@lru_cache(maxsize=4096)
def _match(method: str, path: str, slug: str) -> Match:
    if not _PLAIN_PATH.fullmatch(path) or "//" in path or _DOT_SEGMENT.search(path):
        raise BadRequest(
            "The path has characters or segments that no Redash API path has (percent-encoding, '//', '.', '..', ';', "
            "'\\' and fragments are refused). Send the path in its plain form, e.g. /api/queries/1/results."
        )
    parts: dict[str, str] = {}
    node = _walk(path.removeprefix(f"/{slug}") if slug and path.startswith(f"/{slug}/") else path, parts)
    if node is None or not node.routes:
        raise NotFound("This is no route of the Redash API that the gateway serves.")
    route = node.routes.get("GET" if method == "HEAD" else method)
    if route is None:
        allow = tuple(sorted(node.routes)) + (("HEAD",) if "GET" in node.routes else ())
        raise MethodNotAllowed(f"This route takes {', '.join(allow)}.", allow)
    return Match(route, parts)


def _walk(path: str, parts: dict[str, str]) -> _Node | None:
    node: _Node | None = _TREE
    for segment in path.split("/")[1:]:
        node = node.step(segment, parts) if node is not None else None
    return node

"""The route table. Only what it names reaches Redash; no other file writes a path of Redash's API.

Everything that depends on the route alone is a column here; a new metadata route is one more row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

Capability = Literal["read", "execute", "adhoc", "purge", "write", "admin"]

Kind = Literal[
    "execute",  # POST of a saved query's results
    "execute_text",  # POST of free SQL
    "refresh",
    "latest",  # GET of a query's results: the latest, or, with p_ or max_age, the parameterised form
    "events",  # GET of a stream that tells of new results; the gateway itself responds
    "result",  # GET of a result by id
    "job",
    "cancel",
    "metadata",  # GET of anything else that may be kept for `metadata_ttl`
    "live",  # GET of what must not be kept
    "board",  # every widget's result of a dashboard: the gateway's own, made of the requests that its widgets make
    "write",
    "purge",  # the gateway itself responds, as to the next one
    "ping",
]
_RESULTS: Final = frozenset({"execute", "execute_text", "refresh", "latest", "result"})


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the table. `template` is also the label of metrics and log."""

    method: str
    template: str
    kind: Kind
    capability: Capability
    keys: bool = False
    """Its responses can hold Redash's keys or public links (CONTRACT 15)."""
    lists: bool = False
    """It shows objects of many queries: 403 for a client that is bound to some."""
    query_key: bool = False
    """A query's own key can use it, below the path of its query (CONTRACT 2)."""
    job_result: bool = False
    """Redash may respond with a job of its own, whose result is what the route is about (CONTRACT 14, 25)."""
    newer: bool = False
    """Some versions lack it: there a GET shows the page of the front end."""
    redirects: bool = False
    """Redash responds with a redirect to the list of queries (CONTRACT 5)."""

    @property
    def has_results(self) -> bool:
        """Whether its responses can be results: of any size, and forwarded while they arrive."""
        return self.kind in _RESULTS

    def has_path_of(self, other: Route) -> bool:
        """Whether both name the same object, with the same method or another one."""
        return self.template == other.template

    def is_below(self, other: Route) -> bool:
        """Whether it names the same object, or a part of it."""
        return self.has_path_of(other) or self.template.startswith(f"{other.template}/")


def _rows(text: str) -> Iterator[Route]:
    for line in text.strip().splitlines():
        capability, kind, methods, template, *flags = line.split()
        row = {"capability": capability, "kind": kind, "template": template, **dict.fromkeys(flags, True)}
        for method in methods.split(","):
            yield msgspec.convert({**row, "method": method}, Route)


ROUTES: Final = tuple(
    _rows("""
read    ping         GET         /ping
purge   purge        POST        /gateway/purge
execute execute      POST        /api/queries/{query_id}/results                         query_key
read    latest       GET         /api/queries/{query_id}/results                         query_key
read    latest       GET         /api/queries/{query_id}/results.{form}                  query_key
read    events       GET         /api/queries/{query_id}/results/events                  query_key
read    result       GET         /api/queries/{query_id}/results/{result_id}.{form}      query_key
read    result       GET         /api/query_results/{result_id}
read    result       GET         /api/query_results/{result_id}.{form}
adhoc   execute_text POST        /api/query_results
execute refresh      POST        /api/queries/{query_id}/refresh
read    job          GET         /api/jobs/{job_id}
read    job          GET         /api/queries/{query_id}/jobs/{job_id}                   query_key
execute cancel       DELETE      /api/jobs/{job_id}
execute cancel       DELETE      /api/queries/{query_id}/jobs/{job_id}
read    metadata     GET         /api/queries/{query_id}/dropdown                        query_key
read    metadata     GET         /api/queries/{query_id}/dropdowns/{dropdown_id}         query_key
read    metadata     GET         /api/session
read    metadata     GET         /api/data_sources/types
read    live         GET         /api/organization/status
read    metadata     GET         /api/dashboards/public/{token}                          lists
read    metadata     GET         /api/queries/tags                                       lists
read    metadata     GET         /api/dashboards/tags                                    lists
read    metadata     GET         /api/data_sources                                       lists
read    metadata     GET         /api/data_sources/{id}                                  lists
read    live         GET         /api/data_sources/{id}/schema                           lists job_result
read    live         GET         /api/databricks/databases/{id}                          lists job_result newer
read    live         GET         /api/databricks/databases/{id}/{database}/tables        lists job_result newer
read    live         GET         /api/databricks/databases/{id}/{database}/columns/{table} lists job_result newer
read    metadata     GET         /api/query_snippets                                     lists
read    metadata     GET         /api/query_snippets/{id}                                lists
read    metadata     GET         /api/queries                                            keys lists
read    metadata     GET         /api/queries/my                                         keys lists
read    metadata     GET         /api/queries/recent                                     keys lists
read    metadata     GET         /api/queries/favorites                                  keys lists
read    metadata     GET         /api/queries/archive                                    keys lists
read    metadata     GET         /api/queries/search                                     keys lists redirects
read    metadata     GET         /api/dashboards                                         keys lists
read    metadata     GET         /api/dashboards/my                                      keys lists
read    metadata     GET         /api/dashboards/favorites                               keys lists
read    metadata     GET         /api/alerts                                             keys lists
read    metadata     GET         /api/alerts/{id}                                        keys lists
read    metadata     GET         /api/alerts/{id}/subscriptions                          keys lists
read    metadata     GET         /api/queries/{query_id}                                 keys query_key
read    metadata     GET         /api/dashboards/{dashboard}                             keys
execute board        GET         /api/dashboards/{dashboard}/results
execute board        GET         /api/dashboards/{dashboard}/results.ndjson
execute board        POST        /api/dashboards/{dashboard}/refresh
write   write        POST        /api/queries                                            keys
write   write        POST,DELETE /api/queries/{query_id}                                 keys
write   write        POST        /api/queries/{query_id}/fork                            keys
write   write        POST,DELETE /api/queries/{query_id}/favorite                        keys
write   write        POST        /api/dashboards                                         keys
write   write        POST,DELETE /api/dashboards/{dashboard}                             keys
write   write        POST        /api/dashboards/{dashboard}/fork                        keys
write   write        POST,DELETE /api/dashboards/{dashboard}/favorite                    keys
write   write        POST,DELETE /api/dashboards/{dashboard}/share                       keys
write   write        POST        /api/widgets                                            keys
write   write        POST,DELETE /api/widgets/{id}                                       keys
write   write        POST        /api/alerts                                             keys
write   write        POST,DELETE /api/alerts/{id}                                        keys
write   write        POST,DELETE /api/alerts/{id}/mute                                   keys
write   write        POST        /api/alerts/{id}/eval
write   write        POST        /api/alerts/{id}/subscriptions                          keys
write   write        DELETE      /api/alerts/{id}/subscriptions/{id2}                    keys
admin   write        POST        /api/queries/{query_id}/regenerate_api_key              keys
admin   live         GET         /api/users                                              keys
admin   write        POST        /api/users                                              keys
admin   live         GET         /api/users/{id}                                         keys
admin   write        POST,DELETE /api/users/{id}                                         keys
admin   write        POST        /api/users/{id}/invite                                  keys
admin   write        POST        /api/users/{id}/reset_password                          keys
admin   write        POST        /api/users/{id}/regenerate_api_key                      keys
admin   write        POST,DELETE /api/users/{id}/disable                                 keys
admin   live         GET         /api/admin/queries/outdated                             keys
admin   live         GET         /api/admin/queries/rq_status                            keys newer
write   write        POST        /api/queries/format
write   write        POST        /api/visualizations
write   write        POST,DELETE /api/visualizations/{id}
write   write        POST        /api/query_snippets
write   write        POST,DELETE /api/query_snippets/{id}
admin   write        POST        /api/data_sources
admin   write        POST,DELETE /api/data_sources/{id}
admin   write        POST,DELETE /api/data_sources/{id}/pause
admin   write        POST        /api/data_sources/{id}/test
admin   live         GET         /api/groups
admin   write        POST        /api/groups
admin   live         GET         /api/groups/{id}
admin   write        POST,DELETE /api/groups/{id}
admin   live         GET         /api/groups/{id}/members
admin   write        POST        /api/groups/{id}/members
admin   write        DELETE      /api/groups/{id}/members/{id2}
admin   live         GET         /api/groups/{id}/data_sources
admin   write        POST        /api/groups/{id}/data_sources
admin   write        POST,DELETE /api/groups/{id}/data_sources/{id2}
admin   live         GET         /api/destinations
admin   write        POST        /api/destinations
admin   live         GET         /api/destinations/types
admin   live         GET         /api/destinations/{id}
admin   write        POST,DELETE /api/destinations/{id}
admin   live         GET         /api/settings/organization
admin   write        POST        /api/settings/organization
admin   live         GET         /api/queries/{query_id}/acl
admin   write        POST,DELETE /api/queries/{query_id}/acl
admin   live         GET         /api/queries/{query_id}/acl/{word}
admin   live         GET         /api/dashboards/{dashboard}/acl
admin   write        POST,DELETE /api/dashboards/{dashboard}/acl
admin   live         GET         /api/dashboards/{dashboard}/acl/{word}
admin   live         GET         /api/events
admin   write        POST        /api/events
""")
)


def _row(method: str, template: str) -> Route:
    return next(route for route in ROUTES if (route.method, route.template) == (method, template))


PING: Final = _row("GET", "/ping")
SESSION: Final = _row("GET", "/api/session")
QUERIES: Final = _row("GET", "/api/queries")
QUERY: Final = _row("GET", "/api/queries/{query_id}")
DROPDOWN: Final = _row("GET", "/api/queries/{query_id}/dropdowns/{dropdown_id}")
DATA_SOURCES: Final = _row("GET", "/api/data_sources")
DATA_SOURCE: Final = _row("GET", "/api/data_sources/{id}")
DASHBOARDS: Final = _row("GET", "/api/dashboards")
DASHBOARD: Final = _row("GET", "/api/dashboards/{dashboard}")
EXECUTE: Final = _row("POST", "/api/queries/{query_id}/results")
EXECUTE_TEXT: Final = _row("POST", "/api/query_results")
REFRESH: Final = _row("POST", "/api/queries/{query_id}/refresh")
LATEST: Final = _row("GET", "/api/queries/{query_id}/results.{form}")
RESULT: Final = _row("GET", "/api/query_results/{result_id}.{form}")
QUERY_RESULT: Final = _row("GET", "/api/queries/{query_id}/results/{result_id}.{form}")
JOB: Final = _row("GET", "/api/jobs/{job_id}")
QUERY_JOB: Final = _row("GET", "/api/queries/{query_id}/jobs/{job_id}")
CANCEL: Final = _row("DELETE", "/api/jobs/{job_id}")

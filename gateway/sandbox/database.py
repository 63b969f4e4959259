"""All objects of one Redash and the rules by which they change: look-ups, edits, hashes, newest results.
No HTTP here and no waiting; permissions are in `access.py`.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .naming import free_slug
from .objects import (
    ADMIN_PERMISSIONS,
    DEFAULT_PERMISSIONS,
    Alert,
    Dashboard,
    DataSource,
    Group,
    Query,
    Snippet,
    User,
    Visualization,
    Widget,
)
from .parameters import DetachedError, InvalidParametersError, Schema, applied
from .results import Loader, Result, options
from .sqltext import query_hash, with_auto_limit
from .timestamps import SECOND, microseconds
from .versions import Version
from .warehouse import Table

T = TypeVar("T")
_ALPHABET = string.ascii_letters + string.digits


class NoResultError(Exception):
    """A dropdown query that was never run; Redash responds with 500."""


class Database:
    """Tables of objects by id. Ids are global over organisations and only ever grow."""

    def __init__(self, seed: int, clock: Callable[[], float], version: Version) -> None:
        self.clock = clock
        self.version = version
        self._random = random.Random(seed)
        self.orgs: dict[str, int] = {"default": 1}
        self.groups: dict[int, Group] = {}
        self.users: dict[int, User] = {}
        self.sources: dict[int, DataSource] = {}
        self.queries: dict[int, Query] = {}
        self.visualizations: dict[int, Visualization] = {}
        self.dashboards: dict[int, Dashboard] = {}
        self.widgets: dict[int, Widget] = {}
        self.alerts: dict[int, Alert] = {}
        self.snippets: dict[int, Snippet] = {}
        self.results: dict[int, Result] = {}
        self._by_hash: dict[tuple[str, int], list[Result]] = {}
        self.starred: dict[tuple[str, int, int], int] = {}
        """(kind, object id, user id) → when."""
        self.disable_public_urls = False
        self.date_format, self.time_format = "DD/MM/YY", "HH:mm"
        self.expired_ttl: int | None = None
        """REDASH_QUERY_RESULTS_EXPIRED_TTL, if enabled: it replaces a max_age of -1 (CONTRACT 6)."""
        self.add_group("admin", ADMIN_PERMISSIONS, "builtin")
        self.add_group("default", DEFAULT_PERMISSIONS, "builtin")

    def now(self) -> int:
        """The time of the sandbox's clock, in microseconds."""
        return microseconds(self.clock())

    def new_key(self) -> str:
        """A new key, the same for the same seed."""
        return "".join(self._random.choices(_ALPHABET, k=40))

    def next_id(self, table: dict[int, T]) -> int:
        """The greatest id plus one."""
        return max(table, default=0) + 1

    # -- people and sources

    def add_group(self, name: str, permissions: tuple[str, ...] = DEFAULT_PERMISSIONS, type: str = "regular") -> Group:
        """A new group."""
        group = Group(self.next_id(self.groups), name, permissions, type, self.now())
        self.groups[group.id] = group
        return group

    def add_user(self, name: str, email: str, groups: list[int], *, org: int = 1, **more: Any) -> User:
        """A new user with a key."""
        now = self.now()
        more.setdefault("api_key", self.new_key())
        user = User(
            self.next_id(self.users), name, email, groups=groups, created_at=now, updated_at=now, org=org, **more
        )
        self.users[user.id] = user
        return user

    def add_source(self, name: str, groups: dict[int, bool], *, type: str = "pg", **more: Any) -> DataSource:
        """A new data source; `groups` maps a group to "view only"."""
        source = DataSource(self.next_id(self.sources), name, type, groups, **more)
        self.sources[source.id] = source
        return source

    def is_typed(self, source_id: int | None) -> bool:
        """Whether the source reports column types; Redash's SQLite sources do not."""
        return self.sources[source_id].type != "sqlite" if source_id in self.sources else True

    def permissions(self, user: User) -> list[str]:
        """The permissions of a user with repetitions, as Redash lists them."""
        return [permission for id in user.groups for permission in self.groups[id].permissions]

    # -- queries

    def add_query(self, name: str, query: str, data_source_id: int | None, user_id: int, **more: Any) -> Query:
        """A new query with its table visualization."""
        now = self.now()
        more.setdefault("api_key", self.new_key())
        id = more.pop("id", None) or self.next_id(self.queries)
        made = Query(id, name, query, data_source_id, user_id, created_at=now, updated_at=now, **more)
        made.last_modified_by = user_id
        self.queries[made.id] = made
        self.add_visualization(made.id, "TABLE", "Table")
        self.rehash(made)
        return made

    def edit(self, query: Query, changes: dict[str, Any], by: int | None = None) -> None:
        """Changes a query. Moves `updated_at` even if nothing changes; `version` never moves (CONTRACT 5, 11)."""
        for name, value in changes.items():
            setattr(query, name, value)
        if query.is_archived:
            self._drop_dependents(query)
        query.last_modified_by = by or query.last_modified_by
        self.touch(query)
        if changes.keys() & {"query", "options", "data_source_id"}:
            self.rehash(query)

    def touch(self, thing: Query | Dashboard | User | Widget) -> None:
        """Moves `updated_at`, also when the clock stands still: readers use it to notice changes."""
        thing.updated_at = max(self.now(), thing.updated_at + SECOND // 1000)

    def _drop_dependents(self, query: Query) -> None:
        """Archiving removes widgets, alerts and schedule (CONTRACT 5)."""
        query.schedule = None
        shown = {v.id for v in self.visualizations.values() if v.query_id == query.id}
        self.widgets = {id: w for id, w in self.widgets.items() if w.visualization_id not in shown}
        self.alerts = {id: a for id, a in self.alerts.items() if a.query_id != query.id}

    def rehash(self, query: Query) -> None:
        """Hashes the text with the default values; with an invalid default the bare template (CONTRACT 8)."""
        text = query.query
        defaults = {p["name"]: p.get("value") for p in query.parameters}
        if defaults and self.version.hash_has_defaults:
            try:
                text = self.applied(text, query.parameters, defaults, query.org)
            except (InvalidParametersError, DetachedError):
                text = query.query
        query.query_hash = self.hash_of(self.executed(text, bool(query.options.get("apply_auto_limit"))))
        newest = self.newest(query.query_hash, query.data_source_id)
        if newest is not None:
            query.latest_query_data_id = newest.id

    def applied(self, template: str, schema: Schema, values: Mapping[str, Any], org: int) -> str:
        """The SQL text for these values, with the dropdown queries of one organisation."""

        def dropdown(query_id: Any) -> list[str]:
            return [option["value"] for option in self.dropdown_options(query_id, org)]

        return applied(template, schema, values, dropdown, self.version)

    def executed(self, text: str, limit: bool) -> str:
        """The text as it runs: with the automatic limit, if it is wanted."""
        limit = limit and self.version.has_auto_limit
        return with_auto_limit(text, limit) if limit or self.version.strips_statements else text

    def hash_of(self, text: str) -> str:
        """The cache key of a text as it runs."""
        return query_hash(text, fold_case=self.version.hash_folds_case)

    def dropdown_options(self, query_id: Any, org: int) -> list[dict[str, str]]:
        """The newest result of a query as options. Raises KeyError, NoResultError or DetachedError."""
        query = self.queries[query_id]
        if query.org != org:
            raise KeyError(query_id)
        if query.data_source_id is None:
            raise DetachedError(query_id)
        if query.latest_query_data_id is None:
            raise NoResultError(query_id)
        return options(self.results[query.latest_query_data_id])

    def add_visualization(self, query_id: int, type: str, name: str, options: Any = None, **more: Any) -> Visualization:
        """A new visualization."""
        now = self.now()
        id = more.pop("id", None) or self.next_id(self.visualizations)
        made = Visualization(id, query_id, type, name, "", {} if options is None else options, now, now)
        self.visualizations[id] = made
        return made

    def visualizations_of(self, query_id: int) -> list[Visualization]:
        """All visualizations of one query, oldest first."""
        return [v for v in self.visualizations.values() if v.query_id == query_id]

    # -- results

    def put_result(self, result: Result) -> None:
        """Stores a result. Queries with its hash and source point at it, unless they are archived (CONTRACT 7, 11)."""
        self.results[result.id] = result
        self._by_hash.setdefault((result.query_hash, result.data_source_id), []).append(result)
        for query in self.queries.values():
            same = query.query_hash == result.query_hash and query.data_source_id == result.data_source_id
            if same and not query.is_archived:
                query.latest_query_data_id = result.id

    def new_result(
        self,
        sql: str,
        source_id: int,
        *,
        table: Table | None = None,
        load: Loader | None = None,
        runtime: float = 0.0,
        retrieved_at: int | None = None,
    ) -> Result:
        """A result with the next id, not yet stored."""
        self._last_result_id = max(getattr(self, "_last_result_id", 0), max(self.results, default=0)) + 1
        at = self.now() if retrieved_at is None else retrieved_at
        runtime = table.runtime if table is not None else runtime
        hashed = self.hash_of(self.executed(sql, False))
        id, version = self._last_result_id, self.version
        return Result(id, hashed, sql, source_id, at, version=version, runtime=runtime, table=table, load=load)

    def remove_result(self, result_id: int) -> None:
        """Removes a result, even if a query points at it (CONTRACT 10)."""
        result = self.results.pop(result_id)
        self._by_hash[result.query_hash, result.data_source_id].remove(result)

    def set_back(self, result_id: int) -> None:
        """Removes the results after this one and gives their ids again, like a restore of an older backup."""
        for id in [id for id in self.results if id > result_id]:
            self.remove_result(id)
        self._last_result_id = result_id
        for query in self.queries.values():
            query.latest_query_data_id = getattr(self.newest(query.query_hash, query.data_source_id), "id", None)

    def clean_up(self) -> list[int]:
        """Removes up to 100 results older than seven days that no query points at; returns their ids (CONTRACT 10)."""
        kept = {query.latest_query_data_id for query in self.queries.values()}
        limit = self.now() - 7 * 86400 * SECOND
        old = [id for id, result in self.results.items() if result.retrieved_at < limit and id not in kept][:100]
        for id in old:
            self.remove_result(id)
        return old

    def newest(self, hashed: str, source_id: int | None, max_age: int = -1) -> Result | None:
        """The newest result by `retrieved_at`, not by id, if not older than `max_age` seconds (CONTRACT 7, 10)."""
        if max_age == -1 and self.expired_ttl is not None:
            max_age = self.expired_ttl
        found = self._by_hash.get((hashed, source_id or 0), [])
        newest = max(found, key=lambda result: (result.retrieved_at, result.id), default=None)
        if newest is None or max_age == -1 or newest.retrieved_at + max_age * SECOND >= self.now():
            return newest
        return None

    # -- dashboards

    def add_dashboard(self, name: str, user_id: int, **more: Any) -> Dashboard:
        """A new dashboard with a free slug."""
        now = self.now()
        id = self.next_id(self.dashboards)
        slug = free_slug(name, {board.slug for board in self.dashboards.values()})
        board = Dashboard(id, slug, name, user_id, now, now, **more)
        self.dashboards[id] = board
        return board

    def add_widget(self, board_id: int, visualization_id: int | None, text: str = "", options: Any = None) -> Widget:
        """A new widget; version and `updated_at` of the dashboard do not move (CONTRACT 13)."""
        now = self.now()
        id = self.next_id(self.widgets)
        made = Widget(id, board_id, visualization_id, text, 1, {} if options is None else options, now, now)
        self.widgets[id] = made
        return made

    def widgets_of(self, board_id: int) -> list[Widget]:
        """All widgets of one dashboard, oldest first."""
        return [w for w in self.widgets.values() if w.dashboard_id == board_id]

    def queries_on(self, board_id: int) -> set[int]:
        """The ids of the queries that a dashboard shows."""
        shown = (self.visualizations.get(w.visualization_id or 0) for w in self.widgets_of(board_id))
        return {v.query_id for v in shown if v is not None}

    def board_of_token(self, token: str) -> Dashboard | None:
        """The dashboard that a public token opens."""
        return next((board for board in self.dashboards.values() if token in board.tokens), None)

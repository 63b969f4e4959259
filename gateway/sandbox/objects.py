"""The objects of a Redash as plain records: users, groups, sources, queries, dashboards, alerts.
Only data lives here; the rules are in `database.py` and `access.py`. Times are whole microseconds of Unix time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = Any
"""A value as `json` reads and writes it."""

DEFAULT_PERMISSIONS = (
    "create_dashboard",
    "create_query",
    "edit_dashboard",
    "edit_query",
    "view_query",
    "view_source",
    "execute_query",
    "list_users",
    "schedule_query",
    "list_dashboards",
    "list_alerts",
    "list_data_sources",
)
ADMIN_PERMISSIONS = ("admin", "super_admin")


@dataclass
class Group:
    """Carries permissions to users, and users to sources."""

    id: int
    name: str
    permissions: tuple[str, ...]
    type: str
    created_at: int
    org: int = 1


@dataclass
class User:
    """A person with an API key."""

    id: int
    name: str
    email: str
    api_key: str
    groups: list[int]
    created_at: int
    updated_at: int
    org: int = 1
    disabled_at: int | None = None
    active_at: int | None = None
    pending: bool = False
    password: str | None = None


@dataclass
class DataSource:
    """`groups` maps a group id to "view only", as Redash prints it."""

    id: int
    name: str
    type: str
    groups: dict[int, bool]
    options: dict[str, Json] = field(default_factory=dict)
    org: int = 1
    paused: bool = False
    pause_reason: str | None = None
    schema_known: bool = False


@dataclass
class Visualization:
    """A way to show a query; dashboards show visualizations."""

    id: int
    query_id: int
    type: str
    name: str
    description: str
    options: Json
    created_at: int
    updated_at: int


@dataclass
class Query:
    """A saved query."""

    id: int
    name: str
    query: str
    data_source_id: int | None
    user_id: int
    api_key: str
    created_at: int
    updated_at: int
    description: str | None = None
    options: dict[str, Json] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    schedule: Json = None
    is_archived: bool = False
    is_draft: bool = True
    version: int = 1
    last_modified_by: int = 1
    query_hash: str = ""
    latest_query_data_id: int | None = None
    org: int = 1
    runtime: float = 0.004
    """The runtime that a sample result reports, though it was not executed, in seconds."""

    @property
    def parameters(self) -> list[dict[str, Json]]:
        """The parameter definitions."""
        found = self.options.get("parameters") if isinstance(self.options, dict) else None
        return found if isinstance(found, list) else []


@dataclass
class Widget:
    """A visualization or a text on a dashboard."""

    id: int
    dashboard_id: int
    visualization_id: int | None
    text: str
    width: int
    options: Json
    created_at: int
    updated_at: int


@dataclass
class Dashboard:
    """`tokens` are the active public tokens in the order they were made (CONTRACT 13: there may be several)."""

    id: int
    slug: str
    name: str
    user_id: int
    created_at: int
    updated_at: int
    layout: Json = field(default_factory=list)
    options: Json = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    dashboard_filters_enabled: bool = False
    is_archived: bool = False
    is_draft: bool = True
    version: int = 1
    tokens: list[str] = field(default_factory=list)
    org: int = 1


@dataclass
class Alert:
    """A condition on a result of a query."""

    id: int
    name: str
    query_id: int
    user_id: int
    options: Json
    created_at: int
    updated_at: int
    state: str = "unknown"
    last_triggered_at: int | None = None
    rearm: int | None = None


@dataclass
class Snippet:
    """A piece of SQL for the editor."""

    id: int
    trigger: str
    description: str
    snippet: str
    user_id: int
    created_at: int
    updated_at: int


@dataclass(frozen=True)
class Caller:
    """The sender of a request: a user, or an "API user" made from a query key or a dashboard token (CONTRACT 1)."""

    org: int
    user: User | None = None
    api_key: str = ""
    groups: tuple[int, ...] = ()
    permissions: tuple[str, ...] = ("view_query",)

    @property
    def is_api_user(self) -> bool:
        """Whether it came with a query key or a dashboard token."""
        return self.user is None

    def may(self, permission: str) -> bool:
        """Whether the caller has a permission."""
        return permission in self.permissions

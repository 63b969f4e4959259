"""Objects as Redash prints them, key by key in its order (CONTRACT 5, 13, 14). They contain secrets (CONTRACT 15)."""

from __future__ import annotations

from typing import Any

from . import access
from .database import Database
from .json_text import stored
from .naming import gravatar, slugged
from .objects import Alert, Caller, Dashboard, DataSource, Query, User, Visualization, Widget
from .timestamps import timestamp, whole_second
from .versions import Version

Body = dict[str, Any]


def picture(user: User) -> str:
    """The URL of the picture."""
    return "/static/images/avatar.svg" if user.disabled_at is not None else gravatar(user.email)


def user_body(user: User) -> Body:
    """A user without the key."""
    return {
        "id": user.id,
        "name": user.name,
        "email": user.email,
        "profile_image_url": picture(user),
        "groups": user.groups,
        "updated_at": timestamp(user.updated_at),
        "created_at": timestamp(user.created_at),
        "disabled_at": timestamp(user.disabled_at),
        "is_disabled": user.disabled_at is not None,
        "active_at": whole_second(user.active_at),
        "is_invitation_pending": user.pending,
        "is_email_verified": True,
        "auth_type": "external" if user.pending else "password",
    }


def query_body(database: Database, query: Query, *, people: bool = True) -> Body:
    """A query; with `people` the owner and last editor as objects, else their ids."""
    owner, editor = database.users[query.user_id], database.users[query.last_modified_by]
    body: Body = {
        "id": query.id,
        "latest_query_data_id": query.latest_query_data_id,
        "name": query.name,
        "description": query.description,
        "query": query.query,
        "query_hash": query.query_hash,
        "schedule": query.schedule,
        "api_key": query.api_key,
        "is_archived": query.is_archived,
        "is_draft": query.is_draft,
        "updated_at": timestamp(query.updated_at),
        "created_at": timestamp(query.created_at),
        "data_source_id": query.data_source_id,
        "options": stored(query.options, database.version),
        "version": query.version,
        "tags": query.tags,
        "is_safe": access.is_safe(query),
    }
    if people:
        return {**body, "user": user_body(owner), "last_modified_by": user_body(editor)}
    return {**body, "user_id": owner.id, "last_modified_by_id": editor.id}


def query_object(database: Database, query: Query, caller: Caller) -> Body:
    """A single query with its visualizations; API users get no `is_favorite`."""
    body = query_body(database, query)
    body["visualizations"] = [visualization_body(database, v) for v in reversed(database.visualizations_of(query.id))]
    if caller.user is not None:
        body["is_favorite"] = ("query", query.id, caller.user.id) in database.starred
    return body


def query_item(database: Database, query: Query, user: User) -> Body:
    """A query in a list: with times of its newest result, the last editor only by id."""
    body = query_body(database, query)
    del body["last_modified_by"]
    newest = database.results.get(query.latest_query_data_id or 0)
    body["last_modified_by_id"] = query.last_modified_by
    body["retrieved_at"] = timestamp(newest.retrieved_at) if newest else None
    body["runtime"] = newest.runtime if newest else None
    body["is_favorite"] = ("query", query.id, user.id) in database.starred
    return body


def visualization_body(database: Database, visualization: Visualization) -> Body:
    """A visualization without its query."""
    return {
        "id": visualization.id,
        "type": visualization.type,
        "name": visualization.name,
        "description": visualization.description,
        "options": stored(visualization.options, database.version),
        "updated_at": timestamp(visualization.updated_at),
        "created_at": timestamp(visualization.created_at),
    }


def dashboard_body(database: Database, board: Dashboard, user: User, widgets: list[Body] | None) -> Body:
    """A dashboard; the slug is made from the *current name* and may differ from the stored one (CONTRACT 13)."""
    owner, version = database.users[board.user_id], database.version
    brief = {"id": owner.id, "name": owner.name, "email": owner.email, "profile_image_url": picture(owner)}
    return {
        "id": board.id,
        "slug": board.slug if version.dashboard_slug_is_stored else slugged(board.name),
        "name": board.name,
        "user_id": board.user_id,
        "user": user_body(owner) if version.dashboard_has_owner else brief,
        "layout": board.layout,
        "dashboard_filters_enabled": board.dashboard_filters_enabled,
        "widgets": widgets,
        **_board_options(database, board),
        "is_archived": board.is_archived,
        "is_draft": board.is_draft,
        "tags": board.tags,
        "updated_at": timestamp(board.updated_at),
        "created_at": timestamp(board.created_at),
        "version": board.version,
        "is_favorite": ("dashboard", board.id, user.id) in database.starred,
    }


def _board_options(database: Database, board: Dashboard) -> Body:
    version = database.version
    return {"options": stored(board.options, version)} if version.dashboard_has_options else {}


def widgets_for(database: Database, board: Dashboard, caller: Caller) -> list[Body]:
    """The widgets of a dashboard as this caller sees them."""
    return [_widget_for(database, widget, caller) for widget in database.widgets_of(board.id)]


def _widget_for(database: Database, widget: Widget, caller: Caller) -> Body:
    shown = database.visualizations.get(widget.visualization_id or 0)
    query = database.queries[shown.query_id] if shown else None
    if query is None or access.reaches_query(database, query, caller, view_only=True):
        return widget_body(database, widget)
    full = widget_body(database, widget)
    kept = ("id", "width", "dashboard_id", "options", "created_at", "updated_at")
    return {**{name: full[name] for name in kept}, "restricted": True}


def widget_body(database: Database, widget: Widget) -> Body:
    """A widget with its visualization and query."""
    body: Body = {
        "id": widget.id,
        "width": widget.width,
        "options": stored(widget.options, database.version),
        "dashboard_id": widget.dashboard_id,
        "text": widget.text,
        "updated_at": timestamp(widget.updated_at),
        "created_at": timestamp(widget.created_at),
    }
    shown = database.visualizations.get(widget.visualization_id or 0)
    if shown is not None:
        query = query_body(database, database.queries[shown.query_id])
        body["visualization"] = {**visualization_body(database, shown), "query": query}
    return body


def public_dashboard(database: Database, board: Dashboard) -> Body:
    """A public dashboard: no secrets, no SQL, no user; widgets of all sources (CONTRACT 13)."""
    return {
        "name": board.name,
        "layout": board.layout,
        "dashboard_filters_enabled": board.dashboard_filters_enabled,
        "updated_at": timestamp(board.updated_at),
        "created_at": timestamp(board.created_at),
        **_board_options(database, board),
        "widgets": [_public_widget(database, widget) for widget in database.widgets_of(board.id)],
    }


def _public_widget(database: Database, widget: Widget) -> Body:
    body = widget_body(database, widget)
    del body["dashboard_id"]
    shown = body.get("visualization")
    if shown is not None:
        del shown["id"]
        shown["query"] = {name: shown["query"][name] for name in ("id", "name", "description", "options")}
    return body


def alert_body(database: Database, alert: Alert) -> Body:
    """An alert with its query, including the query key."""
    return {
        "id": alert.id,
        "name": alert.name,
        "options": stored(alert.options, database.version),
        "state": alert.state,
        "last_triggered_at": timestamp(alert.last_triggered_at),
        "updated_at": timestamp(alert.updated_at),
        "created_at": timestamp(alert.created_at),
        "rearm": alert.rearm,
        "query": query_body(database, database.queries[alert.query_id]),
        "user": user_body(database.users[alert.user_id]),
    }


def source_body(source: DataSource, version: Version) -> Body:
    """A source as every user sees it."""
    body: Body = {
        "id": source.id,
        "name": source.name,
        "type": source.type,
        "syntax": "sql",
        "paused": int(source.paused),
        "pause_reason": source.pause_reason,
    }
    return {**body, "supports_auto_limit": source.type != "results"} if version.source_has_auto_limit else body


def source_object(source: DataSource, caller: Caller, version: Version) -> Body:
    """A single source. Admins get options, with masked secrets; the caller's groups decide about `view_only`."""
    body = source_body(source, version)
    if caller.may("admin"):
        masked = {name: "--------" if "password" in name else value for name, value in sorted(source.options.items())}
        queues = {"queue_name": "queries", "scheduled_queue_name": "scheduled_queries"}
        body |= {"options": masked, **queues, "groups": {str(id): only for id, only in source.groups.items()}}
    return {**body, "view_only": all(only for id, only in source.groups.items() if id in caller.groups)}

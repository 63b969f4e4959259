"""Dashboards and their widgets and visualizations, public dashboards and their tokens (CONTRACT 13)."""

from __future__ import annotations

from typing import Any

from .access import owns, reaches_query
from .api_common import check_version, dashboard_of, entry_of, need_fields, ordered, paged, tag_counts, with_tags
from .objects import Dashboard
from .request import Request
from .response import NOT_EDITABLE, NOT_FOUND, Response, abort, front_end_page, json_response
from .routing import routes
from .serialise import dashboard_body, public_dashboard, visualization_body, widget_body, widgets_for
from .timestamps import timestamp

_FIELDS = frozenset(["name", "layout", "dashboard_filters_enabled", "tags", "is_draft", "is_archived", "options"])


def _visible(request: Request) -> list[Dashboard]:
    """The user's own dashboards, and those with a query that the user may see; no drafts of others."""
    return [
        board
        for board in request.database.dashboards.values()
        if board.org == request.user.org and not board.is_archived and _shown(request, board)
    ]


def _shown(request: Request, board: Dashboard) -> bool:
    database = request.database
    if board.user_id == request.user.id:
        return True
    queries = (database.queries[id] for id in database.queries_on(board.id))
    groups = set(request.user.groups)
    sources = (database.sources.get(query.data_source_id or 0) for query in queries)
    return not board.is_draft and any(source and groups & set(source.groups) for source in sources)


def _brief(request: Request, board: Dashboard) -> dict[str, Any]:
    return dashboard_body(request.database, board, request.user, None)


def _object(request: Request, board: Dashboard) -> dict[str, Any]:
    database = request.database
    return dashboard_body(database, board, request.user, widgets_for(database, board, request.caller))


@routes.add("GET", "/api/dashboards")
async def listed(request: Request) -> Response:
    """The dashboards that the user may see, without widgets."""
    request.need("list_dashboards")
    words = request.arg("q").lower().split()
    found = [board for board in _visible(request) if all(word in board.name.lower() for word in words)]
    found = with_tags(request, found, lambda board: board.tags)
    keys = {"name": lambda board: board.name.lower(), "created_at": lambda board: (board.created_at, board.id)}
    return paged(request, ordered(request, found, keys, "-created_at"), lambda board: _brief(request, board))


@routes.add("GET", "/api/dashboards/my")
async def mine(request: Request) -> Response:
    """The user's own dashboards."""
    request.need("list_dashboards")
    own = [board for board in _visible(request) if board.user_id == request.user.id]
    return paged(request, own, lambda board: _brief(request, board))


@routes.add("GET", "/api/dashboards/favorites")
async def favorites(request: Request) -> Response:
    """The user's favorites."""
    starred = request.database.starred
    when = {id: at for (kind, id, user), at in starred.items() if kind == "dashboard" and user == request.user.id}
    found = [board for board in _visible(request) if board.id in when]
    return paged(request, found, lambda board: {**_brief(request, board), "starred_at": timestamp(when[board.id])})


@routes.add("GET", "/api/dashboards/tags")
async def tags(request: Request) -> Response:
    """All tags with the number of dashboards that have them."""
    request.need("list_dashboards")
    return tag_counts([tag for board in _visible(request) for tag in board.tags])


@routes.add("POST", "/api/dashboards")
async def create(request: Request) -> Response:
    """A draft; 500 without a name."""
    request.need("create_dashboard")
    fields = request.json_object()
    need_fields(fields, "name")
    return json_response(
        _brief(request, request.database.add_dashboard(fields["name"], request.user.id, org=request.org_id))
    )


@routes.add("GET", "/public/dashboards/<token>", rest=False, embeddable=True)
async def public_page(request: Request) -> Response:
    """The page that shows a public dashboard."""
    return front_end_page(request.version)


@routes.add("GET", "/embed/query/<query_id>/visualization/<visualization_id>", rest=False, embeddable=True)
async def embedded(request: Request) -> Response:
    """The page that shows one visualization inside other sites."""
    return front_end_page(request.version)


@routes.add("GET", "/api/dashboards/public/<token>", embeddable=True)
async def public(request: Request) -> Response:
    """The caller's own token decides which dashboard is shown, not the token in the path."""
    request.require(request.caller.may("view_query"))
    database = request.database
    token = request.caller.api_key if request.caller.is_api_user else request.params["token"]
    if database.disable_public_urls:
        abort(400, "Public URLs are disabled.")
    board = database.board_of_token(token)
    if board is None:
        abort(404, NOT_FOUND)
    return json_response(public_dashboard(database, board))


@routes.add("GET", "/api/dashboards/<dashboard_id>")
async def read(request: Request) -> Response:
    """By id; by slug only with `?legacy`. Every user may read it; widgets show only what the user may see."""
    request.need("list_dashboards")
    board = _by_slug(request) if request.has_arg("legacy") else _named(request)
    body = _object(request, board)
    if board.tokens:
        body["public_url"], body["api_key"] = _public_url(request, board.tokens[0]), board.tokens[0]
    return json_response({**body, "can_edit": owns(board.user_id, request.caller)})


def _named(request: Request) -> Dashboard:
    """By id; old versions read, archive and star by the slug only, but edit and share by the id."""
    return _by_slug(request) if request.version.dashboards_by_slug else dashboard_of(request)


def _by_slug(request: Request) -> Dashboard:
    slug, boards = request.params["dashboard_id"], request.database.dashboards.values()
    found = next((board for board in boards if board.slug == slug and board.org == request.org), None)
    if found is None:
        abort(404, NOT_FOUND)
    return found


def _public_url(request: Request, token: str) -> str:
    if request.state.multi_org:
        return f"{request.host_url}/{request.slug}/public/dashboards/{token}"
    return f"{request.host_url}/public/dashboards/{token}?org_slug={request.slug}"


@routes.add("POST", "/api/dashboards/<dashboard_id>")
async def edit(request: Request) -> Response:
    """`version` is counted up; a stale one is a conflict."""
    request.need("edit_dashboard")
    board = dashboard_of(request)
    fields = request.json_object()
    request.require(owns(board.user_id, request.caller))
    check_version(board.version, fields.get("version"))
    _change(request, board, {name: value for name, value in fields.items() if name in _FIELDS})
    return json_response(_object(request, board))


def _change(request: Request, board: Dashboard, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(board, name, value)
    board.version += 1
    request.database.touch(board)


@routes.add("DELETE", "/api/dashboards/<dashboard_id>")
async def archive(request: Request) -> Response:
    """Every user with the permission may archive every dashboard."""
    request.need("edit_dashboard")
    board = _named(request)
    _change(request, board, {"is_archived": True})
    return json_response(_object(request, board))


@routes.add("POST", "/api/dashboards/<dashboard_id>/fork")
async def fork(request: Request) -> Response:
    """A draft of the user with the same widgets."""
    request.need("edit_dashboard")
    board, database = dashboard_of(request), request.database
    made = database.add_dashboard(f"Copy of (#{board.id}) {board.name}", request.user.id, org=request.org_id)
    for widget in database.widgets_of(board.id):
        database.add_widget(made.id, widget.visualization_id, widget.text, widget.options)
    made.version = 2
    return json_response(_object(request, made))


@routes.add("POST", "/api/dashboards/<dashboard_id>/share")
async def share(request: Request) -> Response:
    """Every request adds an active token."""
    board = dashboard_of(request)
    request.require(owns(board.user_id, request.caller), NOT_EDITABLE)
    token = request.database.new_key()
    board.tokens.append(token)
    return json_response({"public_url": _public_url(request, token), "api_key": token})


@routes.add("DELETE", "/api/dashboards/<dashboard_id>/share")
async def unshare(request: Request) -> Response:
    """Removes the oldest token; others stay active."""
    board = dashboard_of(request)
    request.require(owns(board.user_id, request.caller), NOT_EDITABLE)
    del board.tokens[:1]
    return json_response(None)


@routes.add("POST", "/api/dashboards/<dashboard_id>/favorite")
async def star(request: Request) -> Response:
    """Has no effect if it is a favorite already."""
    board, database = _named(request), request.database
    database.starred.setdefault(("dashboard", board.id, request.user.id), database.now())
    return json_response(None)


@routes.add("DELETE", "/api/dashboards/<dashboard_id>/favorite")
async def unstar(request: Request) -> Response:
    """Succeeds also if it is not a favorite."""
    board = _named(request)
    request.database.starred.pop(("dashboard", board.id, request.user.id), None)
    return json_response(None)


# -- widgets and visualizations


@routes.add("POST", "/api/widgets")
async def add_widget(request: Request) -> Response:
    """A widget with a visualization or with text."""
    request.need("edit_dashboard")
    fields, database = request.json_object(), request.database
    board = database.dashboards[fields["dashboard_id"]]
    request.require(owns(board.user_id, request.caller))
    visualization_id = fields.get("visualization_id")
    if visualization_id is not None:
        query = database.queries[database.visualizations[visualization_id].query_id]
        request.require(reaches_query(database, query, request.caller, view_only=True))
    made = database.add_widget(board.id, visualization_id, fields.get("text", ""), fields.get("options"))
    return json_response(widget_body(database, made))


@routes.add("POST", "/api/widgets/<widget_id>")
async def edit_widget(request: Request) -> Response:
    """Changes text and options."""
    request.need("edit_dashboard")
    database = request.database
    widget = entry_of(request, database.widgets, "widget_id")
    request.require(owns(database.dashboards[widget.dashboard_id].user_id, request.caller))
    fields = request.json_object()
    widget.text, widget.options = fields.get("text", widget.text), fields.get("options", widget.options)
    database.touch(widget)
    return json_response(widget_body(database, widget))


@routes.add("DELETE", "/api/widgets/<widget_id>")
async def remove_widget(request: Request) -> Response:
    """The response is null."""
    request.need("edit_dashboard")
    database = request.database
    widget = entry_of(request, database.widgets, "widget_id")
    request.require(owns(database.dashboards[widget.dashboard_id].user_id, request.caller))
    del database.widgets[widget.id]
    return json_response(None)


@routes.add("POST", "/api/visualizations")
async def add_visualization(request: Request) -> Response:
    """Only for the owner of the query."""
    request.need("edit_query")
    fields, database = request.json_object(), request.database
    query = database.queries[fields["query_id"]]
    request.require(owns(query.user_id, request.caller))
    made = database.add_visualization(query.id, fields["type"], fields["name"], fields.get("options"))
    return json_response(visualization_body(database, made))


@routes.add("POST", "/api/visualizations/<visualization_id>")
async def edit_visualization(request: Request) -> Response:
    """Changes name and options."""
    request.need("edit_query")
    database = request.database
    shown = entry_of(request, database.visualizations, "visualization_id")
    request.require(owns(database.queries[shown.query_id].user_id, request.caller))
    fields = request.json_object()
    shown.name, shown.options = fields.get("name", shown.name), fields.get("options", shown.options)
    return json_response(visualization_body(database, shown))


@routes.add("DELETE", "/api/visualizations/<visualization_id>")
async def remove_visualization(request: Request) -> Response:
    """The response is null."""
    request.need("edit_query")
    database = request.database
    shown = entry_of(request, database.visualizations, "visualization_id")
    request.require(owns(database.queries[shown.query_id].user_id, request.caller))
    del database.visualizations[shown.id]
    return json_response(None)

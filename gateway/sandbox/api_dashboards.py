"""Dashboards and their widgets and visualizations, public boards and their tokens (CONTRACT 13)."""

from __future__ import annotations

from typing import Any

from .access import owns, reaches_query
from .finding import checked_version, dashboard_of, entry_of, need_name, ordered, paged, tag_counts, with_tags
from .messages import NOT_EDITABLE, NOT_FOUND, Call, Reply, abort, answer, front_end
from .moments import stamp
from .objects import Dashboard
from .routing import routes
from .serialise import dashboard_body, public_dashboard, visualization_body, widget_body, widgets_for

_FIELDS = frozenset(["name", "layout", "dashboard_filters_enabled", "tags", "is_draft", "is_archived", "options"])


def _visible(call: Call) -> list[Dashboard]:
    """His own, and those with a query he may see; drafts only his own."""
    return [
        board
        for board in call.service.world.dashboards.values()
        if board.org == call.user.org and not board.is_archived and _shown(call, board)
    ]


def _shown(call: Call, board: Dashboard) -> bool:
    world = call.service.world
    if board.user_id == call.user.id:
        return True
    queries = (world.queries[id] for id in world.queries_on(board.id))
    groups = set(call.user.groups)
    sources = (world.sources.get(query.data_source_id or 0) for query in queries)
    return not board.is_draft and any(source and groups & set(source.groups) for source in sources)


def _brief(call: Call, board: Dashboard) -> dict[str, Any]:
    return dashboard_body(call.service.world, board, call.user, None)


def _object(call: Call, board: Dashboard) -> dict[str, Any]:
    world = call.service.world
    return dashboard_body(world, board, call.user, widgets_for(world, board, call.caller))


@routes.add("GET", "/api/dashboards")
async def listed(call: Call) -> Reply:
    """Those the user may see, without widgets."""
    call.need("list_dashboards")
    words = call.arg("q").lower().split()
    found = [board for board in _visible(call) if all(word in board.name.lower() for word in words)]
    found = with_tags(call, found, lambda board: board.tags)
    keys = {"name": lambda board: board.name.lower(), "created_at": lambda board: (board.created_at, board.id)}
    return paged(call, ordered(call, found, keys, "-created_at"), lambda board: _brief(call, board))


@routes.add("GET", "/api/dashboards/my")
async def mine(call: Call) -> Reply:
    """His own."""
    call.need("list_dashboards")
    own = [board for board in _visible(call) if board.user_id == call.user.id]
    return paged(call, own, lambda board: _brief(call, board))


@routes.add("GET", "/api/dashboards/favorites")
async def favorites(call: Call) -> Reply:
    """Those he starred."""
    starred = call.service.world.starred
    when = {id: at for (kind, id, user), at in starred.items() if kind == "dashboard" and user == call.user.id}
    found = [board for board in _visible(call) if board.id in when]
    return paged(call, found, lambda board: {**_brief(call, board), "starred_at": stamp(when[board.id])})


@routes.add("GET", "/api/dashboards/tags")
async def tags(call: Call) -> Reply:
    """With how many boards carry each."""
    call.need("list_dashboards")
    return tag_counts([tag for board in _visible(call) for tag in board.tags])


@routes.add("POST", "/api/dashboards")
async def create(call: Call) -> Reply:
    """A draft; 500 without a name."""
    call.need("create_dashboard")
    fields = call.json_object()
    need_name(fields, "name")
    return answer(_brief(call, call.service.world.dashboard(fields["name"], call.user.id, org=call.org_id)))


@routes.add("GET", "/public/dashboards/<token>", rest=False, embeddable=True)
async def public_page(call: Call) -> Reply:
    """The page that shows a public board."""
    return front_end()


@routes.add("GET", "/embed/query/<query_id>/visualization/<visualization_id>", rest=False, embeddable=True)
async def embedded(call: Call) -> Reply:
    """The page that shows one visualization inside of other sites."""
    return front_end()


@routes.add("GET", "/api/dashboards/public/<token>", embeddable=True)
async def public(call: Call) -> Reply:
    """The caller's own token decides which board is shown, whatever the path says."""
    call.require(call.caller.may("view_query"))
    world = call.service.world
    token = call.caller.api_key if call.caller.is_api_user else call.params["token"]
    if world.disable_public_urls:
        abort(400, "Public URLs are disabled.")
    board = world.board_of_token(token)
    if board is None:
        abort(404, NOT_FOUND)
    return answer(public_dashboard(world, board))


@routes.add("GET", "/api/dashboards/<dashboard_id>")
async def read(call: Call) -> Reply:
    """By number; by slug only with `?legacy`. Anybody reads any board, widgets are reduced to what he may see."""
    call.need("list_dashboards")
    board = _by_slug(call) if call.has_arg("legacy") else dashboard_of(call)
    body = _object(call, board)
    if board.tokens:
        body["public_url"], body["api_key"] = _public_url(call, board.tokens[0]), board.tokens[0]
    return answer({**body, "can_edit": owns(board.user_id, call.caller)})


def _by_slug(call: Call) -> Dashboard:
    slug, boards = call.params["dashboard_id"], call.service.world.dashboards.values()
    found = next((board for board in boards if board.slug == slug and board.org == call.org), None)
    if found is None:
        abort(404, NOT_FOUND)
    return found


def _public_url(call: Call, token: str) -> str:
    if call.service.multi_org:
        return f"{call.host_url}/{call.slug}/public/dashboards/{token}"
    return f"{call.host_url}/public/dashboards/{token}?org_slug={call.slug}"


@routes.add("POST", "/api/dashboards/<dashboard_id>")
async def edit(call: Call) -> Reply:
    """`version` counts; a stale one is a conflict."""
    call.need("edit_dashboard")
    board = dashboard_of(call)
    fields = call.json_object()
    call.require(owns(board.user_id, call.caller))
    checked_version(board.version, fields.get("version"))
    _change(call, board, {name: value for name, value in fields.items() if name in _FIELDS})
    return answer(_object(call, board))


def _change(call: Call, board: Dashboard, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(board, name, value)
    board.version += 1
    call.service.world.touch(board)


@routes.add("DELETE", "/api/dashboards/<dashboard_id>")
async def archive(call: Call) -> Reply:
    """Anybody's board, for all who have the permission."""
    call.need("edit_dashboard")
    board = dashboard_of(call)
    _change(call, board, {"is_archived": True})
    return answer(_object(call, board))


@routes.add("POST", "/api/dashboards/<dashboard_id>/fork")
async def fork(call: Call) -> Reply:
    """A draft of his own with the same widgets."""
    call.need("edit_dashboard")
    board, world = dashboard_of(call), call.service.world
    made = world.dashboard(f"Copy of (#{board.id}) {board.name}", call.user.id, org=call.org_id)
    for widget in world.widgets_of(board.id):
        world.widget(made.id, widget.visualization_id, widget.text, widget.options)
    made.version = 2
    return answer(_object(call, made))


@routes.add("POST", "/api/dashboards/<dashboard_id>/share")
async def share(call: Call) -> Reply:
    """Each call makes a further active token."""
    board = dashboard_of(call)
    call.require(owns(board.user_id, call.caller), NOT_EDITABLE)
    token = call.service.world.key()
    board.tokens.append(token)
    return answer({"public_url": _public_url(call, token), "api_key": token})


@routes.add("DELETE", "/api/dashboards/<dashboard_id>/share")
async def unshare(call: Call) -> Reply:
    """Ends one token only, not necessarily the last."""
    board = dashboard_of(call)
    call.require(owns(board.user_id, call.caller), NOT_EDITABLE)
    del board.tokens[:1]
    return answer(None)


@routes.add("POST", "/api/dashboards/<dashboard_id>/favorite")
async def star(call: Call) -> Reply:
    """Again is the same."""
    board, world = dashboard_of(call), call.service.world
    world.starred.setdefault(("dashboard", board.id, call.user.id), world.now())
    return answer(None)


@routes.add("DELETE", "/api/dashboards/<dashboard_id>/favorite")
async def unstar(call: Call) -> Reply:
    """Also when it was not starred."""
    board = dashboard_of(call)
    call.service.world.starred.pop(("dashboard", board.id, call.user.id), None)
    return answer(None)


# -- widgets and visualizations


@routes.add("POST", "/api/widgets")
async def add_widget(call: Call) -> Reply:
    """With a visualization or with text."""
    call.need("edit_dashboard")
    fields, world = call.json_object(), call.service.world
    board = world.dashboards[fields["dashboard_id"]]
    call.require(owns(board.user_id, call.caller))
    visualization_id = fields.get("visualization_id")
    if visualization_id is not None:
        query = world.queries[world.visualizations[visualization_id].query_id]
        call.require(reaches_query(world, query, call.caller, view_only=True))
    made = world.widget(board.id, visualization_id, fields.get("text", ""), fields.get("options"))
    return answer(widget_body(world, made))


@routes.add("POST", "/api/widgets/<widget_id>")
async def edit_widget(call: Call) -> Reply:
    """Text and options."""
    call.need("edit_dashboard")
    world = call.service.world
    widget = entry_of(call, world.widgets, "widget_id")
    call.require(owns(world.dashboards[widget.dashboard_id].user_id, call.caller))
    fields = call.json_object()
    widget.text, widget.options = fields.get("text", widget.text), fields.get("options", widget.options)
    world.touch(widget)
    return answer(widget_body(world, widget))


@routes.add("DELETE", "/api/widgets/<widget_id>")
async def remove_widget(call: Call) -> Reply:
    """Answers null."""
    call.need("edit_dashboard")
    world = call.service.world
    widget = entry_of(call, world.widgets, "widget_id")
    call.require(owns(world.dashboards[widget.dashboard_id].user_id, call.caller))
    del world.widgets[widget.id]
    return answer(None)


@routes.add("POST", "/api/visualizations")
async def add_visualization(call: Call) -> Reply:
    """By the query's owner."""
    call.need("edit_query")
    fields, world = call.json_object(), call.service.world
    query = world.queries[fields["query_id"]]
    call.require(owns(query.user_id, call.caller))
    made = world.visualization(query.id, fields["type"], fields["name"], fields.get("options"))
    return answer(visualization_body(made))


@routes.add("POST", "/api/visualizations/<visualization_id>")
async def edit_visualization(call: Call) -> Reply:
    """Name and options."""
    call.need("edit_query")
    world = call.service.world
    shown = entry_of(call, world.visualizations, "visualization_id")
    call.require(owns(world.queries[shown.query_id].user_id, call.caller))
    fields = call.json_object()
    shown.name, shown.options = fields.get("name", shown.name), fields.get("options", shown.options)
    return answer(visualization_body(shown))


@routes.add("DELETE", "/api/visualizations/<visualization_id>")
async def remove_visualization(call: Call) -> Reply:
    """Answers null."""
    call.need("edit_query")
    world = call.service.world
    shown = entry_of(call, world.visualizations, "visualization_id")
    call.require(owns(world.queries[shown.query_id].user_id, call.caller))
    del world.visualizations[shown.id]
    return answer(None)

"""Data sources and their schemas, alerts, snippets, events (CONTRACT 14)."""

from __future__ import annotations

from .access import owns, reaches_query, reaches_source
from .api_common import entry_of
from .jobs import FAILED, FINISHED, Job
from .objects import Alert, DataSource
from .request import Request
from .response import NOT_FOUND, Response, abort, json_response
from .routing import routes
from .serialise import alert_body, source_body, source_object, user_body
from .timestamps import timestamp, whole_second
from .warehouse import Table


def _source(request: Request) -> DataSource:
    source = entry_of(request, request.database.sources, "data_source_id")
    if source.org != request.org:
        abort(404, NOT_FOUND)
    return source


@routes.add("GET", "/api/data_sources")
async def listed(request: Request) -> Response:
    """The sources without options, even for admins."""
    request.need("list_data_sources")
    groups = set(request.user.groups)
    sources = [source for source in request.database.sources.values() if source.org == request.org]
    seen = [source for source in sources if request.caller.may("admin") or groups & set(source.groups)]
    return json_response(
        [
            {
                **source_body(source, request.version),
                "view_only": source_object(source, request.caller, request.version)["view_only"],
            }
            for source in sorted(seen, key=lambda source: source.name)
        ]
    )


@routes.add("GET", "/api/data_sources/<data_source_id>")
async def read(request: Request) -> Response:
    """The source, with options for admins."""
    request.need("admin" if request.version.source_needs_admin else "list_data_sources")
    source = _source(request)
    request.require(reaches_source(source, request.caller, view_only=True))
    return json_response(source_object(source, request.caller, request.version))


@routes.add("GET", "/api/data_sources/<data_source_id>/schema")
async def schema(request: Request) -> Response:
    """First a job whose result is the schema, later the schema itself; with `refresh` always a job. Old versions have
    the schema at once."""
    source = _source(request)
    request.require(reaches_source(source, request.caller, view_only=True))
    tables = request.state.schema()
    if not request.version.schema_is_job or (source.schema_known and not request.has_arg("refresh")):
        return json_response({"schema": tables})
    source.schema_known = True
    job = Job("", "schema", source.id, None, _never)
    request.state.jobs.add(job)
    response = json_response(job.body(request.version))
    if request.state.schema_error:
        job.settle(FAILED, request.state.schema_error)
    elif not request.state.schema_pending:
        job.settle(FINISHED, result=tables)
    return response


async def _never(job: Job, table: Table) -> int:
    """Schema jobs store nothing."""
    return 0


@routes.add("POST", "/api/data_sources")
async def create(request: Request) -> Response:
    """The default group gets full access."""
    request.need("admin")
    fields, database = request.json_object(), request.database
    made = database.add_source(
        fields["name"], {2: False}, type=fields["type"], options=fields["options"], org=request.org_id
    )
    body = source_object(made, request.caller, request.version)
    del body["view_only"]
    return json_response({**body, "options": {name: body["options"][name] for name in fields["options"]}})


@routes.add("POST", "/api/data_sources/<data_source_id>/test")
async def test_connection(request: Request) -> Response:
    """Always successful."""
    request.need("admin")
    _source(request)
    return json_response({"message": "success", "ok": True})


@routes.add("POST", "/api/data_sources/<data_source_id>/pause")
async def pause(request: Request) -> Response:
    """Executions are refused from now on, also those with a cached result."""
    request.need("admin")
    source = _source(request)
    source.paused, source.pause_reason = True, request.json_object().get("reason") if request.body else None
    return json_response(source_body(source, request.version))


@routes.add("DELETE", "/api/data_sources/<data_source_id>/pause")
async def resume(request: Request) -> Response:
    """Ends a pause."""
    request.need("admin")
    source = _source(request)
    source.paused, source.pause_reason = False, None
    return json_response(source_body(source, request.version))


# -- alerts


def _reaches(request: Request, alert: Alert) -> bool:
    database = request.database
    return reaches_query(database, database.queries[alert.query_id], request.caller, view_only=True)


@routes.add("GET", "/api/alerts")
async def alerts(request: Request) -> Response:
    """The alerts on sources that the user can access."""
    request.need("list_alerts")
    database = request.database
    groups = set(request.user.groups)
    sources = {source.id for source in database.sources.values() if groups & set(source.groups)}
    found = [alert for alert in database.alerts.values() if database.queries[alert.query_id].data_source_id in sources]
    return json_response([alert_body(database, alert) for alert in found])


@routes.add("POST", "/api/alerts")
async def create_alert(request: Request) -> Response:
    """Needs access to the query."""
    request.need("list_alerts")
    fields, database = request.json_object(), request.database
    query, now = database.queries[fields["query_id"]], database.now()
    request.require(reaches_query(database, query, request.caller, view_only=True))
    id = database.next_id(database.alerts)
    database.alerts[id] = Alert(id, fields["name"], query.id, request.user.id, fields["options"], now, now)
    return json_response({**alert_body(database, database.alerts[id]), "options": fields["options"]})


@routes.add("DELETE", "/api/alerts/<alert_id>")
async def remove_alert(request: Request) -> Response:
    """Only for its owner; the response is null."""
    found = entry_of(request, request.database.alerts, "alert_id")
    request.require(owns(found.user_id, request.caller))
    del request.database.alerts[found.id]
    return json_response(None)


@routes.add("GET", "/api/alerts/<alert_id>")
async def alert(request: Request) -> Response:
    """The alert with its query, including the query key."""
    found = entry_of(request, request.database.alerts, "alert_id")
    request.require(_reaches(request, found))
    return json_response(alert_body(request.database, found))


@routes.add("POST", "/api/alerts/<alert_id>")
async def edit_alert(request: Request) -> Response:
    """Changes name and options."""
    found = entry_of(request, request.database.alerts, "alert_id")
    request.require(owns(found.user_id, request.caller))
    fields = request.json_object()
    found.name, found.options = fields.get("name", found.name), fields.get("options", found.options)
    return json_response(alert_body(request.database, found))


@routes.add("POST", "/api/alerts/<alert_id>/mute")
async def mute(request: Request) -> Response:
    """Only for its owner; the response is null."""
    return _muted(request, True)


@routes.add("DELETE", "/api/alerts/<alert_id>/mute")
async def unmute(request: Request) -> Response:
    """Only for its owner; the response is null."""
    return _muted(request, False)


def _muted(request: Request, muted: bool) -> Response:
    found = entry_of(request, request.database.alerts, "alert_id")
    request.require(owns(found.user_id, request.caller))
    found.options = {**found.options, "muted": muted}
    return json_response(None)


@routes.add("POST", "/api/alerts/<alert_id>/eval")
async def evaluate_alert(request: Request) -> Response:
    """Evaluates it in the background; `null` says no more than that."""
    request.require(_reaches(request, entry_of(request, request.database.alerts, "alert_id")))
    return json_response(None)


@routes.add("GET", "/api/alerts/<alert_id>/subscriptions")
async def subscriptions(request: Request) -> Response:
    """Always empty: the sandbox has no subscriptions."""
    request.require(_reaches(request, entry_of(request, request.database.alerts, "alert_id")))
    return json_response([])


# -- snippets and events


@routes.add("GET", "/api/query_snippets")
async def snippets(request: Request) -> Response:
    """All snippets, for every caller."""
    database = request.database
    return json_response(
        [
            {
                "id": snippet.id,
                "trigger": snippet.trigger,
                "description": snippet.description,
                "snippet": snippet.snippet,
                "user": user_body(database.users[snippet.user_id]),
                "updated_at": timestamp(snippet.updated_at),
                "created_at": timestamp(snippet.created_at),
            }
            for snippet in database.snippets.values()
        ]
    )


@routes.add("GET", "/api/events")
async def events(request: Request) -> Response:
    """The last requests, in the form of Redash's usage log."""
    request.need("admin")
    entries = list(request.state.counters.log)[::-1]
    body = [
        {
            "org_id": request.org,
            "user_id": request.user.id,
            "action": "view",
            "object_type": entry.route,
            "object_id": None,
            "created_at": whole_second(request.database.now()),
            "user_name": request.user.name,
            "browser": "Other / Other / Other",
            "location": "Unknown",
            "details": {"object_id": None, "object_type": entry.route},
        }
        for entry in entries[:25]
    ]
    return json_response({"count": len(entries), "page": 1, "page_size": 25, "results": body})

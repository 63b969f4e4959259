"""Data sources and their schemas, alerts, snippets, events (CONTRACT 14)."""

from __future__ import annotations

from .access import owns, reaches_query, reaches_source
from .finding import entry_of
from .jobs import FINISHED, Job
from .messages import NOT_FOUND, Call, Reply, abort, answer
from .moments import stamp, whole_second
from .objects import Alert, DataSource
from .routing import routes
from .serialise import alert_body, source_body, source_object, user_body
from .warehouse import Table


def _source(call: Call) -> DataSource:
    source = entry_of(call, call.service.world.sources, "data_source_id")
    if source.org != call.org:
        abort(404, NOT_FOUND)
    return source


@routes.add("GET", "/api/data_sources")
async def listed(call: Call) -> Reply:
    """Without options, even for admins."""
    call.need("list_data_sources")
    groups = set(call.user.groups)
    sources = [source for source in call.service.world.sources.values() if source.org == call.org]
    seen = [source for source in sources if call.caller.may("admin") or groups & set(source.groups)]
    return answer(
        [
            {**source_body(source), "view_only": source_object(source, call.caller)["view_only"]}
            for source in sorted(seen, key=lambda source: source.name)
        ]
    )


@routes.add("GET", "/api/data_sources/<data_source_id>")
async def read(call: Call) -> Reply:
    """With options for admins."""
    call.require(call.caller.may("list_data_sources"))
    source = _source(call)
    call.require(reaches_source(source, call.caller, view_only=True))
    return answer(source_object(source, call.caller))


@routes.add("GET", "/api/data_sources/<data_source_id>/schema")
async def schema(call: Call) -> Reply:
    """A job whose result is the schema itself, and afterwards the schema; with `refresh` always a job."""
    source = _source(call)
    call.require(reaches_source(source, call.caller, view_only=True))
    tables = call.service.schema()
    if source.schema_known and not call.has_arg("refresh"):
        return answer({"schema": tables})
    source.schema_known = True
    job = Job("", "schema", source.id, None, _never)
    call.service.jobs.add(job)
    reply = answer(job.body())
    job.settle(FINISHED, result=tables)
    return reply


async def _never(job: Job, table: Table) -> int:
    """Schema jobs store nothing."""
    return 0


@routes.add("POST", "/api/data_sources")
async def create(call: Call) -> Reply:
    """Full access for the default group."""
    call.need("admin")
    fields, world = call.json_object(), call.service.world
    made = world.source(fields["name"], {2: False}, type=fields["type"], options=fields["options"], org=call.org_id)
    body = source_object(made, call.caller)
    del body["view_only"]
    return answer({**body, "options": {name: body["options"][name] for name in fields["options"]}})


@routes.add("POST", "/api/data_sources/<data_source_id>/test")
async def try_out(call: Call) -> Reply:
    """Always reachable."""
    call.need("admin")
    _source(call)
    return answer({"message": "success", "ok": True})


@routes.add("POST", "/api/data_sources/<data_source_id>/pause")
async def pause(call: Call) -> Reply:
    """From now on POSTs are refused, cached results too."""
    call.need("admin")
    source = _source(call)
    source.paused, source.pause_reason = True, call.json_object().get("reason") if call.body else None
    return answer(source_body(source))


@routes.add("DELETE", "/api/data_sources/<data_source_id>/pause")
async def resume(call: Call) -> Reply:
    """Ends a pause."""
    call.need("admin")
    source = _source(call)
    source.paused, source.pause_reason = False, None
    return answer(source_body(source))


# -- alerts


def _reaches(call: Call, alert: Alert) -> bool:
    world = call.service.world
    return reaches_query(world, world.queries[alert.query_id], call.caller, view_only=True)


@routes.add("GET", "/api/alerts")
async def alerts(call: Call) -> Reply:
    """Those on sources that the user reaches."""
    call.need("list_alerts")
    world = call.service.world
    groups = set(call.user.groups)
    sources = {source.id for source in world.sources.values() if groups & set(source.groups)}
    found = [alert for alert in world.alerts.values() if world.queries[alert.query_id].data_source_id in sources]
    return answer([alert_body(world, alert) for alert in found])


@routes.add("POST", "/api/alerts")
async def create_alert(call: Call) -> Reply:
    """On a query that the user reaches."""
    call.need("list_alerts")
    fields, world = call.json_object(), call.service.world
    query, now = world.queries[fields["query_id"]], world.now()
    call.require(reaches_query(world, query, call.caller, view_only=True))
    id = world.next_id(world.alerts)
    world.alerts[id] = Alert(id, fields["name"], query.id, call.user.id, fields["options"], now, now)
    return answer({**alert_body(world, world.alerts[id]), "options": fields["options"]})


@routes.add("DELETE", "/api/alerts/<alert_id>")
async def remove_alert(call: Call) -> Reply:
    """By its owner; answers null."""
    found = entry_of(call, call.service.world.alerts, "alert_id")
    call.require(owns(found.user_id, call.caller))
    del call.service.world.alerts[found.id]
    return answer(None)


@routes.add("GET", "/api/alerts/<alert_id>")
async def alert(call: Call) -> Reply:
    """With its query, key and all."""
    found = entry_of(call, call.service.world.alerts, "alert_id")
    call.require(_reaches(call, found))
    return answer(alert_body(call.service.world, found))


@routes.add("POST", "/api/alerts/<alert_id>")
async def edit_alert(call: Call) -> Reply:
    """Name and options."""
    found = entry_of(call, call.service.world.alerts, "alert_id")
    call.require(owns(found.user_id, call.caller))
    fields = call.json_object()
    found.name, found.options = fields.get("name", found.name), fields.get("options", found.options)
    return answer(alert_body(call.service.world, found))


@routes.add("GET", "/api/alerts/<alert_id>/subscriptions")
async def subscriptions(call: Call) -> Reply:
    """Nobody subscribes here."""
    call.require(_reaches(call, entry_of(call, call.service.world.alerts, "alert_id")))
    return answer([])


# -- the rest


@routes.add("GET", "/api/query_snippets")
async def snippets(call: Call) -> Reply:
    """For everybody."""
    world = call.service.world
    return answer(
        [
            {
                "id": snippet.id,
                "trigger": snippet.trigger,
                "description": snippet.description,
                "snippet": snippet.snippet,
                "user": user_body(world.users[snippet.user_id]),
                "updated_at": stamp(snippet.updated_at),
                "created_at": stamp(snippet.created_at),
            }
            for snippet in world.snippets.values()
        ]
    )


@routes.add("GET", "/api/events")
async def events(call: Call) -> Reply:
    """What was asked last, as Redash's usage log would have it."""
    call.need("admin")
    entries = list(call.service.counters.log)[::-1]
    body = [
        {
            "org_id": call.org,
            "user_id": call.user.id,
            "action": "view",
            "object_type": entry.route,
            "object_id": None,
            "created_at": whole_second(call.service.world.now()),
            "user_name": call.user.name,
            "browser": "Other / Other / Other",
            "location": "Unknown",
            "details": {"object_id": None, "object_type": entry.route},
        }
        for entry in entries[:25]
    ]
    return answer({"count": len(entries), "page": 1, "page_size": 25, "results": body})

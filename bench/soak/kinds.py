"""The kinds of load. Each returns whether it got what it was for; without faults, it must."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from support.http import Reply

from bench.soak.caller import Caller, Sent

Kind = Callable[[Caller], Awaitable[bool]]

AGES = (0, 1, 2, 5, 60, 600, None)
SECONDS_TO_READ_AGAIN = 100.0
"""Older results may be gone from Redash and from the store."""

_HITS = 20
_WAIT = 3
_HOPS = 9
_RESTS_SECONDS = 0.05


async def polls(caller: Caller) -> bool:
    """POST, poll the job, read the result."""
    client = caller.chance.choice(("dashboard", "second", "writer", "bound"))
    sent = caller.sent("polls", client, "stamp", caller.chance.choice(AGES))
    return await _result(caller, sent, await caller.execute(sent))


async def waits(caller: Caller) -> bool:
    """The same with `Prefer: wait`."""
    query = caller.chance.choice(("stamp", "stamp", "slow"))
    sent = caller.sent("waits", "dashboard", query, caller.chance.choice(AGES))
    return await _result(caller, sent, await caller.execute(sent, wait=_WAIT), is_waiting=True)


async def keyed(caller: Caller) -> bool:
    """A client with the key of one query only: responses have fewer members, and ids of the gateway's own."""
    sent = caller.sent("query key", "keyed", "stamp", caller.chance.choice(AGES), form="reduced")
    return await _result(caller, sent, await caller.execute(sent, wait=_WAIT), is_waiting=True)


async def text(caller: Caller) -> bool:
    """Free SQL."""
    sent = caller.sent("free SQL", "sql", "slow", caller.chance.choice(AGES))
    body = {"query": caller.stage.queries.sql("slow", sent.value), "data_source_id": 1, "max_age": sent.max_age}
    reply = await caller.send(sent.kind, "sql", "POST", "/api/query_results", body, wait=_WAIT)
    return await _result(caller, sent, reply, is_waiting=True)


async def hits(caller: Caller) -> bool:
    """The same request again and again: most are served by the fast path."""
    value, client = caller.chance.choice("AB"), caller.chance.choice(("dashboard", "second"))
    for _ in range(_HITS):
        sent = caller.sent("hits", client, "stamp", 600, value=value)
        if not await _result(caller, sent, await caller.execute(sent)):
            return False
    return True


async def forms(caller: Caller) -> bool:
    """GET with parameters, as JSON or CSV; if the response is known already, only what is newer."""
    query, file = caller.chance.choice(("stamp", "stamp", "slow")), caller.chance.choice(("json", "csv"))
    form = "csv" if file == "csv" else "full"
    sent = caller.sent("GET form", "dashboard", query, caller.chance.choice(AGES), form=form)
    age = "" if sent.max_age is None else f"&max_age={sent.max_age}"
    path = f"/api/queries/{caller.ids[query]}/results.{file}?p_x={sent.value}{age}"
    tag, known = caller.tags.get(path, ("", None))
    fields = {"If-None-Match": tag} if tag else {}
    reply = await _get_form(caller, sent, path, fields)
    if caller.is_outage(sent, reply):
        return False
    if reply.status == 422:
        return _failed(caller, sent, reply)
    if reply.status == 304 and known is not None:
        caller.journal.figures["304"] += 1
        reply = Reply(200, reply.headers, known.body)
    elif "ETag" in reply.headers:
        caller.tags[path] = reply.headers["ETag"], reply
    caller.judge(sent, reply)
    return True


async def _get_form(caller: Caller, sent: Sent, path: str, fields: dict[str, str]) -> Reply:
    reply = await caller.send(sent.kind, sent.client, "GET", path, fields=fields)
    for _ in range(_HOPS):
        if reply.status != 307:
            break
        path = path.rpartition("/")[0] + "/" + reply.headers["Location"]
        reply = await caller.send(sent.kind, sent.client, "GET", path, fields=fields)
    return reply


def _failed(caller: Caller, sent: Sent, reply: Reply) -> bool:
    if not caller.stage.had_weather_since(sent.began):
        caller.find("every other response is a problem", sent, reply)
    return False


async def large(caller: Caller) -> bool:
    """A result of some MB, read at once or slowly."""
    rests = caller.chance.choice((0.0, 0.0, _RESTS_SECONDS))
    sent = caller.sent("large", "dashboard", "large", caller.chance.choice((5, 60, 60, 600, 600)))
    reply = await caller.execute(sent, wait=_WAIT, rests_seconds=rests)
    return await _result(caller, sent, reply, is_waiting=True)


async def by_id(caller: Caller) -> bool:
    """A result that was seen before, by its id: it never changes."""
    recent = [result_id for result_id, ended in caller.seen if time.time() - ended < SECONDS_TO_READ_AGAIN]
    if not recent:
        return True
    result_id = caller.chance.choice(recent)
    sent = caller.sent("by id", "dashboard", "", None)
    reply = await caller.send(sent.kind, sent.client, "GET", f"/api/query_results/{result_id}")
    if caller.is_outage(sent, reply):
        return False
    made = caller.stage.queries.made.shown_by(reply.body, "full")
    if made is None or made.id != result_id:
        caller.find("byte for byte a result of Redash", sent, reply)
    return True


async def cancels(caller: Caller) -> bool:
    """Start a run and cancel the job."""
    sent = caller.sent("cancels", "second", "cancelled", 0)
    reply = await caller.execute(sent)
    if caller.is_outage(sent, reply):
        return False
    job = reply.job
    await asyncio.sleep(caller.chance.uniform(0, 0.3))
    reply = await caller.send(sent.kind, sent.client, "DELETE", f"/api/jobs/{job['id']}")
    if caller.is_outage(sent, reply):
        return False
    if reply.status != 200:
        caller.find("every job id is good", sent, reply)
    job = await caller.end_of(sent, {"id": job["id"], "status": 2}, waits=True)
    caller.journal.figures["cancelled"] += job["status"] == 4
    return True


async def fails(caller: Caller) -> bool:
    """A query that always fails: its text, and never a result."""
    sent = caller.sent("fails", "dashboard", "failing", caller.chance.choice((0, 60)))
    path = f"/api/queries/{caller.ids['failing']}/results.json?p_x={sent.value}&max_age={sent.max_age}"
    reply = await _get_form(caller, sent, path, {})
    if caller.is_outage(sent, reply):
        return False
    if reply.status != 422:
        caller.find("every other response is a problem", sent, reply)
    return True


async def objects(caller: Caller) -> bool:
    """Lists and query objects."""
    path = caller.chance.choice(("/api/queries", f"/api/queries/{caller.ids['stamp']}", "/api/session"))
    sent = caller.sent("objects", "dashboard", "", None)
    reply = await caller.send(sent.kind, sent.client, "GET", path)
    if caller.is_outage(sent, reply):
        return False
    if reply.status != 200 or reply.json is None:
        caller.find("every other response is a problem", sent, reply)
    return True


async def foreign(caller: Caller) -> bool:
    """What a client must not have: it is refused, whatever else goes on."""
    ids, jobs = caller.ids, [job for sent, job in caller.jobs if sent.client == "dashboard"]
    client, path = caller.chance.choice(
        [
            ("bound", f"/api/queries/{ids['large']}/results.json?p_x=A&max_age=600"),
            ("keyed", f"/api/queries/{ids['slow']}/results.json?p_x=A&max_age=600"),
            ("second", f"/api/jobs/{caller.chance.choice(jobs)}" if jobs else "/api/jobs/unknown"),
            ("bound", "/api/queries"),
            ("nobody", f"/api/queries/{ids['stamp']}/results.json?p_x=A&max_age=600"),
        ]
    )
    before = _tokens(caller)
    if client == "nobody" and caller.stage.visitor is not True:
        return True  # its token is the visitor's just now
    sent = caller.sent("foreign", client, "", None)
    reply = await caller.send(sent.kind, client, "GET", path)
    if client == "nobody" and _tokens(caller) != before:
        return True
    if caller.is_outage(sent, reply):
        return False
    if reply.status not in (401, 403, 404):
        caller.find("nothing that a client must not have", sent, reply)
    caller.journal.figures["refused to foreign clients"] += 1
    return True


async def visits(caller: Caller) -> bool:
    """The client whose token reloads add and remove."""
    before = _tokens(caller)
    sent = caller.sent("visitor", "visitor", "stamp", 600)
    try:
        reply = await caller.execute(sent)
    except (OSError, EOFError):
        if _tokens(caller) == before:
            raise
        return True  # a reload ends requests in progress whose token it removes
    if caller.stage.visitor is None or _tokens(caller) != before:
        return True
    if caller.is_outage(sent, reply):
        return False
    if (reply.status == 401) is caller.stage.visitor:
        caller.find("tokens as the last reload has them", sent, reply)
    if reply.status == 200 and not reply.body.startswith(b'{"job"'):  # nobody knows who may poll a job later
        caller.judge(sent, reply)
    return True


def _tokens(caller: Caller) -> tuple[bool | None, int]:
    return caller.stage.visitor, caller.journal.figures["reloads"]


async def edits(caller: Caller) -> bool:
    """Edit a query through the gateway: nobody sees the version before from then on."""
    version = caller.stage.edits.next()
    sent = caller.sent("edits", "writer", "stamp", None)
    body = {"query": caller.stage.queries.text("stamp", version)}
    reply = await caller.send(sent.kind, "writer", "POST", f"/api/queries/{caller.ids['stamp']}", body)
    if caller.is_outage(sent, reply):
        return False
    if reply.status != 200 or reply.json.get("query") != body["query"]:
        if not caller.stage.had_weather_since(sent.began):  # a fault may put other JSON in the place of the object
            caller.find("every other response is a problem", sent, reply)
        return False
    caller.stage.edits.done(version)
    caller.journal.figures["edits"] += 1
    return True


async def _result(caller: Caller, sent: Sent, reply: Reply, *, is_waiting: bool = False) -> bool:
    """Judge a result, or follow a job to its."""
    if caller.is_outage(sent, reply):
        return False
    if reply.body.startswith(b'{"job"'):
        return await caller.follow(sent, reply, waits=is_waiting)
    caller.judge(sent, reply)
    return True


MIXED: dict[Kind, int] = {
    polls: 6,
    waits: 6,
    keyed: 3,
    text: 2,
    hits: 4,
    forms: 6,
    large: 2,
    by_id: 4,
    cancels: 2,
    fails: 1,
    objects: 3,
    foreign: 2,
    visits: 2,
}
"""How often each kind is chosen. Edits are events."""

"""For every key of the configuration: how a caller or an operator sees that a reload has applied a change of it.

A key that is missing here is named by `test_config_reload`. Keys that take a restart are in `RESTART`.
"""

from __future__ import annotations

import asyncio
import grp
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final
from unittest import mock
from zoneinfo import ZoneInfo

from reload_lab import Lab
from security.front import key, token
from support.calls import ADMIN_TOKEN

from gateway import config
from gateway.outcome import Outcome, Sender
from gateway.redash.renderings import DateFormats

See = Callable[[Lab], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """The key is `old`, and `see` gives `was`; after a reload with `new` it gives `now`.

    `given` are other keys, the same before and after; `with_new` are keys that must change with this one.
    """

    old: object
    new: object
    see: See
    was: object
    now: object
    given: Mapping[str, object] = field(default_factory=dict)
    with_new: Mapping[str, object] = field(default_factory=dict)


UNSEEN: Final = object()
"""What `was` is where seeing it once would end the gateway."""


# -- what is seen ------------------------------------------------------------------------------------------------------


def status(method: str, path: str, body: object = None, **more: Any) -> See:
    async def see(lab: Lab) -> object:
        return (await lab.call(method, path, body, **more)).status

    return see


def header(name: str, method: str, path: str, body: object = None, **headers: str) -> See:
    async def see(lab: Lab) -> object:
        return (await lab.call(method, path, body, headers=headers)).headers.get(name)

    return see


async def key_at_redash(lab: Lab) -> object:
    """The beginning of the key: the gateway shows nobody the whole."""
    return (await lab.get("/api/session")).json["who"]


def half_a_minute_later(max_age: int, *, down: bool = False) -> See:
    """Read a result that was fresh 30 seconds ago: "hit", "fwd" for what has gone to Redash, or an error's status."""

    async def see(lab: Lab) -> object:
        await lab.run()
        lab.turn(30)
        lab.redash.down = down
        reply = await lab.get(f"/api/queries/5/results.json?max_age={max_age}")
        lab.redash.down = False
        await lab.idle()
        return reply.cache.split("; ")[1].partition("=")[0] if reply.status == 200 else reply.status

    return see


def asked_again(method: str, pattern: str, path: str, body: object = None) -> See:
    """Send a request, send it again after 30 seconds; how many requests the second one costs Redash."""

    async def see(lab: Lab) -> object:
        await lab.run()
        await lab.call(method, path, body)
        await lab.idle()
        lab.turn(30)
        lab.upstream.drain()
        await lab.call(method, path, body)
        await lab.idle()
        return len(lab.asked(method, pattern))

    return see


async def windows_of_budgets(lab: Lab) -> object:
    reply = await lab.call("POST", "/api/queries/5/results", PLAIN_RUN)
    return re.findall(r'"budget-(\d+)"', reply.headers.get("RateLimit", ""))


async def over_budget(lab: Lab) -> object:
    """After a run that has spent it all; the second time it is refused."""
    await lab.post(5, max_age=0)
    await lab.idle()
    lab.turn(30)
    reply = await lab.get("/api/queries/5/results.json?max_age=10")
    return reply.cache.split("; ")[1] if reply.status == 200 else reply.status


async def stale_metadata(lab: Lab) -> object:
    await lab.get("/api/dashboards/1")
    lab.turn(30)
    reply = await lab.get("/api/dashboards/1")
    return reply.cache.split("; ")[1].partition("=")[0]


async def runs_of_what_failed(lab: Lab) -> object:
    lab.redash.failing = True
    await lab.post(5, max_age=10)
    await lab.idle()
    lab.turn(30)
    lab.upstream.drain()
    await lab.post(5, max_age=10)
    await lab.idle()
    return len(lab.asked("POST", ".*"))


async def requests_at_once(lab: Lab) -> object:
    lab.redash.open.clear()
    calls = [lab.get(f"/api/dashboards/{lab.fresh()}") for _ in range(3)]
    return await lab.while_held(calls, "GET", "/api/dashboards/.*")


async def runs_at_once(lab: Lab) -> object:
    lab.redash.ended.clear()
    calls = [lab.get(f"/api/queries/{lab.fresh()}/results.json?max_age=0") for _ in range(3)]
    return await lab.while_held(calls, "POST", "/api/queries/.*")


async def statuses_of_two_runs(lab: Lab) -> object:
    lab.redash.ended.clear()
    seen = [(await lab.post(lab.fresh(), max_age=0)).status for _ in range(2)]
    lab.redash.ended.set()
    await lab.idle()
    return seen


async def silence(lab: Lab) -> object:
    """Ask while Redash says nothing."""
    lab.redash.open.clear()
    seen = await lab.status_soon(lab.get(f"/api/dashboards/{lab.fresh()}"))
    lab.redash.open.set()
    return seen


async def queueing(lab: Lab) -> object:
    """Ask while another request holds the only slot."""
    first = await lab.held()
    seen = await lab.status_soon(lab.get(f"/api/dashboards/{lab.fresh()}"))
    lab.redash.open.set()
    await first
    return seen


async def two_failures(lab: Lab) -> object:
    lab.redash.down = True
    seen = [(await lab.get(f"/api/dashboards/{lab.fresh()}")).status for _ in range(2)]
    lab.redash.down = False
    await recover(lab)
    return seen


async def half_a_minute_after_a_failure(lab: Lab) -> object:
    lab.redash.down = True
    await lab.get(f"/api/dashboards/{lab.fresh()}")
    lab.redash.down = False
    lab.turn(30)
    seen = (await lab.get(f"/api/dashboards/{lab.fresh()}")).status
    await recover(lab)
    return seen


async def recover(lab: Lab) -> None:
    lab.turn(3600)
    assert (await lab.get(f"/api/dashboards/{lab.fresh()}")).status == 200


async def which_redash(lab: Lab) -> object:
    lab.upstream.drain()
    lab.second.drain()
    await lab.get(f"/api/dashboards/{lab.fresh()}")
    return len(lab.upstream.log), len(lab.second.log)


async def stops_at_once(lab: Lab) -> object:
    """Whether the gateway stops at once although a request is under way."""
    call = await lab.held()
    started = time.monotonic()
    await lab.runtime.stop()
    lab.stopped = True
    await asyncio.gather(call, return_exceptions=True)
    return time.monotonic() - started < 5


async def closes_an_idle_connection(lab: Lab) -> object:
    """Whether a connection that sends nothing is closed within two seconds."""
    address = lab.runtime.api_addresses[0]
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        async with asyncio.timeout(2):
            return await reader.read() == b""
    except TimeoutError:
        return False
    finally:
        writer.close()
        await writer.wait_closed()


async def certificate(lab: Lab) -> object:
    """The name of the listener's certificate file: the one whose content it shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = lab.runtime.api_addresses[0]
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    shown = ssl.DER_cert_to_PEM_cert(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    await writer.wait_closed()
    files = [lab.front.directory / f"{name}.pem" for name in ("first", "other")]
    return next(file.stem for file in files if file.read_text().split() == shown.split())


async def authorities(lab: Lab) -> object:
    """Whether the connections to Redash trust the one authority of `ca_file` only."""
    return len(lab.runtime.upstream._exchange.tls.get_ca_certs()) == 1


async def folds_case(lab: Lab) -> object:
    """Whether texts that differ in letter case are kept apart: a version in the file is the one in force."""
    return (await lab.runtime.results.organisation.version(Sender("test", "test"))).hash_folds_case


async def date_formats(lab: Lab) -> object:
    """Read from the part that renders: this Redash does not say its formats."""
    return await lab.runtime.results.organisation.formats(Sender("test", "test"))


async def connect_timeout(lab: Lab) -> object:
    """Read from the HTTP client: a connection that does not come about cannot be made on the loopback."""
    return lab.runtime.upstream._exchange.timeout.sock_connect


async def api_key_of_a_query(lab: Lab) -> object:
    return (await lab.get("/api/queries/5")).json["api_key"] is not None


async def quota_left(lab: Lab) -> object:
    return (await lab.get("/api/session")).headers["RateLimit"].partition(";t=")[0]


async def is_a_label(lab: Lab) -> object:
    query = lab.fresh()
    await lab.run(query)
    return f'query="{query}"' in (await lab.admin("GET", "/metrics"))[1]


async def access_log(lab: Lab) -> object:
    return lab.runtime.telemetry.observer.access_log


async def caller_in_the_log(lab: Lab) -> object:
    """The address that a request is logged with, which a proxy has sent."""
    seen: list[Outcome] = []
    telemetry = lab.runtime.telemetry
    telemetry.observer.flush()
    with mock.patch.object(telemetry.recorder.incidents, "note", seen.extend):
        await lab.call("GET", "/api/nowhere", headers={"X-Forwarded-For": "198.51.100.1"})
        await lab.idle()
        telemetry.observer.flush()
    return seen[-1].address


async def today(lab: Lab) -> object:
    """Whether `d_now` is the day of Kiritimati, which is never that of Pago Pago."""
    await lab.get("/api/queries/8/results.json?p_p=d_now&max_age=0")
    there = datetime.fromtimestamp(lab.front.clock.wall(), ZoneInfo("Pacific/Kiritimati")).date()
    return lab.asked("POST", ".*")[-1].json["parameters"]["p"] == there.isoformat()


async def purge(lab: Lab) -> object:
    return (await lab.admin("POST", "/purge", {"all": True}))[0]


def warmed(part: str) -> See:
    async def see(lab: Lab) -> object:
        return lab.warmed(part)

    return see


async def warmed_parameters(lab: Lab) -> object:
    body = lab.warmed("json")
    return body and body["parameters"]


async def warmed_dashboard(lab: Lab) -> object:
    read = lab.asked("GET", "/api/dashboards/.*")
    return read[-1].path if read else None


async def warmed_every(lab: Lab) -> object:
    return [state.every for state in lab.runtime.warmer.states]


def popular(part: str) -> See:
    async def see(lab: Lab) -> object:
        return [str(getattr(ahead.entry, part)) for ahead in lab.runtime.warmer.aheads.values()]

    return see


# -- the keys ----------------------------------------------------------------------------------------------------------

ONE_RULE: Final = {"cache.rules.queries": [5]}
FLOORED: Final = {"cache.rules.queries": None, "cache.rules.floor": "1h"}
WARM: Final = {"warm.query": 5, "warm.every": "40ms", "warm.credential": "user"}
POPULAR: Final = {"warm.popular": 5, "warm.within": "1d", "warm.budget": "10m/h", "warm.credential": "user"}
FIRST: Final = {"server.tls_cert": "{directory}/first.pem", "server.tls_key": "{directory}/first.key.pem"}
OTHER: Final = {"server.tls_cert": "{directory}/other.pem", "server.tls_key": "{directory}/other.key.pem"}
HASH: Final = config.token_hash("rg_another")
PLAIN_RUN: Final = {"max_age": 0}


def bounds(table: str, given: Mapping[str, object]) -> dict[str, Case]:
    """The five keys that a client, a rule and `[cache]` have in common."""
    wide = half_a_minute_later(10)
    return {
        f"{table}.floor": Case(None, "1h", wide, "fwd", "hit", given),
        f"{table}.follow_schedule": Case(None, True, wide, "fwd", "hit", given),
        f"{table}.ceiling": Case(None, "10s", half_a_minute_later(100), "hit", "fwd", given),
        f"{table}.stale_while_revalidate": Case("0s", "1h", wide, "fwd", "hit", given),
        f"{table}.stale_if_error": Case("1h", "0s", half_a_minute_later(10, down=True), "hit", 502, given),
    }


LIVE: Final[dict[str, Case]] = {
    "server.hosts": Case(
        None,
        ["localhost", "127.0.0.1", "b.example"],
        status("GET", "/api/session", headers={"Host": "b.example"}),
        421,
        200,
    ),
    "server.path_prefix": Case("", "/redash", status("GET", "/redash/api/session"), 404, 200),
    "server.trusted_proxies": Case([], ["127.0.0.0/8"], caller_in_the_log, "127.0.0.1", "198.51.100.1"),
    "server.cors_origins": Case(
        [],
        ["https://a.example"],
        header("Access-Control-Allow-Origin", "GET", "/api/session", Origin="https://a.example"),
        None,
        "https://a.example",
    ),
    "server.max_wait": Case(
        "50s",
        "5s",
        header("Preference-Applied", "POST", "/api/queries/5/results", PLAIN_RUN, Prefer="wait=20"),
        "wait=20",
        "wait=5",
    ),
    "server.max_request_body": Case(
        "1MB", "1KB", status("POST", "/api/queries/5/results", b'{"max_age": 0}' + b" " * 2000), 200, 413
    ),
    "server.max_watchers": Case(10_000, 0, status("HEAD", "/api/queries/5/results/events"), 200, 503),
    "server.drain_timeout": Case("1h", "0s", stops_at_once, UNSEEN, True),
    "server.idle_timeout": Case("1h", "300ms", closes_an_idle_connection, False, True),
    "server.tls_cert": Case(
        FIRST["server.tls_cert"], OTHER["server.tls_cert"], certificate, "first", "other", FIRST, OTHER
    ),
    "server.tls_key": Case(
        FIRST["server.tls_key"], OTHER["server.tls_key"], certificate, "first", "other", FIRST, OTHER
    ),
    "admin.token_sha256": Case(config.token_hash(ADMIN_TOKEN), HASH, purge, 200, 401),
    "upstream.url": Case("{first}", "{second}", which_redash, (1, 0), (0, 1)),
    "upstream.connect_timeout": Case("7s", "3s", connect_timeout, 7.0, 3.0),
    "upstream.read_timeout": Case("60s", "50ms", silence, "waits", 504),
    "upstream.max_requests": Case(1, 3, requests_at_once, 1, 3),
    "upstream.max_executions": Case(1, 3, runs_at_once, 1, 3),
    "upstream.queue_timeout": Case("30s", "50ms", queueing, "waits", 503, {"upstream.max_requests": 1}),
    "upstream.ca_file": Case(None, "{directory}/first.pem", authorities, False, True),
    "upstream.breaker_failures": Case(5, 1, two_failures, [502, 502], [502, 503]),
    "upstream.breaker_reset": Case(
        "60s", "10s", half_a_minute_after_a_failure, 503, 200, {"upstream.breaker_failures": 1}
    ),
    "upstream.version": Case("10.1.0", "25.8.0", folds_case, True, False),
    "upstream.date_format": Case(
        "DD/MM/YY", "YYYY-MM-DD", date_formats, DateFormats("DD/MM/YY"), DateFormats("YYYY-MM-DD")
    ),
    "upstream.date_time_format": Case(
        "DD/MM/YY HH:mm",
        "HH:mm",
        date_formats,
        DateFormats(date_time="DD/MM/YY HH:mm"),
        DateFormats(date_time="HH:mm"),
    ),
    "credentials.kind": Case(
        "user", "query", status("GET", "/api/session"), 200, 403, with_new={"credentials.query": 5}
    ),
    "credentials.query": Case(
        5, 6, status("POST", "/api/queries/5/results", PLAIN_RUN), 200, 403, {"credentials.kind": "query"}
    ),
    "credentials.key_file": Case(
        "{directory}/user.key", "{directory}/second.key", key_at_redash, key("user")[:8], key("second")[:8]
    ),
    "credentials.key_env": Case(
        None,
        "KEY_OF_THE_RELOAD",
        key_at_redash,
        key("user")[:8],
        key("rotated")[:8],
        with_new={"credentials.key_file": None},
    ),
    "clients.credentials": Case(["user"], ["second"], key_at_redash, key("user")[:8], key("second")[:8]),
    "clients.token_sha256": Case([config.token_hash(token("one"))], [HASH], status("GET", "/api/session"), 200, 401),
    "clients.can": Case(["read"], ["write"], status("GET", "/api/session"), 200, 403),
    "clients.queries": Case([5], [6], status("GET", "/api/queries/5"), 200, 403),
    "clients.dashboards": Case([1], [2], status("GET", "/api/queries/5"), 200, 403),
    "clients.expires": Case(date(2200, 1, 1), date(2020, 1, 1), status("GET", "/api/session"), 200, 401),
    "clients.query_token": Case(
        True, False, status("GET", f"/api/session?api_key={token('one')}", client=None), 200, 401
    ),
    "clients.reveal_keys": Case(False, True, api_key_of_a_query, False, True),
    "clients.rate": Case(
        "50/s", "6/m", header("RateLimit-Policy", "GET", "/api/session"), '"client";q=50;w=1', '"client";q=6;w=60'
    ),
    "clients.burst": Case(3, 5, quota_left, '"client";r=2', '"client";r=4', {"clients.rate": "6/m"}),
    "clients.max_executions": Case(1, 2, statuses_of_two_runs, [200, 429], [200, 200]),
    "clients.budget": Case(["1h/h"], ["1h/h", "2h/d"], windows_of_budgets, ["3600"], ["3600", "86400"]),
    "clients.stale_over_budget": Case("0s", "1h", over_budget, 429, "hit", {"clients.budget": ["1ms/h"]}),
    "clients.text_parameters": Case(
        False,
        True,
        status("POST", "/api/queries/7/results", {"parameters": {"p": "y"}, "max_age": 0}),
        403,
        200,
    ),
    **bounds("clients", {}),
    **bounds("cache", {}),
    **bounds("cache.rules", ONE_RULE),
    "cache.rules.queries": Case([6], [5], half_a_minute_later(10), "fwd", "hit", {"cache.rules.floor": "1h"}),
    "cache.rules.data_sources": Case([2], [1], half_a_minute_later(10), "fwd", "hit", FLOORED),
    "cache.rules.tags": Case(["y"], ["x"], half_a_minute_later(10), "fwd", "hit", FLOORED),
    "cache.any_age_confirm": Case(
        "1h", "5s", asked_again("POST", ".*", "/api/queries/5/results", {"max_age": -1}), 0, 1
    ),
    "cache.definition_check": Case(
        "1h", "5s", asked_again("GET", "/api/queries/5", "/api/queries/5/results.json?max_age=1000"), 0, 1
    ),
    "cache.metadata_ttl": Case("1h", "5s", asked_again("GET", ".*", "/api/dashboards/1"), 0, 1),
    "cache.metadata_stale_while_revalidate": Case("0s", "1h", stale_metadata, "fwd", "hit"),
    "cache.rendered_ttl": Case("1h", "5s", asked_again("GET", ".*csv", "/api/queries/5/results/501.csv"), 0, 1),
    "cache.failure_ttl": Case("1h", "2s", runs_of_what_failed, 0, 1),
    "cache.timezone": Case("Pacific/Kiritimati", "Pacific/Pago_Pago", today, True, False),
    "warm.query": Case(5, 6, warmed("path"), "/api/queries/5/results", "/api/queries/6/results", WARM),
    "warm.dashboard": Case(
        1, 2, warmed_dashboard, "/api/dashboards/1", "/api/dashboards/2", {**WARM, "warm.query": None}
    ),
    "warm.parameters": Case(
        {"p": "y"}, {"p": "z"}, warmed_parameters, {"p": "y"}, {"p": "z"}, {**WARM, "warm.query": 7}
    ),
    "warm.every": Case("40ms", "50ms", warmed_every, [0.04], [0.05], WARM),
    "warm.popular": Case(5, 6, popular("popular"), ["5"], ["6"], POPULAR),
    "warm.within": Case("1d", "2d", popular("within"), ["86400.0"], ["172800.0"], POPULAR),
    "warm.budget": Case("10m/h", "1h/d", popular("budget"), ["10m/h"], ["1h/d"], POPULAR),
    "warm.quiet": Case(None, "22:00-06:00", popular("quiet"), ["None"], ["22:00-06:00"], POPULAR),
    "warm.credential": Case("user", "second", warmed("key"), key("user"), key("second"), WARM),
    "log.access": Case(False, True, access_log, False, True),
    "metrics.per_query": Case(50, 0, is_a_label, True, False),
}

ELSEWHERE: Final = {"redis.rates": "tests/app/test_sharing.py::test_a_reload_changes_who_shares_rates"}
"""Keys that are live, which only several gateways can show, and where they do."""

PASSWORDS: Final = ("password_env", "password_file")

RESTART: Final[dict[str, tuple[object, object]]] = {
    "server.listen": ("127.0.0.1:0", "127.0.0.1:1"),
    "server.socket_mode": (None, "0660"),
    "server.socket_group": (None, grp.getgrgid(os.getegid()).gr_name),
    "server.tls_cert": (None, "{directory}/first.pem"),
    "server.event_loop": (None, "asyncio"),
    "admin.listen": ("127.0.0.1:0", "127.0.0.1:1"),
    "cache.store": ("memory:", "sqlite:a.db"),
    "cache.memory": (None, "1MB"),
    "cache.disk": (None, "1MB"),
    "cache.max_entry": (None, "1MB"),
    "redis.prefix": (None, "another"),
    "redis.username": ("one", "another"),
    "redis.password_env": ("KEY_OF_THE_RELOAD", "PATH"),
    "redis.password_file": ("{directory}/user.key", "{directory}/second.key"),
    "redis.ca_file": (None, "{directory}/second.key"),
    "redis.name": (None, "gateway-1"),
    "log.format": (None, "json"),
    "tracing.endpoint": (None, "http://127.0.0.1:4318"),
}
"""A value and another one that takes a restart."""

NEEDS: Final[dict[str, dict[str, object]]] = {
    **{f"server.socket_{key}": {"server.listen": "unix:{directory}/api.sock"} for key in ("mode", "group")},
    "redis.username": {"cache.store": "rediss://host", "redis.password_file": "{directory}/user.key"},
    **{f"redis.{key}": {"cache.store": "rediss://host"} for key in (*PASSWORDS, "prefix", "ca_file", "name")},
}
"""Other keys without which a key in `RESTART` is a mistake."""

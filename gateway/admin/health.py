"""The health of each part of the gateway, and the verdict: the whole state in one or two sentences. Pure."""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

from gateway.admin.formats import ago, count, duration, percent
from gateway.model import NEARLY_FULL, SharingStats
from gateway.telemetry.history import Counts, lookups, without_run

RUN_SECONDS: Final = 300
MANY_FAILURES: Final = 5
"""Fewer failed runs may be one person's typing errors."""

State = Literal["good", "warn", "bad", "idle"]


class Health(msgspec.Struct, frozen=True):
    """The state of one part, as shown on its tile."""

    name: str
    state: State
    text: str
    trouble: str = ""
    """Its clause of the verdict if something is wrong, e.g. "Redash does not respond"."""


def redash(reached: float | None, unreached: float | None, now: float, *, breaker_open: bool) -> Health:
    """Return the health of Redash from when it last responded and last failed to (monotonic)."""
    if breaker_open:
        return Health("Redash", "bad", "Does not respond", "Redash does not respond and the breaker is open")
    if unreached is not None and (reached is None or unreached > reached):
        return Health("Redash", "warn", "Did not respond last time", "Redash did not respond to the last request")
    if reached is None:
        return Health("Redash", "idle", "Not contacted yet")
    return Health("Redash", "good", f"Responds; last contact {ago(now - reached)}")


def breaker(*, is_open: bool) -> Health:
    """Return the health of the breaker; while it is open, calls to Redash are refused."""
    return Health("Breaker", "bad", "Open: no calls to Redash") if is_open else Health("Breaker", "good", "Closed")


def credentials(configured: list[str], accepted: dict[str, bool]) -> Health:
    """Return the health of the credentials; `accepted` says how the last use of each key went."""
    rejected = [name for name in configured if accepted.get(name) is False]
    if rejected:
        names = ", ".join(rejected)
        return Health("Credentials", "bad", f"Rejected: {names}", f"Redash rejects the key of {names}")
    used = sum(name in accepted for name in configured)
    if not used:
        return Health("Credentials", "idle", f"{count(len(configured))} configured, not used yet")
    unused = f", {count(len(configured) - used)} not used yet" if used < len(configured) else ""
    return Health("Credentials", "good", f"{count(used)} accepted{unused}")


def store(tiers: list[tuple[str, bool]], entries: int) -> Health:
    """Return the health of the store; `tiers` are names, each with whether it works."""
    down = [name for name, up in tiers if not up]
    if down:
        return Health("Store", "bad", f"Down: {', '.join(down)}", "a part of the store is down")
    return Health("Store", "good", f"Works; {count(entries)} entries")


def sharing(stats: SharingStats) -> Health:
    """Return the health of what gateways share; an outage of Redis is the store's trouble."""
    if not stats.up:
        return Health("Gateways", "bad", f"Redis is unavailable, this one works alone: {stats.reason}")
    if stats.evicts:
        trouble = "Redis may remove jobs and leases, because its maxmemory-policy is not noeviction"
        return Health("Gateways", "bad", "Redis evicts by itself", trouble)
    if stats.trouble:
        return Health("Gateways", "warn", "Not all belong together", stats.trouble)
    number = max(1, len(stats.gateways))
    shared = f"{count(number)} share{'s' if number == 1 else ''} the store"
    if stats.limit_bytes and stats.used_bytes > NEARLY_FULL * stats.limit_bytes:
        full = percent(stats.used_bytes / stats.limit_bytes)
        return Health("Gateways", "warn", f"{shared}; Redis is {full} full", f"the memory of Redis is {full} full")
    if stats.silent:
        names = ", ".join(name for name, _ in stats.silent)
        span = duration(min(age for _, age in stats.silent))
        return Health("Gateways", "warn", f"{shared}; silent: {names}", f"Redis has not heard of {names} for {span}")
    return Health("Gateways", "good", f"{shared}; Redis answers in {duration(stats.round_trip)}")


def configuration(age: float, *, successful: bool) -> Health:
    """Return how the last reload went; `age` is seconds since the active configuration was loaded."""
    if not successful:
        trouble = "the last reload failed and the previous configuration is active"
        return Health("Configuration", "bad", "Last reload failed", trouble)
    return Health("Configuration", "good", f"Loaded {ago(age)}")


def queue(queued: int) -> Health:
    """Return the health of the queue for slots to Redash."""
    if queued:
        return Health("Queue", "warn", f"{count(queued)} waiting for a slot")
    return Health("Queue", "good", "Empty")


def runs(lately: Counts) -> Health:
    """Return the health of query runs, from the counts of the last `RUN_SECONDS`; refusals are no runs."""
    failed, number, span = lately.failures, lately.executions, duration(RUN_SECONDS)
    if not number:
        return Health("Query runs", "idle", f"None in {span}")
    if not failed:
        return Health("Query runs", "good", f"{count(number)} in {span}, none failed")
    many = failed >= MANY_FAILURES and 2 * failed >= number
    trouble = f"{count(failed)} of {count(number)} query runs in the last {span} failed" if many else ""
    return Health("Query runs", "warn", f"{count(failed)} of {count(number)} failed in {span}", trouble)


def verdict(parts: list[Health], hour: Counts, uptime: float, *, ready: bool) -> tuple[State, str]:
    """Return in one or two sentences whether the gateway works and what it saves."""
    troubles = [part for part in parts if part.trouble]
    if not ready:
        return "bad", "Not serving: the gateway is starting or stopping."
    if not troubles:
        return "good", f"Serving. {_use(hour, uptime)}"
    state: State = "bad" if any(part.state == "bad" for part in troubles) else "warn"
    return state, f"Serving, but {'; '.join(part.trouble for part in troubles)}. {_use(hour, uptime)}"


def _use(hour: Counts, uptime: float) -> str:
    span = f"in the last {'hour' if uptime >= 3600 else _roughly(uptime)}"
    cacheable = lookups(hour.cache)
    if not hour.requests:
        return f"No requests {span}."
    if not cacheable:
        plural = "" if hour.requests == 1 else "s"
        return f"{count(hour.requests)} request{plural} {span}; none cacheable."
    plural = "" if cacheable == 1 else "s"
    share = f"{percent(without_run(hour.cache) / cacheable)} of {count(cacheable)} cacheable request{plural} {span}"
    saved = f"; that saved {duration(hour.saved)} of warehouse time" if hour.saved else ""
    return f"{share} were answered without a run{saved}."


def _roughly(seconds: float) -> str:
    """Format as whole minutes; below one minute, as whole seconds."""
    return duration(math.floor(seconds / 60) * 60 if seconds >= 60 else max(1, math.floor(seconds)))

"""What the numbers mean, in a sentence and six small ones. Pure; nothing here but words and the order of troubles."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from gateway.admin.text import ago, count, duration, percent
from gateway.telemetry.history import Counts, hits, lookups

State = Literal["good", "warn", "bad", "idle"]


class Health(msgspec.Struct, frozen=True):
    """How one part is."""

    name: str
    state: State
    text: str
    trouble: str = ""
    """What to say of it in the verdict, e.g. "Redash does not answer"."""


def redash(reached: float | None, unreached: float | None, now: float, *, breaker_open: bool) -> Health:
    """Judge by when Redash last answered and when it last did not (monotonic)."""
    if breaker_open:
        return Health("Redash", "bad", "Does not answer", "Redash does not answer and is left alone for a while")
    if unreached is not None and (reached is None or unreached > reached):
        return Health("Redash", "warn", "Did not answer when last asked", "Redash did not answer when last asked")
    if reached is None:
        return Health("Redash", "idle", "Not asked yet")
    return Health("Redash", "good", f"Answers; asked {ago(now - reached)}")


def breaker(*, is_open: bool) -> Health:
    """Tell whether calls to Redash are refused just now."""
    return Health("Breaker", "bad", "Open: Redash is not asked") if is_open else Health("Breaker", "good", "Closed")


def credentials(configured: list[str], accepted: dict[str, bool]) -> Health:
    """Judge by what Redash said of each key when it was last used."""
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
    """Judge by whether each tier works."""
    down = [name for name, up in tiers if not up]
    if down:
        return Health("Store", "bad", f"Down: {', '.join(down)}", "a part of the store is down")
    return Health("Store", "good", f"Works; {count(entries)} entries")


def configuration(age: float, *, successful: bool) -> Health:
    """Tell how the last reload went; `age` is seconds since the configuration in force was loaded."""
    if not successful:
        trouble = "the last reload failed and the configuration before it is in force"
        return Health("Configuration", "bad", "Last reload failed", trouble)
    return Health("Configuration", "good", f"Loaded {ago(age)}")


def queue(queued: int) -> Health:
    """Tell how many wait for a slot to Redash."""
    if queued:
        return Health("Queue", "warn", f"{count(queued)} waiting for a slot")
    return Health("Queue", "good", "Nobody waits for a slot")


def verdict(parts: list[Health], hour: Counts, uptime: float, *, ready: bool) -> tuple[State, str]:
    """Say in one sentence or two whether it works and what it saves."""
    troubles = [part for part in parts if part.trouble]
    if not ready:
        return "bad", "Not serving: the gateway is starting or stopping."
    if not troubles:
        return "good", f"Serving. {_use(hour, uptime)}"
    state: State = "bad" if any(part.state == "bad" for part in troubles) else "warn"
    return state, f"Serving, but {'; '.join(part.trouble for part in troubles)}. {_use(hour, uptime)}"


def _use(hour: Counts, uptime: float) -> str:
    span = f"in the last {'hour' if uptime >= 3600 else _roughly(uptime)}"
    looked = lookups(hour.cache)
    if not hour.requests:
        return f"Nobody has asked anything {span}."
    if not looked:
        plural = "" if hour.requests == 1 else "s"
        return f"{count(hour.requests)} request{plural} {span}; none of a kind that the cache can answer."
    plural = "" if looked == 1 else "s"
    came = (
        f"{percent(hits(hour.cache) / looked)} of {count(looked)} cacheable request{plural} {span} came from the cache"
    )
    return f"{came}; that saved {duration(hour.saved)} of warehouse time." if hour.saved else f"{came}."


def _roughly(seconds: float) -> str:
    """Whole minutes, or whole seconds of the first one."""
    return duration(math.floor(seconds / 60) * 60 if seconds >= 60 else max(1, math.floor(seconds)))

"""What the parts of the gateway report at the moment of a scrape: gauges, and counters that they keep themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from prometheus_client.core import InfoMetricFamily, Metric

from gateway import __version__
from gateway.model import SharingStats, TierStats
from gateway.telemetry.exposition import PREFIX, counter, gauge, refresh_ahead

WARM: Final = ("success", "failure", "skipped")
WAITS: Final = ("slot", "collision", "earlier_run", "request")


class Bound(NamedTuple):
    """How much of something bounded is taken, and its limit."""

    taken: int
    limit: int


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts of the gateway report at the moment of a scrape. No defaults: a new field must get its value."""

    executions_in_flight: int
    execution_waiters: int
    upstream_queue: int
    watchers: int
    waiting: Mapping[str, int]
    """What waits, by what for."""
    breaker_open: bool
    tiers: list[TierStats]
    name: str
    """Of this gateway."""
    sharing: SharingStats | None
    """None if no others can share the store."""
    leases: int
    lease_losses: int
    reload_successful: bool
    reloaded_at: float
    warm: Mapping[str, int]
    """Rounds of the `[[warm]]` entries by result."""
    ahead: Mapping[str, float]
    """What refresh ahead did and saved, see `exposition.refresh_ahead`."""
    log_lines_dropped: int
    serving: bool
    """False while the gateway stops."""
    resumed: int
    """How many runs of an earlier process it has followed."""
    loop_lag: float
    """Seconds: the longest pause of the event loop within the last minute."""
    budgets: Mapping[tuple[str, str], tuple[float, float, float]]
    """By client and length of time: the budget, what is spent and what is reserved of it, in seconds."""
    in_use: Mapping[str, Bound]
    """What is there in a limited number, by its name."""
    memory: Mapping[str, Bound]
    """What takes memory up to a limit of its own, in bytes, by its name."""
    client_expiries: Mapping[str, float]
    """When the tokens of a client expire (unix seconds); only of clients whose tokens do."""
    certificate_expiries: Mapping[str, float]
    """When a certificate in force expires (unix seconds), by the key of the configuration that names its file."""


def collect_levels(levels: Levels) -> Iterator[Metric]:
    """Yield every metric of the levels."""
    yield from _collect_parts(levels)
    yield from _collect_budgets(levels)
    yield from _collect_bounds(levels)
    yield from _collect_expiries(levels)
    yield from _collect_stores(levels.tiers)
    yield from _collect_sharing(levels)


def _collect_parts(levels: Levels) -> Iterator[Metric]:
    yield gauge("executions_in_flight", "Executions under way.", (), {(): levels.executions_in_flight})
    yield gauge("execution_waiters", "Callers waiting for executions.", (), {(): levels.execution_waiters})
    yield gauge("watchers", "Callers that wait for newer results.", (), {(): levels.watchers})
    yield gauge("upstream_queue", "Executions and requests waiting for a slot.", (), {(): levels.upstream_queue})
    yield gauge(
        "waiting",
        "Executions (slot, collision, earlier_run) and requests to Redash (request) that wait, by what for.",
        ("kind",),
        {(kind,): levels.waiting.get(kind, 0) for kind in WAITS},
    )
    yield gauge(
        "breaker_open",
        "Whether the breaker is open and calls to Redash are refused.",
        (),
        {(): levels.breaker_open},
    )
    yield gauge("config_last_reload_successful", "Whether the last reload worked.", (), {(): levels.reload_successful})
    yield gauge(
        "config_last_reload_timestamp_seconds", "When the configuration was loaded.", (), {(): levels.reloaded_at}
    )
    yield counter(
        "warm_runs",
        "Rounds of the [[warm]] entries, since the configuration was loaded.",
        ("result",),
        {(result,): levels.warm.get(result, 0) for result in WARM},
    )
    yield from refresh_ahead(levels.ahead)
    yield counter(
        "log_lines_dropped",
        "Log lines dropped because the reader was too slow.",
        (),
        {(): levels.log_lines_dropped},
    )
    yield gauge("serving", "0: the gateway is stopping.", (), {(): levels.serving})
    yield counter("resumed_executions", "Runs of an earlier process that were followed.", (), {(): levels.resumed})
    yield gauge("loop_lag_seconds", "Longest pause of the event loop, last minute.", (), {(): levels.loop_lag})
    yield InfoMetricFamily(
        PREFIX + "build", "The version that runs.", value={"version": __version__, "name": levels.name}
    )


def _collect_budgets(levels: Levels) -> Iterator[Metric]:
    labels, shown = ("client", "per"), levels.budgets.items()
    yield gauge("budget_seconds", "Seconds of runs that a client may cause.", labels, {k: v[0] for k, v in shown})
    yield gauge("budget_spent_seconds", "What is spent of a budget now.", labels, {k: v[1] for k, v in shown})
    yield gauge("budget_reserved_seconds", "What runs in progress reserve.", labels, {k: v[2] for k, v in shown})


def _collect_bounds(levels: Levels) -> Iterator[Metric]:
    for name, text, label, bounds in (
        ("in_use", "What is taken of that of which there is a limited number.", "of", levels.in_use),
        ("memory", "Bytes in memory.", "part", levels.memory),
    ):
        unit = "_bytes" if name == "memory" else ""
        yield gauge(f"{name}{unit}", text, (label,), {(of,): bound.taken for of, bound in bounds.items()})
        limits = {(of,): bound.limit for of, bound in bounds.items()}
        yield gauge(f"{name}_limit{unit}", "The limit of it.", (label,), limits)


def _collect_expiries(levels: Levels) -> Iterator[Metric]:
    clients = {(name,): at for name, at in levels.client_expiries.items()}
    yield gauge("client_expiry_timestamp_seconds", "When the client's tokens expire.", ("client",), clients)
    certificates = {(key,): at for key, at in levels.certificate_expiries.items()}
    text = "When the certificate in force expires, by the key that names its file."
    yield gauge("certificate_expiry_timestamp_seconds", text, ("key",), certificates)


def _collect_stores(tiers: Sequence[TierStats]) -> Iterator[Metric]:
    yield gauge("cache_bytes", "Bytes stored.", ("tier",), {(t.tier,): t.bytes for t in tiers})
    yield gauge("cache_limit_bytes", "Bytes that may be stored.", ("tier",), {(t.tier,): t.limit for t in tiers})
    yield gauge("cache_entries", "Entries stored.", ("tier",), {(t.tier,): t.entries for t in tiers})
    yield counter("cache_evictions", "Entries evicted.", ("tier",), {(t.tier,): t.evictions for t in tiers})
    yield gauge("store_up", "Whether this part of the store works.", ("tier",), {(t.tier,): t.up for t in tiers})


def _collect_sharing(levels: Levels) -> Iterator[Metric]:
    """Yield what there is to say of a store that gateways share; zeros without one, and one gateway."""
    sharing = levels.sharing
    yield gauge("leases", "Runs that this gateway leads.", (), {(): levels.leases})
    yield counter("lease_losses", "Leases lost to other gateways.", (), {(): levels.lease_losses})
    peers = len(sharing.gateways) if sharing is not None else 0
    yield gauge("peers", "Gateways that share results now, this one included.", (), {(): max(1, peers)})
    found = dict.fromkeys(("losses", "round_trip", "used_bytes", "limit_bytes"), 0.0)
    found |= {name: getattr(sharing, name) for name in found if sharing is not None}
    yield counter("redis_losses", "Times that Redis was lost.", (), {(): found["losses"]})
    yield gauge("redis_round_trip_seconds", "Time that Redis takes to answer.", (), {(): found["round_trip"]})
    yield gauge("redis_memory_bytes", "Memory that Redis uses.", (), {(): found["used_bytes"]})
    yield gauge("redis_memory_limit_bytes", "Redis' maxmemory.", (), {(): found["limit_bytes"]})

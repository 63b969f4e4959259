"""Requests are counted kind by kind: that must come to the same as counting them one by one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.outcome import Outcome, OutcomeBatch, batched
from gateway.telemetry.metrics import Levels, Metrics
from gateway.telemetry.recorder import StatusRecorder


def no_levels() -> Levels:
    raise AssertionError("nobody scrapes")


eighths = st.integers(0, 800).map(lambda number: number / 8)  # sums of them are exact, in whatever order
outcomes = st.builds(
    Outcome,
    request_id=st.just("r"),
    route=st.sampled_from(["/api/queries/{query_id}/results", "/api/query_results", "none"]),
    client=st.sampled_from(["a", "b"]),
    query_id=st.sampled_from([None, 1, 2]),
    cache=st.sampled_from(["hit", "stale", "miss", "none"]),
    status=st.sampled_from([200, 304, 502]),
    reason=st.sampled_from(["", "forbidden"]),
    age=st.none() | eighths,
    saves_run=st.booleans(),
    saved_runtime=eighths,
    duration=eighths,
)
told = st.lists(outcomes, max_size=40)


def counted(groups: list[OutcomeBatch]) -> dict[str, Any]:
    metrics, recorder = Metrics(no_levels, [], per_query=5), StatusRecorder(lambda: 0.0)
    for group in groups:
        metrics.record_requests(group)
        recorder.record_requests(group)
    return {
        "requests": metrics.requests,
        "durations": {key: (found.counts, found.total) for key, found in metrics.durations.items()},
        "ages": [(found.counts, found.total) for found in metrics.ages.values()],
        "queries": dict(metrics.query_requests),
        "saved": (metrics.saved, metrics.saved_seconds),
        "rejected": metrics.rejected,
        "page": (recorder.requests, recorder.refused, recorder.saved_executions, recorder.saved_seconds),
        "hour": recorder.history.hour(0.0).latency,
        "clients": {name: (row.cache, row.refused) for name, row in recorder.clients.items()},
        "rows": {query_id: (row.cache, row.saved) for query_id, row in recorder.queries.items()},
    }


@given(told)
def test_counting_by_kind_comes_to_the_same(told: list[Outcome]) -> None:
    assert counted(batched(told)) == counted([group for one in told for group in batched([one])])


@given(told)
def test_every_request_is_in_one_kind(told: list[Outcome]) -> None:
    groups = batched(told)
    assert sum(group.count for group in groups) == len(told)
    assert sorted(seconds for group in groups for seconds in group.durations) == sorted(o.duration for o in told)

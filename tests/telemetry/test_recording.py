"""Requests are counted in batches with the same labels: the sums must equal those of counting one by one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.inside import no_levels

from gateway.outcome import Outcome, OutcomeBatch, batched
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.recorder import StatusRecorder

eighths = st.integers(0, 800).map(lambda number: number / 8)  # sums of them are exact, in whatever order
outcomes = st.builds(
    Outcome,
    request_id=st.just("r"),
    route=st.sampled_from(["/api/queries/{query_id}/results", "/api/query_results", "none"]),
    client=st.sampled_from(["a", "b"]),
    query_id=st.sampled_from([None, 1, 2]),
    cache=st.sampled_from(["hit", "stale", "miss", "none"]),
    miss=st.sampled_from(["stale", "forced"]),
    key=st.sampled_from([b"", b"1", b"2"]),
    status=st.sampled_from([200, 304, 502]),
    reason=st.sampled_from(["", "forbidden"]),
    age=st.none() | eighths,
    saves_run=st.booleans(),
    saved_runtime=eighths,
    duration=eighths,
)
samples = st.lists(outcomes, max_size=40)


def counted(batches: list[OutcomeBatch]) -> dict[str, Any]:
    metrics, recorder = Metrics(no_levels, [], per_query=5), StatusRecorder(lambda: 0.0)
    for batch in batches:
        metrics.record_requests(batch)
        recorder.record_requests(batch)
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
        "details": {
            query_id: (row.misses, row.ages.counts, row.favourites.counts) for query_id, row in recorder.queries.items()
        },
        "why": (metrics.misses, recorder.misses, recorder.reasons),
    }


@given(samples)
def test_counting_in_batches_gives_the_same_sums(samples: list[Outcome]) -> None:
    assert counted(batched(samples)) == counted([batch for one in samples for batch in batched([one])])


@given(samples)
def test_every_request_is_in_one_batch(samples: list[Outcome]) -> None:
    batches = batched(samples)
    assert sum(batch.count for batch in batches) == len(samples)
    assert sorted(seconds for batch in batches for seconds in batch.durations) == sorted(o.duration for o in samples)

"""The last hour and the tables behind the console: pure, with a clock that is a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.outcome import ExecutionEnd, Outcome, UpstreamCall, batched
from gateway.telemetry.history import BOUNDS, CACHE, POINTS, STEP_SECONDS, History, quantile
from gateway.telemetry.recorder import StatusRecorder
from gateway.telemetry.tables import MOST_ROWS, ClientRow, Table


class Now:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def recorder(now: Now) -> StatusRecorder:
    return StatusRecorder(now)


def outcome(cache: str = "hit", **fields: object) -> Outcome:
    miss = "not_stored" if cache == "miss" else ""
    given = {"client": "sales", "query_id": 7, "route": "/api/queries/{query_id}/results", "duration": 0.001}
    return Outcome(request_id="r", cache=cache, miss=miss, **{**given, **fields})  # type: ignore[arg-type]


def call(status: int, *, accepted: bool = True) -> UpstreamCall:
    failure = "unavailable" if status in (0, 502, 503) else ""
    return UpstreamCall("/api/jobs/{job_id}", status, 0.2, "reporting", accepted, failure=failure)


def test_an_hour_later_nothing_is_left_of_a_request(recorder: StatusRecorder, now: Now) -> None:
    recorder.record_requests(*batched([outcome()]))
    assert recorder.history.hour(now.at + 3540).requests == 1
    assert recorder.history.hour(now.at + 3660).requests == 0
    assert recorder.requests["hit"] == 1


def test_steps_are_bounded_however_long_it_runs(recorder: StatusRecorder, now: Now) -> None:
    for _ in range(2 * 86400 // STEP_SECONDS):
        now.at += STEP_SECONDS
        recorder.record_requests(*batched([outcome()]))
    assert recorder.history.hour(now.at).requests in range(354, 361), "whole minutes"
    assert recorder.history.last(86400, now.at).requests in range(8_500, 8_641)
    assert all(len(steps) <= POINTS for steps in recorder.history._levels)


@pytest.mark.parametrize(
    ("age", "width", "points"),
    [
        *((0, 10, 6), (30, 10, 6), (300, 10, 31), (700, 10, 71)),
        *((720, 60, 13), (3600, 60, 61), (4 * 3600, 300, 49), (86390, 1200, 72), (10 * 86400, 1200, 72)),
    ],
)
def test_charts_begin_at_once_and_are_as_long_as_what_there_is(age: int, width: int, points: int) -> None:
    history = History()
    history.step(0.0)
    series = history.series(float(age), 0.0)
    assert (series.seconds_per_point, len(series.requests)) == (width, points)
    assert len(series.requests) == len(series.hit_rate) == len(series.p99_seconds) == len(series.errors)


@given(st.lists(st.floats(min_value=0.0, max_value=40_000.0), min_size=1, max_size=60))
def test_every_request_is_in_one_point_of_the_series_however_coarse(moments: list[float]) -> None:
    """What was counted in a fine step is added to the coarse ones once, when the fine step is over."""
    history, end = History(), max(moments)
    for moment in sorted(moments):
        history.step(moment).cache["hit"] += 1
    assert sum(history.series(end, 0.0).requests) == len(moments)
    assert history.last(86400, end).requests == len(moments)


def test_the_series_has_every_request_in_its_minute() -> None:
    history = History()
    for minutes, number in ((0, 3), (10, 5), (59, 2)):
        history.step(minutes * 60.0).cache["hit"] += number
    requests = history.series(59 * 60.0, 0.0).requests
    assert (requests[0], requests[10], requests[59]) == (3, 5, 2)
    assert sum(requests) == 10


def test_the_hit_rate_counts_cacheable_requests_only(recorder: StatusRecorder, now: Now) -> None:
    for cache in ("hit", "hit", "stale", "miss", "collapsed", "bypass", "none"):
        recorder.record_requests(*batched([outcome(cache)]))
    # The one that joined another caller's run needed none of its own.
    assert recorder.history.hour(now.at).hit_rate() == pytest.approx(4 / 5)


def test_what_brought_no_result_is_neither_hit_nor_miss(recorder: StatusRecorder, now: Now) -> None:
    # Refusals, errors and callers that left say nothing about the cache, whatever it was asked before.
    answered = [outcome("hit", status=200), outcome("hit", status=304)]
    others = [outcome("miss", status=status, reason="x") for status in (307, 403, 422, 499, 502, 503)]
    for batch in batched(answered + others):
        recorder.record_requests(batch)
    hour = recorder.history.hour(now.at)
    assert hour.hit_rate() == 1.0
    assert hour.cache["none"] == 6


def test_runs_that_fail_before_redash_makes_a_job_count_as_failed(recorder: StatusRecorder, now: Now) -> None:
    recorder.record_execution(ExecutionEnd("x", 7, "failure", 0.1, callers=1, runtime=0.0, ran=False))
    recorder.record_execution(ExecutionEnd("x", 7, "lost", 0.1, callers=1, runtime=0.0))
    assert recorder.queries[7].failures == recorder.history.hour(now.at).failures == 2


def test_a_refusal_is_no_run_and_no_failure(recorder: StatusRecorder, now: Now) -> None:
    """A client that may not run a query makes nothing fail: "Query runs" must not count it."""
    end = ExecutionEnd(
        "x", 7, "failure", 0.1, callers=1, runtime=0.0, ran=False, cause="upstream_refused", refused=True
    )
    recorder.record_execution(end)
    assert recorder.history.hour(now.at).executions == recorder.history.hour(now.at).failures == 0
    assert not recorder.incidents.failures


def test_refusals_and_errors_are_told_apart(recorder: StatusRecorder, now: Now) -> None:
    for status, reason in ((403, "forbidden"), (403, "forbidden"), (502, "upstream_error"), (499, "")):
        recorder.record_requests(*batched([outcome("none", status=status, reason=reason)]))
    hour, client = recorder.history.hour(now.at), recorder.clients["sales"]
    assert (hour.refused, hour.errors) == (client.refused, client.errors) == (2, 1)
    assert hour.reasons == recorder.reasons == {"forbidden": 2, "upstream_error": 1}
    assert recorder.history.series(now.at, now.at).refused[-1] == 2


def test_no_request_has_no_rate_and_no_latency() -> None:
    series = History().series(5000.0, 1400.0)
    assert set(series.hit_rate) == set(series.p50_seconds) == set(series.p99_seconds) == {None}


def test_a_moment_before_the_newest_step_counts_there() -> None:
    history = History()
    assert history.step(600.0) is history.step(540.0)


@given(st.lists(st.floats(min_value=0.00011, max_value=90), min_size=1, max_size=200))
def test_quantiles_are_within_a_bucket_of_the_truth(seconds: list[float]) -> None:
    recorder = StatusRecorder(lambda: 0.0)
    for one in seconds:
        recorder.record_requests(*batched([outcome(duration=one)]))
    estimate = recorder.history.hour(0.0).quantile(0.5)
    truth = sorted(seconds)[(len(seconds) + 1) // 2 - 1]
    ratio = BOUNDS[1] / BOUNDS[0] * 1.0001
    assert estimate is not None
    assert truth / ratio <= estimate <= truth * ratio


def test_quantiles_beyond_the_last_bound_stay_there() -> None:
    counts = [0] * len(BOUNDS) + [5]
    assert quantile(counts, 0.5) == pytest.approx(BOUNDS[-1])


def test_a_run_for_many_saves_all_but_one(recorder: StatusRecorder, now: Now) -> None:
    recorder.record_execution(ExecutionEnd("x", 7, "success", 3.0, callers=5, runtime=2.0))
    assert (recorder.saved_executions, recorder.saved_seconds) == (4, 8.0)
    assert recorder.queries[7].saved == recorder.history.hour(now.at).saved == 8.0
    assert recorder.queries[7].mean_runtime == 2.0


def test_a_result_from_redashs_own_cache_is_no_run(recorder: StatusRecorder) -> None:
    recorder.record_execution(ExecutionEnd("x", 7, "success", 3.0, callers=5, runtime=2.0, ran=False))
    assert sum(recorder.executions.values()) == recorder.saved_executions == 0


def test_a_stored_result_gives_the_runtime_before_the_first_run(recorder: StatusRecorder) -> None:
    recorder.record_requests(*batched([outcome(saved_runtime=4.0, saves_run=True)]))
    assert recorder.queries[7].mean_runtime == 4.0
    assert recorder.saved_seconds == 4.0


def test_job_polls_and_rejected_requests_do_not_count_for_a_query(recorder: StatusRecorder) -> None:
    recorder.record_requests(*batched([outcome("none", status=403, reason="forbidden")]))
    assert not recorder.queries
    assert recorder.clients["sales"].refused == recorder.refused == 1


def test_ad_hoc_sql_counts_as_one_query(recorder: StatusRecorder) -> None:
    recorder.record_requests(*batched([outcome("miss", query_id=None, route="/api/query_results")]))
    assert sum(recorder.queries[0].cache.values()) == 1


def test_any_response_of_redash_itself_shows_that_it_is_available(recorder: StatusRecorder, now: Now) -> None:
    recorder.record_upstream(call(500))
    assert (recorder.reached, recorder.unreached) == (now.at, None)
    now.at += 1
    recorder.record_upstream(call(502))
    recorder.record_upstream(call(0))
    assert recorder.unreached == now.at
    assert recorder.upstream_routes["/api/jobs/{job_id}"].errors == 2  # its own 500 is about one request only


def test_a_call_whose_caller_has_left_says_nothing_about_redash(recorder: StatusRecorder) -> None:
    recorder.record_upstream(UpstreamCall("/api/jobs/{job_id}", 0, 0.2, "reporting", True))
    assert (recorder.reached, recorder.unreached, recorder.accepted) == (None, None, {})


def test_a_response_of_a_proxy_says_nothing_about_the_key(recorder: StatusRecorder) -> None:
    recorder.record_upstream(call(404, accepted=False))
    recorder.record_upstream(call(503))
    assert recorder.accepted == {"reporting": False}


def test_a_full_table_drops_the_least_recently_seen() -> None:
    table: Table[str, ClientRow] = Table(ClientRow, most=20)
    for number in range(20):
        table[str(number)].seen = float(number)
    table["0"].seen = 100.0
    table["new"].seen = 101.0
    assert "0" in table
    assert "new" in table
    assert "1" not in table
    assert len(table) <= 20


def test_any_number_of_ids_takes_bounded_memory(recorder: StatusRecorder, now: Now) -> None:
    for number in range(3 * MOST_ROWS):
        now.at += 0.001
        recorder.record_requests(*batched([outcome("miss", query_id=number + 1, client=f"client {number}")]))
    assert len(recorder.queries) <= MOST_ROWS
    assert len(recorder.clients) <= MOST_ROWS
    assert recorder.requests == dict.fromkeys(CACHE, 0) | {"miss": 3 * MOST_ROWS}

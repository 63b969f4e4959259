"""The state that some recorded exchanges need beyond the seed: a job in a certain state, an older result, a scratch
object. Each preparation works through the sandbox's Python API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from gateway.sandbox import Sandbox
from gateway.sandbox.api_execute import store_result
from gateway.sandbox.jobs import Job

from .recorded import Exchange

Preparation = Callable[[Sandbox, Exchange], Awaitable[None]]

ADMIN, ANALYST = 1, 2


def job_id(exchange: Exchange) -> str:
    return exchange.target.partition("?")[0].rsplit("/", 1)[-1]


def start(sandbox: Sandbox, sql: str, *, id: str | None = None, query_id: int | None = None) -> Job:
    sql = sandbox.database.executed(sql, False)
    job = Job(sql, sandbox.database.hash_of(sql), 1, query_id, partial(store_result, sandbox.database))
    if id is not None:
        job.id = id
    return sandbox.jobs.start(job)


async def _run_text(sql: str, sandbox: Sandbox, exchange: Exchange) -> None:
    start(sandbox, sql)
    await sandbox.wait_idle()


async def queued(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.hold_queue()
    start(sandbox, "select 1 as waiting", id=job_id(exchange))


async def started(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.hold()
    start(sandbox, sandbox.sql_of(2), id=job_id(exchange))
    await sandbox.wait_executions(1)


async def finished(sandbox: Sandbox, exchange: Exchange) -> None:
    start(sandbox, "select 1 as done", id=job_id(exchange))
    await sandbox.wait_idle()


async def failed(sandbox: Sandbox, exchange: Exchange) -> None:
    start(sandbox, "select * from no_such_table", id=job_id(exchange))
    await sandbox.wait_idle()


async def cancelled(sandbox: Sandbox, exchange: Exchange) -> None:
    await started(sandbox, exchange)
    job = sandbox.jobs.get(job_id(exchange))
    assert job is not None
    sandbox.jobs.cancel(job)


async def _deleted_after_end(sandbox: Sandbox, exchange: Exchange) -> None:
    await finished(sandbox, exchange)
    job = sandbox.jobs.get(job_id(exchange))
    assert job is not None
    sandbox.jobs.cancel(job)


async def _slow_runs(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.hold()
    start(sandbox, sandbox.sql_of(2), query_id=2)
    await sandbox.wait_executions(1)


async def _slow_runs_and_is_old(sandbox: Sandbox, exchange: Exchange) -> None:
    _age(sandbox, 2, 30)
    await _slow_runs(sandbox, exchange)


async def _small_is_queued(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.hold_queue()
    start(sandbox, sandbox.sql_of(18), query_id=18)


def _age(sandbox: Sandbox, query_id: int, seconds: float) -> None:
    """Makes the newest result older; only before it is first read."""
    newest = sandbox.queries[query_id].latest_query_data_id
    assert newest is not None
    sandbox.database.results[newest].retrieved_at -= round(seconds * 1_000_000)


async def _aged(seconds: float, sandbox: Sandbox, exchange: Exchange) -> None:
    _age(sandbox, 18, seconds)


async def _expired_ttl(age: float, sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.database.expired_ttl = 60
    _age(sandbox, 18, age)


async def _result_with_id(query_id: int, sandbox: Sandbox, exchange: Exchange) -> None:
    """A result of the query with the id in the exchange."""
    wanted = int(exchange.target.rsplit("/", 1)[-1].split(".")[0].split("?")[0])
    sandbox.database._last_result_id = wanted - 1
    sandbox.add_first_result(query_id)


async def _scratch_query(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.add_query("Scratch", "select 1 as s", id=32, user_id=ANALYST, api_key="QUERY_KEY_32", is_draft=True)


async def _starred(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.database.starred["query", 1, ANALYST] = sandbox.database.now()


async def _new_key(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.edit_query(29, api_key="QUERY_KEY_29_NEW")


async def _renamed(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.edit_query(20, name="To be archived (renamed)")


async def _auto_limited(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.add_first_result(26)


async def _secret_group(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.database.add_group("Secret")


_WITHOUT_WIDGETS = frozenset(
    f"dashboards/{what}" for what in ("publish", "edit", "edit_no_version", "get_second_by_its_body_slug_legacy")
)


async def _boards(sandbox: Sandbox, exchange: Exchange, **more: Any) -> None:
    """The analyst's scratch dashboards 4 and 5, with the same name."""
    board = sandbox.database.add_dashboard("Scratch board", ANALYST)
    sandbox.database.add_dashboard("Scratch board", ANALYST)
    board.is_draft = False
    if exchange.name not in _WITHOUT_WIDGETS:
        sandbox.database.add_widget(board.id, None, "hello")
    if "edit_conflict" in exchange.name:
        board.version = 2
    if exchange.name == "dashboards/favorites":
        sandbox.database.starred["dashboard", board.id, ANALYST] = sandbox.database.now()
    if "public_scratch" in exchange.name:
        board.tokens.append(job_id(exchange))


async def _shared_sales(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.dashboard_token(1)


async def _visualization(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.database.add_visualization(1, "CHART", "V", id=39)


async def _schema(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.database.sources[2].schema_known = True


async def _schema_job(sandbox: Sandbox, exchange: Exchange) -> None:
    job = Job("", "schema", 2, None, partial(store_result, sandbox.database), id=job_id(exchange))
    sandbox.jobs.add(job)
    job.settle(3, result=sandbox.warehouse.schema())


async def _analyst_logged_in(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.state.sessions["SESSION_COOKIE_VALUE"] = ANALYST


async def _admin_key(sandbox: Sandbox, exchange: Exchange) -> None:
    """The recording has this key in two halves, before and after "Key "."""
    sandbox.database.users[ADMIN].api_key = "Yt7dFotrI7Ioa5PcU8bodlAkMFSTQUQXkFdleBEv"


async def _csrf(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.state.csrf = True


async def _usage(sandbox: Sandbox, exchange: Exchange) -> None:
    """An earlier request, for the log of events."""
    from .recorded import load, send

    await send(load("auth/user_key_header"), int(sandbox.url.rsplit(":", 1)[1]))


async def _no_widgets(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.database.widgets.clear()


async def _no_chart(sandbox: Sandbox, exchange: Exchange) -> None:
    del sandbox.database.visualizations[32]


async def _all_enabled(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.database.users[4].disabled_at = None


async def _query_of_the_toolbelt(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.database.add_query("tb", "select 1", 1, ANALYST, id=38)


async def _large5(sandbox: Sandbox, exchange: Exchange) -> None:
    sandbox.add_query("Large result 5 MB", "select id from orders order by id limit 25000", id=41)


_TOOLBELT_JOBS = {
    "plain": "15db4538-b546-4f3a-9581-397b269e9ca0",
    "param": "f62e6713-5377-4713-90e3-7e625bd43040",
    "failing": "c4570f55-3d9b-430e-8e90-9168bd20f107",
}


def _polls(which: str, *numbers: int) -> str:
    """Names of the exchanges in which redash-toolbelt polls its job."""
    job = _TOOLBELT_JOBS[which]
    return " ".join(f"toolbelt/refresh_query_{which}/{number:02d}_GET_api_jobs_{job}" for number in numbers)


def _table() -> dict[str, Preparation]:
    groups: list[tuple[Preparation, str]] = [
        (started, "jobs/dup_1_state jobs/running_state jobs/running_cancel jobs/running_resubmit_cancel"
         " jobs/cancel_dashboard_token jobs/cancel_viewer jobs/running_cancel_query_key jobs/running_cancel_nested"
         " jobs/running_cancel_nested_query_key"),
        (started, " ".join(f"jobs/job_started_{who}" for who in (
            "dashboard_token", "nested_other_query_query_key", "no_key", "other_user", "outsider", "query_key_flat",
            "query_key_nested", "user", "user_nested"))),
        (queued, "jobs/job_pending jobs/pending_cancel_outsider multiorg/acme_job_of_default"),
        (finished, "jobs/job_finished jobs/job_finished_head dashboards/public_token_job"),
        (_deleted_after_end, "jobs/job_finished_then_deleted"),
        (failed, "jobs/job_failed jobs/job_text_sqlerror execute/date_with_quote_job"),
        (cancelled, "jobs/job_running_cancelled jobs/job_running_cancelled_later jobs/cancel_dashboard_token_state"),
        (_slow_runs, "jobs/dup_2_admin_same jobs/dup_3_other_user jobs/dup_4_query_key jobs/dup_5_viewer"
         " jobs/dup_6_adhoc_same_text jobs/race_1 jobs/race_2 jobs/race_4 jobs/race_5"),
        (_slow_runs_and_is_old, "jobs/dup_7_max_age_1_inflight"),
        (_small_is_queued, "jobs/pending_dup jobs/pending_cached_minus1"),
        (partial(_result_with_id, 2), "jobs/finished_result_user jobs/finished_result_query_key_nested"
         " jobs/finished_result_query_key_flat time/slow_result_times"),
        (partial(_result_with_id, 18), "time/cleanup_before time/retrieved_at_format_0 time/retrieved_at_format_1"),
        (partial(_result_with_id, 1), "dashboards/public_token_result_byid dashboards/public_token_result_nested"),
        (partial(_aged, 2), "execute/max_age_1_stale"),
        (partial(_aged, 30), "time/age_30s_max_1"),
        (partial(_aged, 599), "time/age_599s_max_600"),
        (partial(_aged, 601), "time/age_601s_max_600"),
        (partial(_aged, -3600), "time/age_future_1h_max_minus_60"),
        (partial(_aged, 315_360_000), "time/age_10y_max_minus1"),
        (partial(_expired_ttl, 61), "time/expired_ttl_minus1_61s"),
        (partial(_expired_ttl, 1), "time/expired_ttl_minus1_fresh"),
        (_scratch_query, "queries/edit_api_key_ignored queries/edit_future_version queries/edit_no_version"
         " queries/edit_right_version queries/edit_stale_version queries/edit_string_version"),
        (_starred, "queries/favorites queries/favorites_q queries/list_with_favorite queries/favorite_remove"),
        (_new_key, "queries/regenerated_new_key queries/regenerated_old_key"),
        (_renamed, "results_get/archived_query_key"),
        (_auto_limited, "execute/autolimit_cached"),
        (_secret_group, "queries/secret_group_ds"),
        (_boards, " ".join(f"dashboards/{what}" for what in (
            "delete_by_id", "delete_by_slug", "edit", "edit_conflict", "edit_no_version", "favorite", "favorites",
            "fork", "get_after_widget", "get_second_by_its_body_slug_legacy", "get_second_by_real_slug_legacy",
            "public_scratch_a", "public_scratch_b_after_unshare", "publish", "share", "share_again", "unshare",
            "unshare_again", "unshare_third", "widget_add"))),
        (_shared_sales, "misc/host_header_dashboard misc/xfh_dashboard misc/xfh_unshare"),
        (_visualization, "misc/visualization_edit misc/visualization_delete"),
        (_schema, "misc/schema_again misc/schema_refresh multiorg/status"),
        (_schema_job, "misc/schema_job"),
        (_analyst_logged_in, "auth/session_cookie_login_no_key auth/session_cookie_login_and_wrong_key"
         " auth/session_cookie_login_and_query_key auth/session_cookie_login_and_other_users_key"
         " auth/session_cookie_login_restricted_and_query_key auth/logout"),
        (_admin_key, "auth/header_key_in_middle"),
        (_no_widgets, "seed/dashboard_publish_public seed/dashboard_publish_sales"),
        (_no_chart, "seed/query_publish_fast"),
        (_all_enabled, "seed/group_add_member_disabled"),
        (_large5, "seed/query_publish_large5"),
        (_query_of_the_toolbelt, "toolbelt/client_methods/14_POST_api_queries_38"),
        (partial(_result_with_id, 3), "toolbelt/refresh_query_param/04_GET_api_queries_3_results_95.json"),
        (partial(_result_with_id, 2), "toolbelt/refresh_query_plain/06_GET_api_queries_2_results_94.json"),
        (queued, _polls("plain", 2)),
        (started, f"{_polls('plain', 3, 4)} {_polls('param', 2)} {_polls('failing', 2)}"),
        (finished, f"{_polls('plain', 5)} {_polls('param', 3)}"),
        (failed, _polls("failing", 3)),
        (_csrf, "multiorg/csrf_post_no_key multiorg/csrf_post_with_key multiorg/csrf_post_wrong_key"),
        (_usage, "misc/events_admin"),
        (partial(_run_text, "select 101 as a"), "adhoc/cached_3600 adhoc/cached_absent adhoc/max_age_null"
         " adhoc/line_comment adhoc/trailing_semicolon adhoc/case_differs adhoc/two_statements"),
        (partial(_run_text, "select 'a b' as lit"), "adhoc/whitespace_in_literal_collides_2"),
    ]  # fmt: skip
    return {name: preparation for preparation, names in groups for name in names.split()}


PREPARATIONS = _table()

"""The exchanges that were recorded with other versions of Redash (`tests/recorded/versions/`), and the sandbox that
they are sent to: its version, the objects they name, and the state that some of them need.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.sandbox import Sandbox, parameter

from . import preparations
from .recorded import Exchange, load, names

VERSIONS = {"v8.0.0": "8", "v10.1.0": "10", "v25.1.0": "25", "v25.8.0": "25", "v26.3.0": "26"}
"""The recorded versions, and the version of the sandbox that speaks like them."""

PLAIN, NUMBER, ENUM, TEXT, MULTI, DROPDOWN, NEVER_RUN = 1, 2, 3, 4, 6, 12, 14
_ANALYST = 2

_TABLES = """
create table customers (id integer primary key, name text, country text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 12)
insert into customers select i, 'Customer ' || i, substr('DEFRUSGB', 1 + 2 * (i % 4), 2) from n;
create table numbers (g integer primary key);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) insert into numbers select i from n;
"""


def version_of(name: str) -> str:
    """The recorded version of an exchange."""
    return name.split("/")[1]


def version_names(version: str) -> list[str]:
    """The exchanges that were recorded with this version."""
    return names([f"versions/{version}"])


@asynccontextmanager
async def prepared(name: str) -> AsyncIterator[tuple[Sandbox, Exchange]]:
    """A running sandbox of the version that the exchange was recorded with, in the state that it needs."""
    exchange = load(name)
    async with recorded_redash(version_of(name)) as sandbox:
        preparation = _PREPARATIONS.get(name.rsplit("/", 1)[-1])
        if preparation is not None:
            await preparation(sandbox, exchange)
        yield sandbox, exchange


def recorded_redash(version: str) -> Sandbox:
    """Not started. The keys are the placeholders of the recording."""
    sandbox = Sandbox(samples=False, fill=_fill, redash=VERSIONS[version])
    sandbox.prepare()
    database = sandbox.database
    for name in ("Others", "More", "Analysts"):
        database.add_group(name)
    database.add_source("warehouse", {5: False})
    for name, groups in (("Admin", [1, 2, 5]), ("Analyst", [5]), ("Outsider", [2])):
        email = f"{name.lower()}@example.com"
        database.add_user(name, email, groups, api_key=f"USER_KEY_{name.upper()}", pending=True)
    _add_queries(sandbox)
    _add_late_queries(sandbox, version)
    _add_board(sandbox)
    return sandbox


def _fill(connection: sqlite3.Connection) -> None:
    connection.executescript(_TABLES)


def _add(sandbox: Sandbox, id: int, name: str, sql: str, *parameters: dict[str, Any], **more: Any) -> None:
    sandbox.add_query(
        name, sql, id=id, parameters=parameters, user_id=_ANALYST, data_source_id=1, api_key=f"QUERY_KEY_{id}", **more
    )


def _add_queries(sandbox: Sandbox) -> None:
    _add(sandbox, PLAIN, "Plain", "select id, name, country from customers order by id limit 10")
    number = {"name": "n", "title": "n", "type": "number", "value": 5}
    _add(sandbox, NUMBER, "Number", "select id, name from customers where id <= {{n}} order by id", number)
    country = {"name": "c", "title": "c", "type": "enum", "enumOptions": "DE\nFR\nUS", "value": "DE"}
    _add(sandbox, ENUM, "Enum", "select id, name from customers where country = '{{c}}' order by id", country)
    _add(sandbox, TEXT, "Text", "select '{{who}}' as who", parameter("who", "text", "me"))
    quoted = {"prefix": "'", "suffix": "'", "separator": ","}
    countries = {"name": "cs", "title": "cs", "type": "enum", "enumOptions": "DE\nFR\nUS"}
    several = {**countries, "multiValuesOptions": quoted, "value": ["DE", "FR"]}
    by_country = "select country, count(*) as c from customers where country in ({{cs}}) group by 1 order by 1"
    _add(sandbox, MULTI, "Multi", by_country, several)
    _add(sandbox, NEVER_RUN, "Never", "select 14 as never")
    chosen = parameter("c", "query", "1", queryId=NEVER_RUN)
    _add(sandbox, DROPDOWN, "Dropdown", "select '{{c}}' as c", chosen)


_LATE = {
    "v8.0.0": {"word": 164, "options": 165},
    "v10.1.0": {"word": 170, "options": 171, "limited": 172},
    "v25.8.0": {"word": 166, "options": 167, "limited": 168},
}
"""The ids of queries that were made later, by what they are for, where an exchange has them."""


def _add_late_queries(sandbox: Sandbox, version: str) -> None:
    ids = _LATE.get(version, {})
    words = parameter("w", "enum", "de", enumOptions="de\nDE")
    options = {"name": "x", "title": "x", "type": "enum", "enumOptions": ["A", "B"], "value": "A"}
    _add(sandbox, ids.get("word", 180), "Word", "select '{{w}}' as w, 1795680398 as st", words)
    _add(sandbox, ids.get("options", 181), "Enum list", "select '{{x}}' as x", options, is_draft=True)
    limited = {"apply_auto_limit": True}
    _add(sandbox, ids.get("limited", 182), "Limit", "select g from numbers where 1795680398>0", options=limited)


def _query_named(sandbox: Sandbox, name: str) -> int:
    return next(query.id for query in sandbox.queries.values() if query.name == name)


def _add_board(sandbox: Sandbox) -> None:
    database = sandbox.database
    board = database.add_dashboard("Sales Board", _ANALYST, is_draft=False, version=2)
    for row, query_id in enumerate((PLAIN, NUMBER, ENUM)):
        shown = database.visualizations_of(query_id)[0]
        database.add_widget(board.id, shown.id, "", _position(0, row))
    database.add_widget(board.id, None, "hello", _position(3, 0))


def _position(column: int, row: int) -> dict[str, Any]:
    return {"position": {"col": column, "row": row, "sizeX": 3, "sizeY": 3}}


# -- the state that exchanges need

Preparation = Callable[[Sandbox, Exchange], Awaitable[None]]


def _has_result(query: int | str, parameters: dict[str, Any] | None = None) -> Preparation:
    """The query, by id or name, has a result, with the id in the exchange if there is one."""

    async def prepare(sandbox: Sandbox, exchange: Exchange) -> None:
        wanted = re.search(r"results/(\d+)\.", exchange.target)
        if wanted is not None:
            sandbox.database._last_result_id = int(wanted[1]) - 1
        sandbox.add_first_result(query if isinstance(query, int) else _query_named(sandbox, query), parameters)

    return prepare


async def _upper_runs_after_lower(sandbox: Sandbox, exchange: Exchange) -> None:
    """'de' has a result; where letter case matters, 'DE' is being executed for somebody else."""
    word = _query_named(sandbox, "Word")
    sandbox.add_first_result(word, {"w": "de"})
    if not sandbox.version.hash_folds_case:
        sandbox.hold()
        preparations.start(sandbox, sandbox.sql_of(word, {"w": "DE"}))
        await sandbox.wait_executions(1)


async def _cancelled_in_queue(sandbox: Sandbox, exchange: Exchange) -> None:
    await preparations.queued(sandbox, exchange)
    job = sandbox.jobs.get(preparations.job_id(exchange))
    assert job is not None
    sandbox.jobs.cancel(job)


_PREPARATIONS: dict[str, Preparation] = {
    "autolimit_latest": _has_result("Limit"),
    "autolimit_option_result": _has_result("Limit"),
    "case_2_upper_after_lower": _has_result("Word", {"w": "de"}),
    "case_3_upper_query_key": _upper_runs_after_lower,
    "execute_max_age_600": _has_result(PLAIN),
    "execute_query_key_cached": _has_result(PLAIN),
    "job_cancelled": preparations.cancelled,
    "job_cancelled_while_queued": _cancelled_in_queue,
    "job_failed": preparations.failed,
    "job_finished": preparations.finished,
    "job_finished_query_key_nested": preparations.finished,
    "job_started": preparations.started,
    "param_latest_after_default": _has_result(NUMBER),
    "result_by_id_json": _has_result(PLAIN),
    "result_by_id_tsv": _has_result(PLAIN),
    "result_nested_query_key": _has_result(PLAIN),
    "results_latest_query_key": _has_result(PLAIN),
}

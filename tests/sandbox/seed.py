"""The Redash that the exchanges were recorded from, built through the sandbox's Python API: the same users, sources,
queries, boards and ids. Keys are the placeholders of the recording, so that requests can be sent as they are.
"""

from __future__ import annotations

import json
import sqlite3
from functools import cache
from typing import Any

from gateway.sandbox import Sandbox
from gateway.sandbox.objects import ADMIN_PERMISSIONS, Alert

from .recorded import ROOT, translated

TOKEN = "DASHBOARD_TOKEN_fa7ecd"
_RAN = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17, 18, 19, 20, 21, 22, 23, 27, 30, 31)
"""The queries with a result for their default values, in the order of their result ids 1, 2, 3 …"""

_TABLES = """
create table countries (code text, label text);
insert into countries values ('BR','Brasil'),('DE','Germany'),('FR','France'),('IN','India'),('JP','日本'),
                             ('US','United States');
create table customers (id integer primary key, name text, country text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 400)
insert into customers select i, 'Customer ' || i, substr('BRDEFRINJPUS', 1 + 2 * (i % 6), 2) from n;
create table orders (id integer primary key, customer_id integer, amount real, status text, ordered_on date,
                     placed_at datetime, note text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 1200)
insert into orders select 20506 + i, 1 + i % 400, round(i * 9.99, 2),
  case i % 4 when 0 then 'new' when 1 then 'paid' when 2 then 'shipped' else 'cancelled' end,
  date('2024-01-01', (i % 366) || ' days'), strftime('%Y-%m-%dT%H:%M:00', '2024-01-01', (i * 440) || ' minutes'),
  'order note ' || i from n;
create table t (id integer, s text, r real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 12)
insert into t select i, 'row' || (i - 1), (i - 1) / 2.0 from n;
create table odd (id integer);
"""


def _fill(connection: sqlite3.Connection) -> None:
    connection.executescript(_TABLES)


@cache
def _recorded_queries() -> list[tuple[int, int, dict[str, Any]]]:
    """(id, owner, body of the request) of each query of the seed."""
    found = []
    for file in (ROOT / "seed").glob("query_create_*.json"):
        recorded = json.loads(file.read_text())
        made = json.loads(recorded["response"]["body"])
        found.append((made["id"], made["user"]["id"], json.loads(recorded["request"]["body"])))
    return sorted((entry for entry in found if entry[0] < 32), key=lambda entry: entry[0])


@cache
def _odd() -> dict[str, Any]:
    body = json.loads(json.loads((ROOT / "execute/odd_cached_user.json").read_text())["response"]["body"])
    data: dict[str, Any] = body["query_result"]["data"]
    return data


def recorded_redash(slug: str | None = None, **more: Any) -> Sandbox:
    """Not started. `slug` for the instance with several organisations."""
    sandbox = Sandbox(samples=False, fill=_fill, slug=slug, **more)
    sandbox.prepare()
    _people(sandbox)
    for id, owner, made in _recorded_queries():
        options = made["options"]
        sandbox.add_query(
            made["name"],
            translated(made["query"]),
            id=id,
            data_source_id=made["data_source_id"],
            user_id=owner,
            options=options,
            tags=made.get("tags", []),
            description=made.get("description"),
            api_key=f"QUERY_KEY_{id}",
            is_draft=id == 21,
        )
    for id in _RAN:
        _first_result(sandbox, id)
    sandbox.edit_query(20, is_archived=True)
    _boards(sandbox)
    if slug is not None:
        _second_organisation(sandbox)
    return sandbox


def _first_result(sandbox: Sandbox, query_id: int) -> None:
    if query_id == 19:
        columns = [(column["name"], column["type"]) for column in _odd()["columns"]]
        sandbox.add_result(19, columns, _odd()["rows"])
    else:
        sandbox.add_first_result(query_id)


def _people(sandbox: Sandbox) -> None:
    database = sandbox.database
    database.add_group("Analysts")
    database.add_group("Viewers")
    pg = {"host": "127.0.0.1", "port": 15432, "user": "sample", "password": "sample-secret", "dbname": "sample"}
    database.add_source("Sample PG", {3: False, 4: True}, options=pg)
    database.add_source("Sample SQLite", {2: False}, type="sqlite", options={"dbpath": "/data/sample.sqlite"})
    database.add_source("Restricted PG", {}, options=pg)
    database.add_source("Query Results DS", {2: False}, type="results")
    for name, groups in (
        ("Ada Admin", [1, 2, 3]),
        ("Ben Analyst", [2, 3]),
        ("Cy Outsider", [2]),
        ("Di Disabled", [2, 3]),
        ("Vi Viewer", [2, 4]),
    ):
        short = name.split()[1]
        database.add_user(name, f"{short.lower()}@rr.test", groups, api_key=f"USER_KEY_{short.upper()}")
    database.users[4].disabled_at = database.now()


def _boards(sandbox: Sandbox) -> None:
    database = sandbox.database
    database.add_visualization(1, "CHART", "Chart", {"globalSeriesType": "column"}, id=32)
    for name, shown in (
        ("Sales Overview", (32, 3, None, 22)),
        ("Public Board", (1, 10, 4, 22, 6)),
        ("Draft Board", ()),
    ):
        draft = name == "Draft Board"
        board = database.add_dashboard(
            name, 1, is_draft=draft, tags=[] if draft else ["board"], version=1 if draft else 2
        )
        for row, visualization_id in enumerate(shown):
            position = {"position": {"col": 0, "row": row, "sizeX": 3, "sizeY": 3}}
            database.add_widget(board.id, visualization_id, "" if visualization_id else "# Just text", position)
    database.dashboards[2].tokens.append(TOKEN)
    now = database.now()
    options = {"column": "orders", "op": ">", "value": 1, "muted": False}
    database.alerts[1] = Alert(1, "Too many orders", 1, 1, options, now, now)


def _second_organisation(sandbox: Sandbox) -> None:
    database = sandbox.database
    database.orgs["acme"] = 2
    database.add_group("Secret")
    database.add_group("admin", ADMIN_PERMISSIONS, "builtin").org = 2
    database.add_group("default").org = 2
    database.add_user("Acme Root", "acme@rr.test", [6, 7], org=2, api_key="USER_KEY_ACME")

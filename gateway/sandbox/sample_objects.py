"""The sample objects of the shop: users, sources, queries with every kind of parameter, two dashboards, an alert."""

from __future__ import annotations

from typing import Any

from .database import Database
from .objects import Alert, Snippet
from .versions import Version

SHOP, BACK_OFFICE = 1, 2


def parameter(name: str, type: str, value: Any, **more: Any) -> dict[str, Any]:
    """A parameter definition as Redash's front-end writes it."""
    title = name.replace("_", " ").title()
    return {"name": name, "title": title, "type": type, "value": value, "global": False, "locals": [], **more}


_STATUSES = "new\npaid\nshipped\ncancelled"
_QUOTED = {"prefix": "'", "suffix": "'", "separator": ","}
_JOIN = "from orders o join customers c on c.id = o.customer_id"

_PERIOD = {"start": "2024-01-01", "end": "2024-12-31"}

QUERIES: tuple[tuple[str, str, str, list[dict[str, Any]]], ...] = (
    ("by_country", "Orders by country", f"select c.country, count(*) as orders, round(sum(o.amount), 2) as revenue\n"
     f"{_JOIN}\ngroup by 1 order by 1", []),
    ("revenue_by_month", "Revenue by month", "select substr(ordered_on, 1, 7) as month,"
     " round(sum(amount), 2) as revenue\nfrom orders where ordered_on between '{{ period.start }}' and"
     " '{{ period.end }}' group by 1 order by 1",
     [parameter("period", "date-range", _PERIOD)]),
    ("customers_in_city", "Customers in a city", "select city, count(*) as customers, min(name) as first_customer\n"
     "from customers where city = '{{ city }}' group by 1", [parameter("city", "text", "New York")]),
    ("city_enum", "Customers in one of two cities", "select city, count(*) as customers, max(name) as last_customer\n"
     "from customers where city = '{{ city }}' group by 1",
     [parameter("city", "enum", "New York", enumOptions="New York\nNewYork")]),
    ("in_country", "Orders in a country", "select c.city, count(*) as orders\n" + _JOIN
     + " where c.country = '{{ country }}' group by 1 order by 1",
     [parameter("country", "enum", "DE", enumOptions="DE\nFR\nGB\nJP\nBR\nUS")]),
    ("countries", "Country list (dropdown source)", "select code as value, label as name from countries"
     " order by code", []),
    ("dropdown", "Customers of a country (query dropdown)", "select country, count(*) as customers from customers"
     " where country = '{{ country }}' group by 1", [parameter("country", "query", "DE", queryId=0)]),
    ("multi", "Orders by statuses", "select status, count(*) as orders from orders where status in ({{ statuses }})"
     " group by 1 order by 1", [parameter("statuses", "enum", ["paid", "new"], enumOptions=_STATUSES,
                                          multiValuesOptions=_QUOTED)]),
    ("above", "Orders above an amount", "select id, amount from orders where amount > {{ min_amount }}"
     " order by amount, id limit 20", [parameter("min_amount", "number", 450)]),
    ("on_day", "Orders on a day", "select count(*) as orders from orders where ordered_on = '{{ day }}'",
     [parameter("day", "date", "2024-06-01")]),
    ("since", "Orders since a moment", "select count(*) as orders from orders where placed_at >= "
     "replace('{{ since }}', ' ', 'T')", [parameter("since", "datetime-local", "2025-06-01 08:00")]),
    ("between", "Orders between two moments", "select count(*) as orders from orders where placed_at between "
     "'{{ window.start }}' and '{{ window.end }}'",
     [parameter("window", "datetime-range", {"start": "2024-01-01T00:00", "end": "2024-01-02T00:00"})]),
    ("between_seconds", "Orders between two moments, to the second", "select count(*) as orders from orders where "
     "placed_at between '{{ window.start }}' and '{{ window.end }}'",
     [parameter("window", "datetime-range-with-seconds",
                {"start": "2024-01-01T00:00:00", "end": "2024-01-02T00:00:00"})]),
    ("at_second", "Orders until a second", "select count(*) as orders from orders where placed_at <= '{{ until }}'",
     [parameter("until", "datetime-with-seconds", "2024-03-01T12:00:00")]),
    ("pattern", "Product by code", "select '{{ code }}' as code, id, name from products where 'P' || id = '{{ code }}'",
     [parameter("code", "text-pattern", "P1", regex="P[0-9]+")]),
    ("slow", "Slow report", "select sleep(3) as slept, count(*) as orders from orders", []),
    ("slow_seconds", "Slow report, as slow as you like", "select sleep({{ seconds }}) as slept, count(*) as orders"
     " from orders", [parameter("seconds", "number", 1)]),
    ("failing", "A report that fails", "select * from no_such_table", []),
    ("no_data", "A statement without a result", "create temp table if not exists scratch (id integer)", []),
    ("large", "All order notes (5 MB)", "with recursive part(n) as (select 1 union all select n + 1 from part"
     " where n < 150)\nselect o.id + n * 1000000 as id, o.customer_id, o.amount, o.status, o.ordered_on,"
     " o.placed_at, o.note\nfrom part, (select * from orders order by id limit 1000) o limit 28000", []),
    ("kb100", "Latest orders (100 KB)", "select id, customer_id, amount, status, ordered_on, note from orders"
     " order by id limit 680", []),
    ("kb1", "First customers (1 KB)", "select id, name, country, city from customers order by id limit 9", []),
    ("empty", "No rows", "select id, amount from orders where 1 = 0", []),
    ("never_run", "Never executed", "select 7 as never_run_value", []),
    ("archived", "Archived report", "select 42 as answer", []),
    ("draft", "A draft", "select 1 as draft_value", []),
    ("undeclared", "Name without a definition", "select {{ x }} as x", []),
    ("now", "What time is it", "select now() as at, run_number() as run", []),
    ("section", "Orders, all or of one status", "select count(*) as orders from orders{{#status}} where status ="
     " '{{ status }}'{{/status}}", [parameter("status", "enum", "paid", enumOptions="\n" + _STATUSES)]),
    ("auto_limit", "Order numbers (automatic limit)", "select id from orders order by id", []),
    ("restricted", "Salaries by team", "select team, monthly from salaries order by team", []),
    ("analysts_own", "Products", "select id, name, category, price from products order by id", []),
)  # fmt: skip
_NEVER_RUN = frozenset({"failing", "no_data", "never_run", "undeclared", "dropdown"})


def populate(database: Database) -> dict[str, int]:
    """Makes everything except results. Returns the query ids by short name."""
    admin = _people(database)
    named = {short: _query(database, short, name, sql, parameters) for short, name, sql, parameters in QUERIES}
    dropdown = database.queries[named["dropdown"]]
    dropdown.options["parameters"][0]["queryId"] = named["countries"]
    database.queries[named["auto_limit"]].options["apply_auto_limit"] = True
    database.queries[named["by_country"]].tags = ["sales", "daily"]
    database.queries[named["revenue_by_month"]].tags = ["sales"]
    database.queries[named["slow"]].runtime = 3.004
    database.queries[named["draft"]].is_draft = True
    own = database.queries[named["analysts_own"]]
    own.user_id = own.last_modified_by = admin + 1
    for query in database.queries.values():
        database.rehash(query)
    _boards(database, named)
    now = database.now()
    database.alerts[1] = Alert(
        1, "Few orders", named["by_country"], 1, {"column": "orders", "op": "<", "value": 9}, now, now
    )
    database.snippets[1] = Snippet(1, "join", "Orders with customers", _JOIN, 1, now, now)
    return named


def has_first_result(short: str, version: Version) -> bool:
    """Whether this query has a result from the start."""
    return short not in _NEVER_RUN and (short != "pattern" or version.text_pattern)


def _people(database: Database) -> int:
    """admin, analyst (full access to the shop), viewer (view only), outsider; the back office is for admins."""
    analysts, viewers = database.add_group("Analysts").id, database.add_group("Viewers").id
    database.add_source(
        "Shop", {analysts: False, viewers: True}, options={"dbname": "shop", "password": "sample-secret"}
    )
    database.add_source("Back office", {1: False}, options={"dbname": "office", "password": "sample-secret"})
    admin = database.add_user("Ada Admin", "admin@shop.example", [1, 2, analysts], password="admin")
    database.add_user("Ben Analyst", "analyst@shop.example", [2, analysts], password="analyst")
    database.add_user("Vi Viewer", "viewer@shop.example", [2, viewers], password="viewer")
    database.add_user("Cy Outsider", "outsider@shop.example", [2], password="outsider")
    return admin.id


def _query(database: Database, short: str, name: str, sql: str, parameters: list[dict[str, Any]]) -> int:
    source = BACK_OFFICE if short == "restricted" else SHOP
    options = {"parameters": [dict(definition) for definition in parameters]}
    return database.add_query(name, sql, source, 1, options=options, is_draft=False).id


def _boards(database: Database, named: dict[str, int]) -> None:
    sales = database.add_dashboard("Sales overview", 1, is_draft=False, tags=["sales"])
    public = database.add_dashboard("Shop in numbers", 1, is_draft=False, tags=["public"])
    chart = database.add_visualization(named["revenue_by_month"], "CHART", "Chart", {"globalSeriesType": "column"})
    table = {v.query_id: v.id for v in database.visualizations.values() if v.type == "TABLE"}
    _place(database, sales.id, [table[named[short]] for short in ("by_country", "above", "restricted")] + [chart.id])
    database.add_widget(sales.id, None, "# How the shop does\nFigures of the last two years.", _position(4))
    _place(
        database, public.id, [table[named[s]] for s in ("by_country", "dropdown", "customers_in_city", "restricted")]
    )
    database.add_widget(public.id, None, "Updated whenever somebody looks.", _position(4))
    public.tokens.append(database.new_key())


def _place(database: Database, board_id: int, visualizations: list[int]) -> None:
    for row, visualization_id in enumerate(visualizations):
        database.add_widget(board_id, visualization_id, "", _position(row))


def _position(row: int) -> dict[str, Any]:
    return {"position": {"col": 0, "row": row, "sizeX": 3, "sizeY": 3}}

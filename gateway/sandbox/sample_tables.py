"""The sample tables: a shop with customers, products, orders and order lines, the same for the same seed and size."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing

COUNTRIES = (
    ("DE", "Germany", ("Berlin", "Hamburg", "Köln")),
    ("FR", "France", ("Paris", "Lyon")),
    ("GB", "United Kingdom", ("London", "Leeds")),
    ("JP", "日本", ("Tokyo", "Osaka")),
    ("BR", "Brasil", ("São Paulo", "Rio de Janeiro")),
    ("US", "United States", ("New York", "NewYork", "Chicago")),
)
"""Both 'New York' and 'NewYork' exist, with different customers: Redash's hash is the same for both (CONTRACT 7)."""

STATUSES = ("new", "paid", "shipped", "cancelled")
_PRODUCTS = (
    ("Desk lamp", "Office", 39.0),
    ("Standing desk", "Office", 489.0),
    ("Espresso machine", "Kitchen", 329.5),
    ("Teapot", "Kitchen", 24.9),
    ("Trail shoes", "Sports", 119.0),
    ("Yoga mat", "Sports", 29.95),
    ("Headphones", "Audio", 199.0),
    ("Turntable", "Audio", 279.0),
)
_GIVEN_NAMES = "Ada Ben Cleo Dora Emil Fay Gus Hana Ivo June Kai Lena Milo Nora Otis Pia"
_FAMILY_NAMES = "Abe Berg Costa Dias Evans Fuchs Green Hall Ito Jung Klein Lopez Meyer Nakata Olsen Park"
_GIVEN, _FAMILY = _GIVEN_NAMES.split(), _FAMILY_NAMES.split()

_TABLES = """
create table countries (code text primary key, label text);
create table customers (id integer primary key, name text, email text, country text, city text, signed_up_on date);
create table products (id integer primary key, name text, category text, price real);
create table orders (id integer primary key, customer_id integer, status text, ordered_on date, placed_at datetime,
                     amount real, note text);
create table order_lines (order_id integer, product_id integer, quantity integer, price real);
create table salaries (id integer primary key, team text, monthly real);
insert into salaries values (1, 'Warehouse', 3100.0), (2, 'Support', 3250.0), (3, 'Buying', 3900.0);
"""
# Days and minutes are formatted once and joined: date functions for every order would take half a second.
_CALENDAR = """
create temp table days as with recursive n(id) as (select 0 union all select id + 1 from n where id < 729)
    select id, date('2024-01-01', id || ' days') as day from n;
create temp table statuses (status text);
insert into statuses values ('new'), ('cancelled'), ('shipped'), ('shipped'), ('paid'), ('paid'), ('paid'), ('paid');
create temp table times as with recursive n(id) as (select 0 union all select id + 1 from n where id < 1439)
    select id, printf('T%02d:%02d:00', id / 60, id % 60) as time from n;
"""
_ORDERS = """
with recursive n(id) as (select 1 union all select id + 1 from n where id < :orders)
insert into orders
select n.id, 1 + (n.id * 7919 + :seed) % :customers, s.status, d.day, d.day || t.time,
       10 + (n.id * 7907 + :seed) % 49000 / 100.0,
       'order note ' || hex(n.id * 2654435761 % 999983) || hex(n.id * 40503 % 999979)
from n cross join days d on d.rowid = 1 + (n.id * 31 + :seed) * 7919 % 730
       cross join times t on t.rowid = 1 + (n.id * 104729 + :seed) % 1440
       cross join statuses s on s.rowid = 1 + n.id * 5 % 8
"""
_LINES = """
insert into order_lines
select o.id, p.id, 1 + (o.id + p.id) % 3, p.price
from orders o join products p on p.id in (1 + o.id % 8, 1 + (o.id * 5 + 3) % 8 * (o.id % 2))
"""


def filler(orders: int, seed: int) -> Callable[[sqlite3.Connection], None]:
    """The function for `Warehouse.build`: it copies the tables into a database without tables."""

    def fill(connection: sqlite3.Connection) -> None:
        with closing(sqlite3.connect(":memory:")) as made:
            made.deserialize(_made(orders, seed))
            made.backup(connection)

    return fill


_last: dict[tuple[int, int], bytes] = {}
"""The database that was made last, by its size and seed: tests start thousands of sandboxes with the same one."""


def _made(orders: int, seed: int) -> bytes:
    """A database with all tables, as bytes."""
    if (known := _last.get((orders, seed))) is not None:
        return known
    with closing(sqlite3.connect(":memory:")) as connection:
        with connection:
            _fill(connection, orders, seed)
        made = connection.serialize()
    _last.clear()
    _last[orders, seed] = made
    return made


def _fill(connection: sqlite3.Connection, orders: int, seed: int) -> None:
    """Make a tenth as many customers as orders."""
    customers = max(orders // 10, 200)
    connection.executescript(_TABLES)
    connection.executemany("insert into countries values (?, ?)", [country[:2] for country in COUNTRIES])
    connection.executemany("insert into customers values (?, ?, ?, ?, ?, ?)", _customers(customers, seed))
    connection.executemany(
        "insert into products values (?, ?, ?, ?)", [(i, *product) for i, product in enumerate(_PRODUCTS, 1)]
    )
    connection.executescript(_CALENDAR)
    connection.execute(_ORDERS, {"orders": orders, "customers": customers, "seed": seed * 97})
    connection.execute(_LINES)


def _customers(count: int, seed: int) -> list[tuple[int, str, str, str, str, str]]:
    pick = random.Random(seed)
    found = []
    for id in range(1, count + 1):
        given, family = _GIVEN[id % 16], _FAMILY[id // 16 % 16]
        code, _, cities = COUNTRIES[int(pick.random() * 6)]
        city = cities[int(pick.random() * len(cities))]
        day = f"20{20 + id % 4}-{1 + id % 12:02d}-{1 + id % 28:02d}"
        found.append((id, f"{given} {family} {id}", f"{given}.{family}{id}@example.com".lower(), code, city, day))
    return found

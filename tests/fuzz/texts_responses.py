"""Responses of Redash that are made to hurt: results, jobs, objects, and bytes that are no response at all.

The number of a query says which of them it gets, so that a request can be repeated.
"""

from __future__ import annotations

import functools
import gzip
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from . import texts_values
from .texts_values import text, value

HOSTILE: Final = 900_000
"""Queries, results, dashboards, users and sources from this id on exist only here."""

NARROW: Final = 4
"""So many of the first have keys of their own; what these get is large, and rendered by the gateway."""

ROW: Final = '{"n":1,"t":"2024-01-23T14:00:30","s":"a \\"text\\", with = signs"}'
KEY_LIKE: Final = "A1b2" * 10


class Reply(NamedTuple):
    """A response that an HTTP server can make."""

    status: int
    fields: dict[str, str]
    body: bytes


def _json(body: str) -> Reply:
    return Reply(200, {"Content-Type": "application/json"}, body.encode("utf-8", "surrogatepass"))


def reply(k: int, path: str, method: str) -> Reply | bytes:
    """The response to a request about hostile object `k`; bytes are sent as they are, before the connection closes."""
    if k >= NARROW and k % 10 == 8:
        return WRONG[k // 10 % len(WRONG)]
    if k >= NARROW and k % 10 == 9:
        return raw(k)
    if "/jobs/" in path:
        return job(k)
    if "result" not in path:
        return definition(k) if "/queries/" in path else metadata(k)
    if k >= NARROW and k % 11 == 0 and method == "POST":
        return job(k)
    made = result(k, reduced=k < NARROW and method == "POST")
    if k >= NARROW and k % 13 == 0:
        return Reply(200, {**made.fields, "Content-Encoding": "gzip"}, gzip.compress(made.body, 1))
    return made


# -- results


def rows(count: int, row: str) -> str:
    """The `data` of a result."""
    columns = ",".join(
        f'{{"name":"{name}","friendly_name":"{name}","type":{kind}}}'
        for name, kind in (("n", '"integer"'), ("t", '"datetime"'), ("s", "null"))
    )
    return f'{{"columns":[{columns}],"rows":[{",".join([row] * count)}]}}'


def _deep(depth: int, opening: str = "[", closing: str = "]") -> str:
    return rows(1, '{"n":' + opening * depth + "1" + closing * depth + "}")


def _sparse() -> str:
    columns = ",".join(f'{{"name":"c{n}","type":"date"}}' for n in range(2_000))
    return f'{{"columns":[{columns}],"rows":[{",".join(["{" + chr(34) + "c1" + chr(34) + ":true}"] * 3_000)}]}}'


def _long_names() -> str:
    return '{"columns":[' + ",".join(f'{{"name":"{"c" * n}"}}' for n in range(1, 900)) + '],"rows":[{}]}'


@functools.lru_cache(maxsize=20)
def data(k: int) -> str:
    """The `data` of a result, as JSON; the first four are those of query keys."""
    rng = random.Random(k)
    shapes: tuple[Callable[[], str], ...] = (
        lambda: rows(300_000, ROW),
        lambda: rows(150_000, '{"n":NaN,"t":"\\ud800","s":Infinity}'),
        lambda: _deep(200_000),
        _sparse,
        lambda: _deep(1_000),
        lambda: _deep(99, '{"a":', "}"),
        lambda: rows(5, '{"n":NaN,"t":-Infinity,"s":"\\ud800"}'),
        lambda: rows(3, '{"s":"' + "\\\\" * 100_000 + '"}'),
        lambda: rows(3, '{"s":"' + '\\"' * 200_000 + '"}'),
        _long_names,
        lambda: '{"columns":null,"rows":' + texts_values.array(["[]"] * 200_000) + "}",
        lambda: '{"columns":[1,null,{"name":[]}],"rows":{"a":1}}',
        lambda: value(rng),
        lambda: texts_values.wide(rng),
        lambda: rows(4_000, ROW),
        lambda: rows(60_000, ROW),
        lambda: rows(10, ROW),
        lambda: "{}",
        lambda: _deep(900 + k % 97),
    )
    return shapes[k % len(shapes)]()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def result(k: int, *, reduced: bool) -> Reply:
    """A result of query k; some are not what they should be."""
    rng, odd = random.Random(k * 7 + 1), k // 18 % 10 if k >= NARROW else 0
    sql, result_id, when, runtime, source = f"select {k}", str(HOSTILE + k), _now(), "0.1", "1"
    if odd == 1:
        sql = f"{sql} /* {text(rng, 600_000)} */"
    elif odd == 2:
        when = text(rng, 5_000)
    elif odd == 3:
        runtime = rng.choice(("1e400", "-1", '"x"', "9" * 5_000))
        result_id = rng.choice(("-1", "9" * 5_000, "9" * 25, "1" + "0" * 18, "1.5", "null", '"1"'))
    elif odd == 4:
        source = value(rng, 3_000)
    start, end = "", ""
    if not reduced:
        start = f'"id":{result_id},"query_hash":"{k:032x}","query":{json.dumps(sql)},'
        end = f'"data_source_id":{source},"runtime":{runtime},'
    body = f'{{"query_result":{{{start}"data":{data(k)},{end}"retrieved_at":{json.dumps(when)}}}}}'
    if odd == 5:
        body = body[: len(body) // 2]
    elif odd == 6:
        body = '{"query_result":null,' + body[1:-1] + "," + body[1:]
    elif odd == 7:
        body = body.replace('"retrieved_at":', '"x":"' + "\\u0041" * rng.choice((10, 100_000)) + '","retrieved_at":')
    return _json(body)


def job(k: int) -> Reply:
    """A job that fails with a text of any kind, never ends, or is none."""
    rng = random.Random(k)
    made = {
        "id": rng.choice((f"10f0dede-0a61-455b-ba85-{k:012d}", "x", "../../session", "x" * 5_000)),
        "status": rng.choice((1, 2, 3, 4, 4, 4, 9)),
        "error": rng.choice((text(rng), KEY_LIKE, f"key={KEY_LIKE}{'x' * 100_000}", text(rng, 3_000))),
        "updated_at": 0,
        "query_result_id": rng.choice((None, HOSTILE + k, [1], "x")),
    }
    return _json(json.dumps({"job": made}))


# -- objects


def definition(k: int) -> Reply:
    """A query object: mostly a plain one, so that its result is requested as well."""
    rng, odd = random.Random(k * 3), k % 7 if k >= NARROW else 1
    made: dict[str, Any] = {
        "id": HOSTILE + k,
        "name": f"Query {k}",
        "query": f"select {k}",
        "query_hash": f"{k:032x}",
        "updated_at": "2026-01-01T00:00:00Z",
        "data_source_id": 1,
        "latest_query_data_id": HOSTILE + k,
        "options": {"parameters": []},
        "tags": [],
        "api_key": KEY_LIKE,
    }
    if odd == 0:
        return _json(json.dumps(made)[:-1] + f',"{rng.choice(list(made))}":{value(rng)}}}')
    if odd == 2:
        parameters = [{"name": f"p{n}", "type": "number", "value": 1} for n in range(rng.choice((10, 2_000, 40_000)))]
        made["options"] = {"parameters": parameters}
        tag = rng.choice(("{{p1}}", "{{#p1}}", "{{/p1}}", "{{p", "/*"))
        made["query"] += " " + tag * rng.choice((10, 1_900, 60_000))
    elif odd == 3:
        made["query"] += text(rng)
    return _json(json.dumps(made))


def metadata(k: int) -> Reply:
    """An object of megabytes, deep, wide or plain."""
    rng = random.Random(k * 5)
    users = rng.choice((10, 20_000, 60_000))
    inner: tuple[Callable[[], str], ...] = (
        lambda: texts_values.array(["[]"] * rng.choice((1_000, 300_000, 1_500_000))),
        lambda: texts_values.nested(rng),
        lambda: value(rng),
        lambda: json.dumps([{"id": n, "name": "n" * 100, "api_key": KEY_LIKE} for n in range(users)]),
        lambda: '"' + "x" * rng.choice((1_000, 8_000_000, 33_600_000)) + '"',
    )
    return _json(f'{{"id":{HOSTILE + k},"x":{inner[k % 5]()}}}')


# -- what is wrong as a whole

REFUSAL: Final = json.dumps({"message": f"{KEY_LIKE} key={'x' * 50_000}"}).encode()
BOMB: Final = gzip.compress(b'{"query_result":{"data":{"columns":[],"rows":[' + b" " * 40_000_000, 9)
GZIP: Final = {"Content-Encoding": "gzip"}

WRONG: Final = tuple(
    Reply(status, {"Content-Type": "application/json", **fields}, body)
    for status, fields, body in (
        (500, {}, REFUSAL),
        (403, {}, REFUSAL),
        (404, {}, REFUSAL),
        (400, {}, REFUSAL),
        (400, {}, REFUSAL * 20),
        (429, {"Retry-After": "0"}, REFUSAL),
        (429, {"Retry-After": "1"}, REFUSAL),
        (429, {"Retry-After": "9" * 5_000}, REFUSAL),
        (204, {}, b""),
        (203, {}, b"{}"),
        (299, {}, b"{}"),
        (418, {}, b"x"),
        (302, {"Location": "/login"}, b""),
        (301, {"Location": "/api/queries?q=" + "%41" * 2_000}, b""),
        (200, {"Content-Type": "text/html"}, b"<html>"),
        (200, {"Content-Type": "x" * 8_000}, b"{}"),
        (200, {}, b""),
        (200, {}, b"null"),
        (200, {}, b"\xff\xfe"),
        (200, {}, b"[" * 1_000_000),
        (200, GZIP, b"no gzip"),
        (200, GZIP, BOMB),
        (200, GZIP, gzip.compress(b"{}")[:-4]),
        (200, {"Content-Encoding": "br"}, b"{}"),
        (200, {f"X-{n}": "x" for n in range(200)}, b"{}"),
        (200, {"X-Long": "x" * 20_000}, b"{}"),
        (200, {"Content-Disposition": "attachment; filename=" + "é" * 200}, b"{}"),
        (200, {"Date": "x", "Retry-After": "x"}, b"{}"),
        (503, {}, b"{}"),
        (504, {}, b"{}"),
        (502, {"Content-Type": "text/html"}, b"<html>"),
    )
)


def _framed(fields: bytes, body: bytes) -> bytes:
    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return b"%s%s\r\nContent-Length: %d\r\n\r\n%s" % (start, fields, len(body), body)


def raw(k: int) -> bytes:
    """Bytes that are no response, or a part of one, or one with odd fields."""
    start, body = b"HTTP/1.1 200 OK\r\n", rows(2_000, ROW).encode()
    good = result(k * 180 + NARROW, reduced=False).body
    pieces = (
        b"",
        start + b"Content-Length: 999999\r\n\r\n" + body,
        start + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n" + body,
        start + b"\r\n" + body,
        start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"\x00" * 50_000,
        b"HTTP/1.1 999 x\r\nContent-Length: 2\r\n\r\n{}",
        start + b"A: b\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000,
        start + b"Content-Length: 2\r\nContent-Type: application/json\r\n\r\n{}HTTP/1.1 200 OK\r\n",
        _framed(b'Content-Disposition: attachment; filename="\xff\xfe_2024_01_01.json"', good),
        _framed(b"Date: Mon, 01 Jan 0001 00:00:00 -0000\r\nContent-Disposition: \xe9; filename=x", good),
        _framed(b"Content-Encoding: gzip, gzip", b"{}"),
    )
    return pieces[k // 10 % len(pieces)]

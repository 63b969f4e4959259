"""A Redash in a process of its own: the sandbox, and for some ids responses that are made to hurt.

What attackers make in the sandbox is removed again, and its sample queries are restored, so that it can run for hours.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gzip
import json
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from gateway.sandbox import Sandbox

from . import hostile_texts

HOSTILE: Final = 900_000
"""Queries, results, dashboards, users and sources from this id on exist only here."""

KEPT_QUERY: Final = "kb1"
"""The query of the polite caller: nobody can edit it."""

RESTORE_SECONDS: Final = 5.0
MOST_RESULTS: Final = 400


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rows(count: int, row: str) -> str:
    return (
        '{"columns":[{"name":"n","friendly_name":"n","type":"integer"},{"name":"t","friendly_name":"t","type":"datetime"},{"name":"s","friendly_name":"s","type":null}],"rows":['
        + ",".join([row] * count)
        + "]}"
    )


_ROW: Final = '{"n":1,"t":"2024-01-23T14:00:30","s":"a \\"text\\", with = signs"}'


@functools.lru_cache(maxsize=64)
def data(k: int) -> str:
    """The `data` of a result, as JSON; the first four are those of query keys, and large."""
    rng = random.Random(k)
    shapes: tuple[Callable[[], str], ...] = (
        lambda: _rows(300_000, _ROW),
        lambda: _rows(150_000, '{"n":NaN,"t":"\\ud800","s":Infinity}'),
        lambda: _rows(1, '{"n":' + "[" * 200_000 + "]" * 200_000 + "}"),
        lambda: '{"columns":[' + ",".join('{"name":"c%d","type":"date"}' % i for i in range(2_000)) + '],"rows":[' + ",".join(['{"c1":"2024-01-01","c2":true}'] * 3_000) + "]}",
        lambda: _rows(1, '{"n":' + "[" * 1_000 + "]" * 1_000 + "}"),
        lambda: _rows(1, '{"n":' + '{"a":' * 99 + "1" + "}" * 99 + "}"),
        lambda: _rows(5, '{"n":NaN,"t":-Infinity,"s":"\\ud800"}'),
        lambda: _rows(3, '{"s":"' + "\\\\" * 100_000 + '"}'),
        lambda: _rows(3, '{"s":"' + '\\"' * 200_000 + '"}'),
        lambda: '{"columns":[' + ",".join('{"name":"%s"}' % ("c" * i) for i in range(1, 900)) + '],"rows":[{}]}',
        lambda: '{"columns":null,"rows":[' + ",".join(["[]"] * 200_000) + "]}",
        lambda: '{"columns":[1,null,{"name":[]}],"rows":{"a":1}}',
        lambda: hostile_texts.value(rng),
        lambda: hostile_texts.wide(rng),
        lambda: _rows(4_000, _ROW),
        lambda: _rows(60_000, _ROW),
        lambda: _rows(10, _ROW),
        lambda: "{}",
        lambda: _rows(1, '{"n":' + "[" * (900 + k % 97) + "]" * (900 + k % 97) + "}"),
    )  # fmt: skip
    return shapes[k % len(shapes) if k >= 4 else k]()


def result(k: int, *, reduced: bool) -> bytes:
    """A result of query k; some are not what they should be."""
    rng = random.Random(k * 7 + 1)
    sql, result_id, when, runtime, source = f"select {k}", str(HOSTILE + k), _now(), "0.1", "1"
    odd = k // 18 % 10 if k >= 4 else 0
    if odd == 1:
        sql = sql + " /* " + hostile_texts.text(rng, 600_000) + " */"
    elif odd == 2:
        when = hostile_texts.text(rng, 5_000)
    elif odd == 3:
        runtime, result_id = (
            rng.choice(("1e400", "-1", '"x"', "9" * 5_000)),
            rng.choice(("-1", "9" * 5_000, "9" * 25, "1" + "0" * 18, "1.5", "null", '"1"')),
        )
    elif odd == 4:
        source = hostile_texts.value(rng, 3_000)
    body = f'"data":{data(k)},"retrieved_at":{json.dumps(when)}'
    if not reduced:
        body = f'"id":{result_id},"query_hash":"{k:032x}","query":{json.dumps(sql)},"data":{data(k)},"data_source_id":{source},"runtime":{runtime},"retrieved_at":{json.dumps(when)}'
    whole = '{"query_result":{' + body + "}}"
    if odd == 5:
        whole = whole[: len(whole) // 2]
    elif odd == 7:
        whole = whole.replace('"retrieved_at":', '"x":"' + "\\u0041" * rng.choice((10, 100_000)) + '","retrieved_at":')
    elif odd == 6:
        whole = '{"query_result":null,' + whole[1:-1] + "," + whole[1:]
    return whole.encode("utf-8", "surrogatepass")


def job(k: int) -> bytes:
    """A job that fails with a text of any kind, never ends, or is none."""
    rng = random.Random(k)
    text = rng.choice(
        (hostile_texts.text(rng), "A1b2" * 10, "key=" + "A1b2" * 10 + "x" * 100_000, hostile_texts.text(rng, 3_000))
    )
    members = {
        "id": rng.choice(("10f0dede-0a61-455b-ba85-%012d" % k, "x", "../../session", "x" * 5_000)),
        "status": rng.choice((1, 2, 3, 4, 4, 4, 9)),
        "error": text,
        "updated_at": 0,
        "query_result_id": rng.choice((None, HOSTILE + k, [1], "x")),
    }
    return json.dumps({"job": members}).encode()


def definition(k: int) -> bytes:
    """A query object: mostly a plain one, so that its result is requested as well."""
    rng = random.Random(k * 3)
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
        "api_key": "A1b2" * 10,
    }
    odd = k % 7 if k >= 4 else 1
    if odd == 0:
        name = rng.choice(
            ("query", "name", "updated_at", "query_hash", "options", "tags", "id", "latest_query_data_id")
        )
        text = json.dumps(made)[:-1] + f',"{name}":{hostile_texts.value(rng)}' + "}"
        return text.encode("utf-8", "surrogatepass")
    if odd == 2:
        count = rng.choice((10, 2_000, 40_000))
        made["options"] = {"parameters": [{"name": f"p{i}", "type": "number", "value": 1} for i in range(count)]}
        made["query"] += " " + rng.choice(("{{p1}}", "{{#p1}}", "{{/p1}}", "{{p", "/*")) * rng.choice(
            (10, 19_000, 60_000)
        )
    elif odd == 3:
        made["query"] += hostile_texts.text(rng)
    return json.dumps(made).encode("utf-8", "surrogatepass")


def metadata(k: int) -> bytes:
    """An object of megabytes, deep, wide or plain."""
    rng = random.Random(k * 5)
    inner = (
        lambda: "[" + ",".join(["[]"] * rng.choice((1_000, 300_000, 1_500_000))) + "]",
        lambda: hostile_texts.nested(rng),
        lambda: hostile_texts.value(rng),
        lambda: json.dumps([{"id": i, "name": "n" * 100, "api_key": "A1b2" * 10} for i in range(rng.choice((10, 20_000, 60_000)))]),
        lambda: '"' + "x" * rng.choice((1_000, 8_000_000, 33_600_000)) + '"',
    )[k % 5]()  # fmt: skip
    return f'{{"id":{HOSTILE + k},"x":{inner}}}'.encode("utf-8", "surrogatepass")


class HostileRedash(Sandbox):
    """The sandbox, with the hostile responses before it."""

    def __init__(self) -> None:
        super().__init__(orders=2_000, workers=2)
        dispatched = self.dispatcher.handle
        self.dispatcher.handle = functools.partial(self._handle, dispatched)  # type: ignore[method-assign]
        self._first = {name: set(getattr(self.database, name)) for name in _TABLES}
        self._samples = {
            q.id: (q.query, q.name, json.dumps(q.options), list(q.tags), q.data_source_id)
            for q in self.queries.values()
        }

    async def _handle(
        self, dispatched: Callable[[web.BaseRequest], Any], request: web.BaseRequest
    ) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        found = re.search(r"/(\d{6,18})(?=[/.]|$)", path)
        if found is not None and HOSTILE <= int(found[1]) < HOSTILE + 10_000:
            await request.read()
            return await self._hostile(request, path, int(found[1]) - HOSTILE)
        if request.method != "GET" and re.search(
            r"settings|/users|/groups|/data_sources|/destinations|acl|regenerate", path
        ):
            await request.read()
            return web.json_response({"id": 1})
        if request.method != "GET" and re.fullmatch(rf"/api/queries/{self.named[KEPT_QUERY]}(/(?!results).*)?", path):
            return web.json_response({"message": "no"}, status=403)
        response: web.StreamResponse = await dispatched(request)
        return response

    async def _hostile(self, request: web.BaseRequest, path: str, k: int) -> web.StreamResponse:
        broken = _broken(k)
        if broken is not None:
            return await broken(request)
        if "/jobs/" in path:
            return _json(job(k))
        if "result" in path:
            if k >= 4 and k % 11 == 0 and request.method == "POST":
                return _json(job(k))
            body = result(k, reduced=k < 4 and request.method == "POST")
            if k >= 4 and k % 13 == 0:
                return web.Response(
                    body=gzip.compress(body, 1), content_type="application/json", headers={"Content-Encoding": "gzip"}
                )
            return _json(body)
        if re.fullmatch(r"/api/queries/\d+", path):
            return _json(definition(k))
        return _json(metadata(k))

    async def restore(self) -> None:
        """Forget again and again what attackers have made, and undo their edits."""
        while True:
            await asyncio.sleep(RESTORE_SECONDS)
            for name in _TABLES:
                table = getattr(self.database, name)
                for new in [n for n in table if n not in self._first[name]][:-20]:
                    del table[new]
            for query_id, (text, name, options, tags, source) in self._samples.items():
                query = self.queries.get(query_id)
                if query is not None and (query.query, query.name, query.data_source_id) != (text, name, source):
                    self.database.edit(
                        query,
                        {
                            "query": text,
                            "name": name,
                            "options": json.loads(options),
                            "tags": tags,
                            "data_source_id": source,
                            "is_archived": False,
                        },
                    )
            kept = {query.latest_query_data_id for query in self.queries.values()}
            for old in [result_id for result_id in self.database.results if result_id not in kept][:-MOST_RESULTS]:
                with contextlib.suppress(KeyError):
                    self.database.remove_result(old)
            finished = [job_id for job_id, one in self.jobs._jobs.items() if one.status >= 3]
            for job_id in finished[:-MOST_RESULTS]:
                del self.jobs._jobs[job_id]
            self.log.clear()


_TABLES: Final = ("queries", "visualizations", "dashboards", "widgets", "alerts", "snippets")


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _broken(k: int) -> Callable[[web.BaseRequest], Any] | None:
    """What is wrong with all responses about an id, None mostly."""
    if k < 4 or k % 10 < 8:
        return None
    made = json.dumps({"message": "A1b2" * 10 + " key=" + "x" * 50_000}).encode()
    bomb = gzip.compress(b'{"query_result":{"data":{"columns":[],"rows":[' + b" " * 40_000_000, 9)
    responses: tuple[tuple[int, dict[str, str], bytes], ...] = (
        (500, {}, made), (403, {}, made), (404, {}, made), (400, {}, made), (429, {"Retry-After": "0"}, made), (429, {"Retry-After": "1"}, made), (429, {"Retry-After": "9" * 5000}, made),
        (204, {}, b""), (203, {}, b"{}"), (299, {}, b"{}"), (418, {}, b"x"), (302, {"Location": "/login"}, b""), (301, {"Location": "/api/queries?q=" + "%41" * 2_000}, b""),
        (200, {"Content-Type": "text/html"}, b"<html>"), (200, {"Content-Type": "x" * 8_000}, b"{}"), (200, {}, b""), (200, {}, b"null"), (200, {}, b"\xff\xfe"), (200, {}, b"[" * 1_000_000),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"), (200, {"Content-Encoding": "gzip"}, bomb), (200, {"Content-Encoding": "gzip"}, gzip.compress(b"{}")[:-4]), (200, {"Content-Encoding": "br"}, b"{}"),
        (200, {f"X-{i}": "x" for i in range(200)}, b"{}"), (200, {"X-Long": "x" * 20_000}, b"{}"), (200, {"Content-Disposition": "attachment; filename=" + "é" * 200}, b"{}"), (200, {"Date": "x", "Retry-After": "x"}, b"{}"),
        (503, {}, b"{}"), (504, {}, b"{}"), (502, {"Content-Type": "text/html"}, b"<html>"),
    )  # fmt: skip
    if k % 10 == 9:
        return functools.partial(_raw, k)
    status, headers, body = responses[k // 10 % len(responses)]

    async def respond(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, headers={"Content-Type": "application/json", **headers}, body=body)

    return respond


def _framed(fields: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%s\r\nContent-Length: %d\r\n\r\n%s" % (
        fields,
        len(body),
        body,
    )


async def _raw(k: int, request: web.BaseRequest) -> web.StreamResponse:
    """Bytes that are no response, or a part of one."""
    body = _rows(2_000, _ROW).encode()
    pieces = (
        b"", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + body, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + body, b"HTTP/1.1 200 OK\r\n\r\n" + body,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"\x00" * 50_000, b"HTTP/1.1 999 x\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}HTTP/1.1 200 OK\r\n",
        _framed(b'Content-Disposition: attachment; filename="\xff\xfe_2024_01_01.json"\r\nDate: Mon, 01 Jan 0001 00:00:00 -0000', result(k * 180 + 4, reduced=False)),
        _framed(b"Date: Mon, 01 Jan 9999 23:59:59 -2359\r\nContent-Disposition: \xe9; filename=x", result(k * 180 + 4, reduced=False)),
        _framed(b"Content-Encoding: gzip, gzip", b"{}"),
    )  # fmt: skip
    if request.transport is not None:
        request.transport.write(pieces[k // 10 % len(pieces)])
        request.transport.close()
    return web.Response()


async def main(port: int) -> None:
    redash = HostileRedash()
    await redash.start(port=port)
    try:
        await redash.restore()
    finally:
        await redash.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    asyncio.run(main(parser.parse_args().port))

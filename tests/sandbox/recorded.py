"""Reads the recorded exchanges in `tests/recorded/`, sends them again byte for byte, and compares the responses."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent / "recorded"
FOLDERS = (
    "seed",
    "auth",
    "queries",
    "results_get",
    "execute",
    "jobs",
    "dashboards",
    "adhoc",
    "misc",
    "multiorg",
    "time",
    "toolbelt",
)
_EXACT = [
    "Server",
    "Connection",
    "Content-Type",
    "Cache-Control",
    "Vary",
    "Location",
    "X-Frame-Options",
    "X-XSS-Protection",
    "X-Content-Type-Options",
    "X-Download-Options",
    "Content-Security-Policy",
    "X-Content-Security-Policy",
    "Referrer-Policy",
    "Access-Control-Allow-Origin",
]

# The recording stores bodies as text; two of them were binary.
_BINARY = {
    "execute/body_gzip": gzip.compress(b'{"max_age": 0}', mtime=0),
    "execute/body_utf16": '{"max_age": 3600}'.encode("utf-16"),
}

# What stands for the middle of a long body in the recordings of other versions.
_CUT = " …cut… "
# Their recorder wrote the host of requests anew, but not the absolute redirects.
_PORT = re.compile(r"^http://127\.0\.0\.1:\d+/")

# SQL of PostgreSQL and its equivalent in SQLite.
_DIALECT = (("pg_sleep(3)::text", "sleep(3)"), ("pg_sleep(8)::text", "sleep(8)"))


def translated(text: str) -> str:
    for theirs, ours in _DIALECT:
        text = text.replace(theirs, ours)
    return text


@dataclass(frozen=True)
class Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes | None
    """None if the recording does not have all of it."""
    ends: tuple[str, str] = ("", "")
    """Beginning and end of a body that the recording has cut in the middle."""

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(frozen=True)
class Exchange:
    name: str
    method: str
    target: str
    headers: list[tuple[str, str]]
    content: bytes
    response: Response

    @property
    def raw(self) -> bytes:
        kept = [(key, value) for key, value in self.headers if key.lower() != "content-length"]
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{key}: {value}" for key, value in kept)]
        if self.content or self.method == "POST":
            lines.append(f"Content-Length: {len(self.content)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.content


def load(name: str) -> Exchange:
    recorded = json.loads((ROOT / f"{name}.json").read_text())
    request, response = recorded["request"], recorded["response"]
    target = request["path"] + (f"?{request['query']}" if request.get("query") else "")
    content = _BINARY.get(name) or translated(request.get("body") or "").encode()
    text = response.get("body")
    head, cut, tail = (text or "").partition(_CUT)
    whole = text is not None and not cut and not response.get("body_truncated")
    host = dict(request["headers"]).get("Host", "")
    headers = [(k, _PORT.sub(f"http://{host}/", v) if k == "Location" else v) for k, v in response["headers"]]
    received = Response(
        response["status"], headers, text.encode() if whole else None, (head, tail) if cut else ("", "")
    )
    return Exchange(name, request["method"], target, [(k, v) for k, v in request["headers"]], content, received)


def names(folders: Sequence[str] = FOLDERS) -> list[str]:
    """Every recorded exchange, by folder and name."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.json"))]
    found = [str(file.relative_to(ROOT).with_suffix("")) for file in files]
    return [name for name in found if "request" in json.loads((ROOT / f"{name}.json").read_text())]


async def send(exchange: Exchange, port: int) -> Response:
    """Uses a raw socket: client libraries would normalize targets and headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(exchange.raw)
        async with asyncio.timeout(10):
            response = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = [(key, value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    return Response(int(first.split()[1]), headers, body)


def differences(recorded: Response, ours: Response) -> list[str]:
    """The differences in kind as text; empty if there are none."""
    found = []
    if recorded.status != ours.status:
        found.append(f"status {recorded.status} recorded, {ours.status} ours: {(ours.body or b'')[:200]!r}")
    found += _header_differences(recorded, ours)
    if recorded.body is not None and not found:
        found += _body_differences(recorded, ours)
    if recorded.ends != ("", "") and not found:
        found += _end_differences(*recorded.ends, (ours.body or b"").decode())
    return found


def _end_differences(head: str, tail: str, ours: str) -> list[str]:
    """Compares the names of members, in order, before and after the cut."""
    first, last, mine = (re.findall(r'"(\w+)": ', text) for text in (head, tail, ours))
    same = mine[: len(first)] == first and mine[-len(last) :] == last
    return [] if same else [f"members {first}, {last} recorded, {mine} ours"]


def _header_differences(recorded: Response, ours: Response) -> list[str]:
    def pairs() -> Any:
        for name in _EXACT:
            yield name, recorded.header(name), ours.header(name)
        yield "Allow", *(set(",".join(r.header("Allow")).replace(" ", "").split(",")) for r in (recorded, ours))
        yield "Set-Cookie", *([_cookie(v) for v in r.header("Set-Cookie")] for r in (recorded, ours))
        yield "Content-Disposition", *([_undated(v) for v in r.header("Content-Disposition")] for r in (recorded, ours))
        yield "Date", *([re.sub(r"\d", "0", v)[4:8] for v in r.header("Date")] for r in (recorded, ours))
        for name in ("Content-Length", "ETag", "Last-Modified"):
            yield name, *(bool(r.header(name)) for r in (recorded, ours))

    return [f"{name}: {theirs!r} recorded, {mine!r} ours" for name, theirs, mine in pairs() if theirs != mine]


def _cookie(value: str) -> str:
    return re.sub(r"=[^;]*", "=…", value)


def _undated(value: str) -> str:
    return re.sub(r"\d{4}_\d\d_\d\d", "DATE", value)


def _body_differences(recorded: Response, ours: Response) -> list[str]:
    kind = (recorded.header("Content-Type") or [""])[0]
    if kind != "application/json":
        theirs, mine = _gist(recorded.body), _gist(ours.body)
        return [] if theirs == mine else [f"{kind}: {theirs!r} recorded, {mine!r} ours"]
    theirs, mine = _parsed(recorded.body), _parsed(ours.body)
    if recorded.status >= 400 and theirs != mine:
        return [f"error {theirs!r} recorded, {mine!r} ours"]
    if b'": ' in (recorded.body or b"") and b'":"' in (ours.body or b""):
        return ["separators"]
    return list(_shape_differences(theirs, mine, "$"))


def _gist(body: bytes | None) -> bytes:
    """The title of a page, otherwise the first line with its line ending: the column names of CSV and TSV."""
    title = re.search(rb"<title>(.*?)</title>", body or b"")
    return title[1] if title else (body or b"").partition(b"\n")[0]


def _parsed(body: bytes | None) -> Any:
    return json.loads(body) if body else None


# Values that may be null, depending on the state and not on the kind of the response.
_MAY_BE_NULL = frozenset(
    ["active_at", "last_triggered_at", "latest_query_data_id", "description", "retrieved_at", "runtime", "rearm"]
)

_MAY_BE_EMPTY = frozenset({"tags", "parameters"})


def _shape_differences(theirs: Any, mine: Any, where: str) -> Any:
    """Compares order of keys, types, kinds of list items and columns of rows."""
    key = where.rsplit(".", 1)[-1]
    if type(theirs) is not type(mine):
        if not (key in _MAY_BE_NULL and None in (theirs, mine)):
            yield f"{where}: {theirs!r:.80} recorded, {mine!r:.80} ours"
    elif isinstance(theirs, dict):
        if list(theirs) != list(mine):
            yield f"{where}: keys {list(theirs)} recorded, {list(mine)} ours"
        for name in theirs.keys() & mine.keys():
            yield from _shape_differences(theirs[name], mine[name], f"{where}.{name}")
    elif isinstance(theirs, list):
        yield from _list_differences(theirs, mine, where)


def _list_differences(theirs: list[Any], mine: list[Any], where: str) -> Any:
    if bool(theirs) != bool(mine) and where.rsplit(".", 1)[-1] not in _MAY_BE_EMPTY:
        yield f"{where}: {len(theirs)} items recorded, {len(mine)} ours"
    for index, item in enumerate(mine[:50]):
        best = min(
            (list(_shape_differences(other, item, f"{where}[{index}]")) for other in theirs[:50]), key=len, default=[]
        )
        yield from best

"""The recorded exchanges (tests/recorded) as clients would send them, and a server that plays Redash's part."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from .front import Seen, Stub

ROOT = Path(__file__).parent.parent / "recorded"
FOLDERS = ("auth", "queries", "results_get", "execute", "jobs", "dashboards", "adhoc", "misc")


@dataclass(frozen=True)
class Exchange:
    name: str
    method: str
    path: str
    query: str
    fields: tuple[tuple[str, str], ...]
    content: bytes
    status: int
    response: dict[str, str]
    body: bytes | None
    """None where the recording does not contain it whole."""
    at: float

    @property
    def raw(self) -> bytes:
        target = self.path + (f"?{self.query}" if self.query else "")
        fields = [f"{n}: {v}" for n, v in self.fields if n.lower() not in ("content-length", "connection")]
        if self.content or self.method in ("POST", "PUT"):
            fields.append(f"Content-Length: {len(self.content)}")
        return (
            "\r\n".join([f"{self.method} {target} HTTP/1.1", *fields, "Connection: close", "", ""]).encode()
            + self.content
        )

    @property
    def arguments(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def key(self) -> str:
        """The key where Redash looks for it (CONTRACT 1)."""
        arguments = [value for name, value in parse_qsl(self.query, keep_blank_values=True) if name == "api_key"]
        header = ", ".join(value for name, value in self.fields if name.lower() == "authorization")
        return arguments[0] if arguments else header.replace("Key ", "", 1)

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            return None


def _exchange(file: Path) -> Exchange | None:
    recorded = json.loads(file.read_text())
    if "request" not in recorded:
        return None
    request, response = recorded["request"], recorded["response"]
    fields = {name.lower(): value for name, value in response["headers"]}
    body: bytes | None = response["body"].encode() if response.get("body") is not None else None
    if response.get("body_base64"):
        body = base64.b64decode(response["body_base64"])
    if response.get("body_truncated") or "…cut…" in (response.get("body") or ""):
        body = None
    date = parsedate_to_datetime(fields["date"]).timestamp() if "date" in fields else 0.0
    content = {  # bodies that were not text
        "body_utf16": '{"max_age": 3600}'.encode("utf-16"),
        "body_gzip": gzip.compress(b'{"max_age": 0}', mtime=0),
    }.get(file.stem) or (request.get("body") or "").encode()
    pairs = tuple((name, value) for name, value in request["headers"])
    return Exchange(
        str(file.relative_to(ROOT).with_suffix("")),
        request["method"],
        request["path"],
        request.get("query") or "",
        pairs,
        content,
        response["status"],
        fields,
        body,
        date,
    )


@cache
def exchanges(*folders: str) -> tuple[Exchange, ...]:
    """Every exchange of these folders."""
    files = [file for folder in folders for file in sorted((ROOT / folder).glob("*.json"))]
    return tuple(found for found in map(_exchange, files) if found is not None)


@cache
def keys() -> frozenset[str]:
    """The keys that Redash knew, by their names in the recording."""
    found: set[str] = set()
    for file in ROOT.rglob("*.json"):
        found |= set(re.findall(r"\b(?:USER_KEY_[A-Z]+|QUERY_KEY_\d+|DASHBOARD_TOKEN_[0-9a-f]+)\b", file.read_text()))
    return frozenset(found)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if {"id", "query", "query_hash", "options", "updated_at", "data_source_id", "name"} <= value.keys():
            yield value
        for member in value.values():
            yield from _objects(member)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


@cache
def _catalogue() -> dict[int, list[tuple[float, dict[str, Any]]]]:
    """Every query object of the recording, by id, oldest first."""
    found: dict[int, list[tuple[float, dict[str, Any]]]] = {}
    for exchange in exchanges("seed", *FOLDERS, "time"):
        for item in _objects(exchange.json if exchange.status == 200 else None):
            found.setdefault(item["id"], []).append((exchange.at, item))
    return {query_id: sorted(seen, key=lambda pair: pair[0]) for query_id, seen in found.items()}


def definition(query_id: int, at: float) -> dict[str, Any] | None:
    """The query as the recording last showed it before that time."""
    seen = _catalogue().get(query_id, [])
    before = [item for moment, item in seen if moment <= at]
    return before[-1] if before else seen[0][1] if seen else None


SOURCES = {"USER_KEY_ANALYST": {1, 2, 4}, "USER_KEY_VIEWER": {1, 2}, "USER_KEY_OUTSIDER": {2}}
"""A user's data sources, put together from CONTRACT 2 and the recording's refusals; an admin has all."""

_NOT_FOUND = json.dumps(
    {
        "message": "The requested URL was not found on the server. If you entered the URL manually please check your"
        " spelling and try again."
    }
).encode()
_FORBIDDEN = json.dumps(
    {
        "message": "You don't have the permission to access the requested resource. It is either read-protected or not"
        " readable by the server."
    }
).encode()


class Playback:
    """Responds with what was recorded, and to the gateway's own requests from the recording's query objects."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.unexpected: list[str] = []

    def __call__(self, seen: Seen) -> Stub:
        x = self.exchange
        if self.is_recorded(seen):
            return self.recorded()
        if seen.method == "GET" and (found := re.fullmatch(r"/api/queries/(\d+)", seen.path)):
            return self._definition(int(found[1]), seen.key)
        if seen.path == "/api/session":
            return Stub.json({"client_config": {"version": "26.08.0-dev"}})
        if seen.method == "GET" and (found := re.fullmatch(r"/api/data_sources/(\d+)", seen.path)):
            return self._data_source(int(found[1]), seen.key)
        if seen.method == "GET" and "/jobs/" in seen.path and x.path.endswith("/schema"):
            return Stub.json({"job": {"id": "x", "updated_at": 0, "status": 3, "error": "", "result": []}})
        if seen.method == "GET" and "/jobs/" in seen.path:
            return Stub.json({"job": {"id": "x", "updated_at": 0, "status": 2, "error": "", "query_result_id": None}})
        if seen.method == "GET" and (rows := _rows_of(seen.path)) is not None:
            return Stub(200, rows)  # whose rows a file has is in the JSON of the same result
        if seen.method == "GET" and "/dashboards/" in seen.path:
            return Stub(404, _NOT_FOUND)
        self.unexpected.append(f"{seen.method} {seen.target} while {x.method} {x.path}?{x.query}")
        return Stub(404, _NOT_FOUND)

    def is_recorded(self, seen: Seen) -> bool:
        x = self.exchange
        if seen.method != x.method.replace("HEAD", "GET"):
            return False
        ours, theirs = _result(seen.path), _result(x.path)
        # In absolute-form the target has the host as well (RFC 9112 section 3.2.2).
        path = re.sub("^https?://[^/]+", "", x.path)
        return seen.path == path or (ours is not None and theirs is not None and ours[1] == theirs[1])

    def recorded(self) -> Stub:
        x = self.exchange
        if x.method == "HEAD":  # a recorded HEAD has no body; a GET of the same path has
            twins = (y for y in exchanges(*FOLDERS) if y.method == "GET" and y.path == x.path and y.status == x.status)
            x = next((y for y in twins if y.body), x)
        kept = ("content-type", "content-disposition", "location")
        fields = {name: x.response[name] for name in kept if name in x.response}
        return Stub(x.status, x.body if x.body is not None else b"{}", fields)

    def _definition(self, query_id: int, key: str) -> Stub:
        item = definition(query_id, self.exchange.at)
        if item is None:
            return Stub(404, _NOT_FOUND)
        if key in SOURCES and item["data_source_id"] not in SOURCES[key]:
            return Stub(403, _FORBIDDEN)
        if key.startswith("QUERY_KEY_") and key != f"QUERY_KEY_{query_id}":
            return Stub(404, _NOT_FOUND)
        return Stub.json(item)

    def _data_source(self, source_id: int, key: str) -> Stub:
        if key in SOURCES and source_id not in SOURCES[key]:
            return Stub(403, _FORBIDDEN)
        return Stub.json({"id": source_id, "name": "source", "paused": 0, "pause_reason": None})


def _rows_of(path: str) -> bytes | None:
    """The JSON of a result as the recording has it, None for other paths."""
    wanted = re.fullmatch(r"(?:/api/queries/(\d+)/results|.*/(?:query_)?results/(\d+))(?:\.json)?", path)
    if wanted is None:
        return None
    for exchange in exchanges("seed", *FOLDERS):
        found = exchange.json if exchange.status == 200 else None
        result = found.get("query_result") if isinstance(found, dict) else None
        if result is None or "id" not in result or exchange.body is None:
            continue  # a query key gets a part of it only
        if str(result.get("id")) == wanted[2] or (wanted[1] and exchange.path.startswith(f"/api/queries/{wanted[1]}/")):
            return exchange.body
    return None


def _result(path: str) -> tuple[str, str] | None:
    """What a result path requests, and in which form: the gateway may request it by another of its paths."""
    found = re.fullmatch(r"/api/(?:queries/\d+/results(?:/\d+)?|query_results/\d+)(?:\.(json|csv|tsv|xlsx))?", path)
    return (path, found[1] or "json") if found else None

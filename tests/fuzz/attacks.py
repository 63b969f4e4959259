"""Requests that are made to hurt: which bytes are sent, in which pieces, and how the response is read.

Everything is drawn from one random source, so that a seed and a number name an attack.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import quote

from gateway.redash.routes import ROUTES

from . import hostile_texts
from .redash import HOSTILE, KEPT_QUERY

Reading = Literal["all", "slowly", "a part", "nothing"]


@dataclass
class Attack:
    """What one attacker does with a connection."""

    label: str
    pieces: list[bytes]
    heads: list[bool] = field(default_factory=lambda: [False])
    """One for each response that must come: whether it is that to a HEAD. Empty: the connection may just close."""
    admin: bool = False
    pause: float = 0.0
    """Between pieces."""
    reading: Reading = "all"
    copies: int = 1
    """Connections that do the same at once; more than one just hold what they have sent for a while."""

    @property
    def sent(self) -> bytes:
        return b"".join(self.pieces)


@dataclass(frozen=True)
class Target:
    """What attackers know of the gateway: tokens by client, ids and names of the sandbox's queries."""

    tokens: dict[str, str]
    queries: dict[str, int]
    api: str
    admin: str


MOST_BODY: Final = 1_000_000
"""`server.max_request_body` of the fuzz."""

SQL: Final = (
    "select 1", "select now() as at, run_number() as run", "select sleep(0.05)", "select * from no_such_table",
    "select id, note from orders limit 20", "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) select i from n",
)  # fmt: skip

_PARAMETERS: Final = (
    "country",
    "city",
    "period",
    "statuses",
    "min_amount",
    "day",
    "since",
    "window",
    "until",
    "code",
    "seconds",
    "status",
    "x",
    "n",
    "d",
    "e",
    "t",
)
_FORMS: Final = ("json", "csv", "tsv", "xlsx")


class Attacker:
    """Draws attacks; the n-th one depends on seed and place only, and on the ids of jobs that were seen."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self.target = target
        self.rng = rng
        self.seen: list[str] = ["10f0dede-0a61-455b-ba85-243131c5b36e"]
        """Ids of jobs and results that came in responses."""
        self._kinds: list[Callable[[], Attack]] = []
        for weight, kind in (
            (12, self._route), (16, self._execute), (10, self._form), (8, self._adhoc), (6, self._edit), (8, self._result), (4, self._job),
            (8, self._admin), (8, self._head), (5, self._framing), (3, self._partial), (4, self._pipelined), (4, self._tokenless),
            (4, self._flood), (3, self._large), (10, self._from_hostile_redash), (2, self._unused), (1, self._swarm),
        ):  # fmt: skip
            self._kinds += [kind] * weight

    def next(self) -> Attack:
        """Draw one attack."""
        rng = self.rng
        attack = rng.choice(self._kinds)()
        if attack.heads and rng.random() < 0.08:
            attack.reading = rng.choice(("slowly", "a part", "nothing"))
        return attack

    # -- parts of requests

    def _choose(self, *options: str) -> str:
        return self.rng.choice(options)

    def _id(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.6:
            return str(rng.choice(list(self.target.queries.values())))
        if kind < 0.75:
            return str(HOSTILE + rng.randrange(400))
        if kind < 0.85:
            return str(rng.randrange(10**18))
        return quote(
            hostile_texts.text(rng, 8_000).encode("utf-8", "replace"),
            safe=rng.choice(("", "/%", "0123456789abcdef%/?&=")),
        )

    def _path(self, template: str) -> str:
        def part(found: re.Match[str]) -> str:
            name = found[1]
            if self.rng.random() < 0.1:
                return self._id()
            if name == "form":
                return self._choose(*_FORMS)
            if name == "job_id":
                return self.rng.choice(self.seen)
            if name == "dashboard":
                return self._choose(
                    "1", "2", "sales-overview", "shop-in-numbers", str(HOSTILE + self.rng.randrange(99))
                )
            if name == "result_id":
                return self.rng.choice([s for s in self.seen if s.isdecimal()] or ["1"])
            if name in ("token", "word", "table", "database"):
                return self._choose("t" * 40, "modify", "orders")
            return self._id()

        return re.sub(r"\{(\w+)\}", part, template)

    def _arguments(self, most: int = 7_000) -> str:
        rng, made = self.rng, []
        count = rng.choice((0, 0, 1, 2, 3, 5, 199, 200, 201)) if rng.random() < 0.7 else 0
        for _ in range(count):
            name = self._choose(
                "p_" + rng.choice(_PARAMETERS),
                "p_" + rng.choice(_PARAMETERS) + self._choose(".start", ".end", ""),
                "max_age",
                "q",
                "page",
                "page_size",
                "order",
                "tags",
                "api_key",
                "run",
                "legacy",
                hostile_texts.text(rng, 30),
            )
            value = hostile_texts.text(rng, max(1, most // count))
            made.append(f"{self._coded(name)}={self._coded(value)}")
        return ("?" + rng.choice("&&&;").join(made))[: most + 1] if made else ""

    def _coded(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        return quote(data, safe=self.rng.choice(("", "[]{}'*/:")))

    def _client(self) -> str:
        return self._choose("every", "every", "every", "reader", "reader", "bound", "narrow", "limited", "revealer")

    def _token_fields(self, client: str | None = None) -> tuple[str, list[str]]:
        """Return an argument ("" mostly) and header lines that bring a token."""
        rng = self.rng
        token = self.target.tokens[client or self._client()]
        kind = rng.randrange(12)
        if kind == 0:
            return f"api_key={token}", []
        if kind == 1:
            return "", [
                "Authorization: Basic "
                + base64.b64encode(
                    rng.choice(
                        (f"user:{token}", f"{token}:x", f"{'u' * hostile_texts.size(rng, 5000)}:{token}")
                    ).encode()
                ).decode()
            ]
        if kind == 2:
            return "", [
                "Authorization: "
                + self._choose("Basic ", "Key ", "Bearer ", "", "Digest ")
                + hostile_texts.text(rng, 8_300).replace("\n", " ").replace("\r", " ")
            ]
        line = (
            self._choose(
                "Authorization: Key ", "Authorization: Bearer ", "Authorization: ", "X-API-Key: ", "authorization:key "
            )
            + token
        )
        return "", [line] * rng.choice((1,) * 30 + (2,))

    def _more_fields(self) -> list[str]:
        rng, lines = self.rng, []
        for name, values in _FIELDS:
            if rng.random() < 0.08:
                given = rng.choice(values)
                lines.append(f"{name}: {given}")
        if rng.random() < 0.02:
            lines.append(
                f"{self._choose('Cookie', 'Accept', 'Referer', 'User-Agent', 'Prefer', 'If-None-Match', 'traceparent', 'tracestate', 'X-Request-ID', 'Accept-Encoding', 'Origin', 'Host', 'Range', 'Content-Type')}: {_one_line(hostile_texts.text(rng, 33_000))}"
            )
        return lines

    def _request(
        self,
        label: str,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        client: str | None = None,
        lines: Sequence[str] = (),
    ) -> Attack:
        """A whole request, sent at once or in odd pieces."""
        rng = self.rng
        argument, fields = self._token_fields(client)
        if argument:
            path += ("&" if "?" in path else "?") + argument
        fields = [*fields, *lines, *self._more_fields()]
        rng.shuffle(fields)
        coded = body is not None and rng.random() < 0.1
        if coded:
            fields.append("Transfer-Encoding: chunked")
        elif body is not None:
            fields.append(f"Content-Length: {len(body)}")
        host = [] if any(line.lower().startswith("host:") for line in fields) else ["Host: 127.0.0.1"]
        target = (
            path
            if rng.random() > 0.02
            else rng.choice(
                ("http://127.0.0.1", "HTTP://LOCALHOST:80", "http://evil.example", "http://[", "//", "*", "\\")
            )
            + path
        )
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *host, *fields, "", ""]).encode("latin-1", "replace")
        sent = self._chunks(body) if coded and body is not None else body or b""
        attack = Attack(label, [head + sent], [method == "HEAD"])
        if rng.random() < 0.12:
            attack.pieces, attack.pause = self._odd_pieces(head + sent), 0.001
        elif body and rng.random() < 0.2:
            attack.pieces = [head, sent]
        if "100-continue" in "".join(fields):
            attack.heads = []  # it may be refused or be slow; either is fine
        return attack

    def _chunks(self, body: bytes) -> bytes:
        rng, made, at = self.rng, [], 0
        while at < len(body) and len(made) < 2_000:
            count = rng.choice((1, 2, 7, 1_000, 65_536))
            piece = body[at : at + count] if len(made) < 1_999 else body[at:]
            at += len(piece)
            made.append(b"%x%s\r\n%s\r\n" % (len(piece), rng.choice((b"", b"", b"", b";a=b")), piece))
        return b"".join(made) + b"0\r\n\r\n"

    def _odd_pieces(self, data: bytes) -> list[bytes]:
        rng, made, at = self.rng, [], 0
        while at < len(data) and len(made) < 20:
            count = rng.choice((1, 3, 10, 100, 5_000))
            made.append(data[at : at + count])
            at += count
        return [*made, data[at:]]

    def _json_object(self, members: dict[str, str]) -> bytes:
        """An object of members whose values are JSON texts already."""
        rng = self.rng
        if rng.random() < 0.05:
            return hostile_texts.encoded(hostile_texts.value(rng), rng)
        if rng.random() < 0.1:
            members[hostile_texts.text(rng, 300)] = hostile_texts.value(rng, 20_000)
        made = "{" + ",".join(f"{hostile_texts.quoted(name, rng)}:{value}" for name, value in members.items()) + "}"
        if rng.random() < 0.04:
            made = made + " " * max(0, MOST_BODY + rng.choice((-1, 0, 1)) - len(made))
        return hostile_texts.encoded(made, rng)

    def _parameters(self, most: int) -> str:
        rng = self.rng
        count = rng.choice((0, 1, 1, 1, 2, 4)) if rng.random() < 0.97 else rng.choice((1_000, 20_000))
        names = rng.sample(_PARAMETERS, min(count, 6)) if count < 10 else [f"k{i}" for i in range(count)]
        values = (hostile_texts.value(rng, most) if count < 10 else "1" for _ in names)
        return "{" + ",".join(f'"{name}":{value}' for name, value in zip(names, values, strict=True)) + "}"

    def _max_age(self) -> str:
        return self._choose(
            "0",
            "0",
            "-1",
            "60",
            "3600",
            '"60"',
            "null",
            "1.5",
            "false",
            hostile_texts.number(self.rng),
            hostile_texts.value(self.rng, 3_000),
        )

    # -- kinds of attacks

    def _route(self) -> Attack:
        route = self.rng.choice(ROUTES)
        method = (
            route.method
            if self.rng.random() < 0.9
            else self._choose("HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT", "FOO")
        )
        if _touches_the_kept(route.template, method):
            return self._result()
        body = (
            hostile_texts.encoded(hostile_texts.value(self.rng), self.rng)
            if method not in ("GET", "HEAD") or self.rng.random() < 0.03
            else None
        )
        return self._request(f"{method} {route.template}", method, self._path(route.template) + self._arguments(), body)

    def _execute(self) -> Attack:
        members = {"parameters": self._parameters(self.rng.choice((40, 5_000, 900_000))), "max_age": self._max_age()}
        if self.rng.random() < 0.1:
            members["apply_auto_limit"] = hostile_texts.value(self.rng, 50)
        path = f"/api/queries/{self._id()}/results"
        lines = (
            [f"Prefer: wait={self._choose('0', '1', '2', '99999999999999999999', '-1', 'x')}"]
            if self.rng.random() < 0.2
            else []
        )
        return self._request(
            "execute",
            "POST",
            path + (self._arguments() if self.rng.random() < 0.1 else ""),
            self._json_object(members),
            lines=lines,
        )

    def _form(self) -> Attack:
        rng = self.rng
        names = rng.sample(_PARAMETERS, rng.choice((1, 1, 2, 3)))
        given = [
            f"p_{name}{self._choose('', '', '.start', '.end')}={self._coded(hostile_texts.text(rng, 2_400))}"
            for name in names
        ]
        given.append(f"max_age={self._coded(self._choose('0', '60', '3600', hostile_texts.text(rng, 2_000)))}")
        return self._request(
            "GET with parameters",
            self._choose("GET", "GET", "GET", "HEAD"),
            f"/api/queries/{self._id()}/results.{self._choose(*_FORMS)}?" + "&".join(given),
        )

    def _adhoc(self) -> Attack:
        rng = self.rng
        text = rng.choice(SQL) if rng.random() < 0.4 else hostile_texts.text(rng, 900_000)
        if rng.random() < 0.4:
            text += (
                " /* " + hostile_texts.text(rng, 50_000) + " */ '{{ x }}' {{#t}} 1 {{/t}}" * rng.choice((1, 10, 2_000))
            )
        members = {
            "query": hostile_texts.quoted(text, rng),
            "data_source_id": self._choose("1", "1", "1", "2", "99", '"1"', "1.0", hostile_texts.number(rng)),
            "max_age": self._max_age(),
        }
        if rng.random() < 0.5:
            members["parameters"] = self._parameters(rng.choice((40, 5_000, 400_000)))
        return self._request("free SQL", "POST", "/api/query_results", self._json_object(members), client="every")

    def _edit(self) -> Attack:
        """A query of the sandbox gets a hostile template or hostile options, or a new one is made."""
        rng = self.rng
        template = rng.choice(SQL) + " " + hostile_texts.text(rng, 300_000)
        if rng.random() < 0.5:
            template += "{{ " + rng.choice(_PARAMETERS) + " }}" + hostile_texts.text(rng, 1_000)
        parameters = [self._definition() for _ in range(rng.choice((0, 1, 2, 5, 300)))]
        options = '{"parameters":[' + ",".join(parameters) + '],"x":' + hostile_texts.value(rng, 1_000) + "}"
        members = {
            "query": hostile_texts.quoted(template, rng),
            "options": options if rng.random() < 0.9 else hostile_texts.value(rng, 50_000),
            "data_source_id": "1",
            "name": hostile_texts.quoted(hostile_texts.text(rng, 100_000), rng),
        }
        if rng.random() < 0.2:
            members["tags"] = (
                "[" + ",".join(hostile_texts.quoted(hostile_texts.text(rng, 300), rng) for _ in range(9)) + "]"
            )
        ids = [query_id for name, query_id in self.target.queries.items() if name != KEPT_QUERY]
        path = f"/api/queries/{rng.choice(ids)}" if rng.random() < 0.8 else "/api/queries"
        return self._request("edit", "POST", path, self._json_object(members), client="every")

    def _definition(self) -> str:
        rng = self.rng
        kind = self._choose(
            "text",
            "number",
            "enum",
            "query",
            "date",
            "date-range",
            "datetime-local",
            "datetime-range",
            "text-pattern",
            hostile_texts.text(rng, 30),
        )
        members = {
            "name": hostile_texts.quoted(
                rng.choice(_PARAMETERS) if rng.random() < 0.8 else hostile_texts.text(rng, 5_000), rng
            ),
            "type": hostile_texts.quoted(kind, rng),
            "value": hostile_texts.value(rng, 5_000),
        }
        if rng.random() < 0.5:
            members["enumOptions"] = hostile_texts.quoted(
                "\n".join(hostile_texts.text(rng, 100) for _ in range(rng.choice((1, 5, 2_000)))), rng
            )
        if rng.random() < 0.4:
            members["multiValuesOptions"] = (
                '{"separator":' + hostile_texts.value(rng, 50) + ',"prefix":' + self._choose('"\'"', '""', '"x"') + "}"
            )
        if rng.random() < 0.2:
            members |= {
                "regex": hostile_texts.quoted(rng.choice(("(a+)+$", "(a|a)*b", "[", ".*" * 50)), rng),
                "queryId": hostile_texts.number(rng),
            }
        return "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"

    def _result(self) -> Attack:
        template = self._choose(
            "/api/query_results/{result_id}.{form}",
            "/api/query_results/{result_id}",
            "/api/queries/{query_id}/results/{result_id}.{form}",
            "/api/queries/{query_id}/results.{form}",
            "/api/queries/{query_id}/results",
        )
        return self._request(
            "result",
            self._choose("GET", "GET", "GET", "HEAD"),
            self._path(template),
            lines=["Accept-Encoding: gzip"] if self.rng.random() < 0.4 else [],
        )

    def _job(self) -> Attack:
        template = self._choose("/api/jobs/{job_id}", "/api/queries/{query_id}/jobs/{job_id}")
        lines = [f"Prefer: wait={self._choose('1', '2', '0')}"] if self.rng.random() < 0.3 else []
        return self._request("job", self._choose("GET", "GET", "GET", "DELETE"), self._path(template), lines=lines)

    def _admin(self) -> Attack:
        rng = self.rng
        method, path = rng.choice(
            (
                ("GET", "/metrics"),
                ("GET", "/livez"),
                ("GET", "/readyz"),
                ("GET", "/"),
                ("GET", "/api/status"),
                ("GET", "/page.css"),
                ("GET", "/page.js"),
                ("POST", "/purge"),
                ("POST", "/purge"),
                ("POST", "/reload"),
                ("GET", "/" + self._id()),
                ("HEAD", "/metrics"),
                ("GET", "/events"),
            )
        )
        body = None
        if method == "POST" and path == "/purge":
            body = rng.choice(
                (
                    b'{"query": %d}' % rng.randrange(1, 10**9),
                    b'{"all": true}',
                    b'{"scope": "user"}',
                    hostile_texts.encoded(hostile_texts.value(rng), rng),
                    self._json_object({"query": hostile_texts.value(rng, 5_000)}),
                )
            )
        lines = (
            [
                f"Accept: {self._choose('application/openmetrics-text; version=' + hostile_texts.text(rng, 100), '*/*', 'application/openmetrics-text;version=1.0.0;q=0.5')}"
            ]
            if path == "/metrics" and rng.random() < 0.5
            else []
        )
        attack = self._request(
            f"admin {path[:20]}",
            method,
            path + (self._arguments() if rng.random() < 0.2 else ""),
            body,
            lines=[_one_line(line) for line in lines],
        )
        attack.admin = True
        if path == "/events":
            attack.heads, attack.reading = [], self.rng.choice(("a part", "nothing"))
        return attack

    def _head(self) -> Attack:
        """Heads that are too long, too many, or none."""
        rng = self.rng
        kind = rng.randrange(9)
        token = self._token_fields()[1]
        start = "GET /api/session HTTP/1.1\r\nHost: localhost\r\n" + "".join(line + "\r\n" for line in token)
        if kind == 0:
            start += "".join(
                f"X-{i}: {'v' * rng.choice((1, 100, 1_000))}\r\n"
                for i in range(rng.choice((50, 126, 127, 128, 129, 1_000, 5_000)))
            )
        elif kind == 1:
            start += "Cookie: " + "a=b; " * rng.choice((100, 1_630, 1_640, 10_000, 200_000)) + "\r\n"
        elif kind == 2:
            start = f"GET /{'a' * rng.choice((8_100, 8_180, 8_190, 8_200, 70_000, 1_000_000))} HTTP/1.1\r\nHost: localhost\r\n"
        elif kind == 3:
            start += "X" * rng.choice((100, 8_191, 9_000, 100_000)) + ": 1\r\n"
        elif kind == 4:
            start = f"{hostile_texts.text(rng, 9_000)} /ping HTTP/1.1\r\nHost: localhost\r\n"
        elif kind == 5:
            start = f"GET /ping HTTP/{self._choose('0.9', '1.0', '1.2', '2.0', '3', '11', '1.1 x', '9' * 5_000)}\r\nHost: localhost\r\n"
        elif kind == 6:
            start += hostile_texts.text(rng, 40_000) + "\r\n"
        elif kind == 7:
            start += f"Host: {self._choose('localhost', 'evil', '[' * 8_000, 'a' * 8_000, '')}\r\n"
        else:
            start = hostile_texts.text(rng, 100_000)
        return Attack("head", [(start + "\r\n").encode("utf-8", "surrogatepass")], [], admin=rng.random() < 0.25)

    def _framing(self) -> Attack:
        """Bodies whose end is uncertain."""
        rng = self.rng
        lines = rng.choice(
            (
                "Content-Length: 5\r\nContent-Length: 6",
                "Content-Length: -1",
                "Content-Length: 1_0",
                f"Content-Length: {'9' * 4_000}",
                "Content-Length: 99999999999999999999",
                "Transfer-Encoding: gzip, chunked",
                "Transfer-Encoding: chunked\r\nContent-Length: 5",
                "Transfer-Encoding: chunked, chunked",
                "Transfer-Encoding: xchunked",
                "Transfer-Encoding : chunked",
                "Expect: 100-continue\r\nContent-Length: 5",
                "Expect: x\r\nContent-Length: 5",
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x",
                "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
                "Connection: close",
                "Content-Encoding: gzip\r\nContent-Length: 5",
            )
        )
        body = rng.choice(
            (
                b"hello",
                b"5\r\nhello\r\n0\r\n\r\n",
                b"ffffffffffffffff\r\n",
                b"-5\r\nhello",
                b"0" * 70_000,
                b"5;" + b"a" * 70_000,
                b"0\r\n" + b"A: b\r\n" * 5_000 + b"\r\n",
                b"1\r\na\r\n" * 3_000,
                b"\x00" * 1_000,
            )
        )
        token = self.target.tokens["every"]
        head = (
            f"POST /api/queries/1/results HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token}\r\n{lines}\r\n\r\n"
        )
        return Attack("framing", self._odd_pieces(head.encode() + body), [], admin=rng.random() < 0.2, pause=0.001)

    def _partial(self) -> Attack:
        """A part of a request, and then nothing for a while."""
        whole = self._execute().sent
        cut = self.rng.randrange(len(whole)) if self.rng.random() < 0.5 else self.rng.randrange(min(60, len(whole)))
        return Attack("partial", [whole[:cut]], [], reading="nothing", admin=self.rng.random() < 0.2)

    def _pipelined(self) -> Attack:
        rng = self.rng
        token = self.target.tokens[self._client()]
        paths = [
            self._choose(
                "/ping",
                "/api/session",
                f"/api/queries/{self._id()}",
                f"/api/queries/{self.target.queries[KEPT_QUERY]}/results.json?max_age=3600",
                "/api/queries/1/results.csv",
                "/nothing",
            )
            for _ in range(3)
        ]
        count = rng.choice((2, 10, 33, 200, 3_000))
        requests = [
            f"GET {rng.choice(paths)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token}\r\n\r\n"
            for _ in range(count)
        ]
        sent = "".join(requests).encode("latin-1", "replace")
        attack = Attack("pipelined", [sent], [], reading=rng.choice(("all", "all", "a part", "nothing")))
        if rng.random() < 0.3:
            attack.pieces, attack.pause = self._odd_pieces(sent), 0.001
        return attack

    def _tokenless(self) -> Attack:
        """Bodies of callers that are not admitted."""
        rng = self.rng
        body = b"x" * max(1, hostile_texts.size(rng, MOST_BODY))
        token = rng.choice(("", "Authorization: Key rg_unknown\r\n", "X-API-Key: \r\n"))
        head = f"POST /api/queries/{self._id()}/results HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: {len(body) + rng.choice((0, 0, 1, 999_999))}\r\n\r\n"
        return Attack(
            "tokenless", [head.encode("latin-1", "replace"), body], [], reading=rng.choice(("all", "nothing"))
        )

    def _flood(self) -> Attack:
        """Many small runs, or refused requests, each with other values: what is kept of each must be bounded."""
        rng = self.rng
        token = self.target.tokens[self._choose("every", "reader", "narrow")]
        query = self._choose("above", "slow_seconds", "on_day", "pattern")
        size = rng.choice((10, 10, 3_000))
        requests = []
        for _ in range(rng.choice((30, 30, 300))):
            value = rng.randrange(10**9)
            parameters = {
                "above": {"min_amount": value},
                "slow_seconds": {"seconds": value / 10**10},
                "on_day": {"day": "2024-01-01"},
                "pattern": {"code": f"P{value}"},
            }[query]
            body = json.dumps(
                {"parameters": {**parameters, "unused": str(value) * size}, "max_age": rng.choice((0, 60))}
            ).encode()
            requests.append(
                f"POST /api/queries/{self.target.queries[query]}/results HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
        return Attack("flood", [b"".join(requests)], [False] * len(requests))

    def _large(self) -> Attack:
        """A result of megabytes, in every form, read in every way."""
        path = f"/api/queries/{self.target.queries['large']}/results.{self._choose(*_FORMS)}"
        attack = self._request(
            "large", "GET", path, client="every", lines=["Accept-Encoding: gzip"] if self.rng.random() < 0.5 else []
        )
        attack.reading = self.rng.choice(("all", "all", "slowly", "a part", "nothing"))
        return attack

    def _from_hostile_redash(self) -> Attack:
        """What only Redash's responses make dangerous: see `redash.py`."""
        rng = self.rng
        query_id = HOSTILE + rng.randrange(400)
        client = "narrow" if rng.random() < 0.4 else "every"
        if client == "narrow":
            query_id = HOSTILE + rng.randrange(4)
        kind = rng.randrange(5)
        if kind <= 1:
            return self._request(
                "hostile result",
                "POST",
                f"/api/queries/{query_id}/results",
                b'{"max_age": %d}' % rng.choice((0, 60, 3600)),
                client=client,
                lines=["Prefer: wait=2"],
            )
        if kind == 2:
            return self._request(
                "hostile file",
                "GET",
                f"/api/queries/{query_id}/results.{self._choose(*_FORMS)}?max_age={self._choose('0', '3600')}",
                client=client,
            )
        if kind == 3:
            return self._request(
                "hostile object",
                "GET",
                self._choose(
                    f"/api/queries/{query_id}",
                    f"/api/dashboards/{query_id}",
                    f"/api/data_sources/{query_id}",
                    f"/api/users/{query_id}",
                ),
                client=self._choose("every", "revealer"),
            )
        return self._request(
            "hostile id", "GET", f"/api/query_results/{query_id}.{self._choose(*_FORMS)}", client=client
        )

    def _swarm(self) -> Attack:
        """Many connections at once, each with a large part of a body."""
        rng = self.rng
        token = rng.choice(("", f"Authorization: Key {self.target.tokens['every']}\r\n"))
        length = rng.choice(("Content-Length: 999999", "Transfer-Encoding: chunked"))
        head = f"POST /api/queries/1/results HTTP/1.1\r\nHost: localhost\r\n{token}{length}\r\n\r\n".encode()
        size = rng.choice((10_000, 100_000, 990_000))
        body = (b"%x\r\n" % size if "chunked" in length else b"") + b"[" * size
        return Attack("swarm", [head + body], [], reading="nothing", copies=rng.choice((20, 60, 200)))

    def _unused(self) -> Attack:
        """A body near the limit whose parameters the query does not have."""
        query = self.rng.choice(list(self.target.queries.values()))
        value = (
            hostile_texts.quoted("u" * 900_000, self.rng) if self.rng.random() < 0.5 else hostile_texts.wide(self.rng)
        )
        return self._request(
            "unused parameter",
            "POST",
            f"/api/queries/{query}/results",
            b'{"max_age": 0, "parameters": {"unused": %s}}' % value.encode(),
        )


_FIELDS: Final = (
    ("Accept-Encoding", ("gzip", "identity", "gzip;q=0", "*;q=0.1", "br, gzip;q=1.0", "gzip;q=x")),
    ("If-None-Match", ("*", '"x"', 'W/"x"', "x, y, z")),
    ("Range", ("bytes=0-1", "bytes=-1", "bytes=5-", "bytes=0-0,2-3", "x")),
    ("Prefer", ("wait=1", "wait=0", "respond-async, wait=1", "wait=-1", "wait=1e9", "wait")),
    ("Origin", ("http://127.0.0.1", "https://evil.example", "null")),
    ("Connection", ("close", "keep-alive", "Upgrade", "x")),
    ("X-Request-ID", ("a", "a" * 200, "é")),
    ("traceparent", ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-0")),
    ("Expect", ("100-continue",)),
    ("Content-Type", ("application/json", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded")),
    ("Access-Control-Request-Method", ("POST",)),
    ("X-Forwarded-For", ("1.2.3.4",)),
)  # fmt: skip


def _one_line(text: str) -> str:
    return re.sub(r"[\r\n\0]", " ", text).encode("latin-1", "replace").decode("latin-1")


def _touches_the_kept(template: str, method: str) -> bool:
    """Whether a random id could change what the polite caller asks for, or who may ask."""
    return method != "GET" and bool(re.search(r"settings|/users|/groups|/data_sources|/pause|acl", template))

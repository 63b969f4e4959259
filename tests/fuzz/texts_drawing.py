"""Parts of requests, drawn from one random source: paths, arguments, tokens, fields, bodies, and how they are sent."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import quote

from . import texts_values
from .texts_responses import HOSTILE
from .texts_values import encoded, members, number, quoted, text, value

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

PARAMETERS: Final = (
    "country", "city", "period", "statuses", "min_amount", "day", "since", "window", "until", "code", "seconds",
    "status", "x", "n", "d", "e", "t",
)  # fmt: skip
FORMS: Final = ("json", "csv", "tsv", "xlsx")
FIELDS: Final = (
    ("Accept-Encoding", ("gzip", "identity", "gzip;q=0", "*;q=0.1", "br, gzip;q=1.0", "gzip;q=x")),
    ("If-None-Match", ("*", '"x"', 'W/"x"', "x, y, z")),
    ("Range", ("bytes=0-1", "bytes=-1", "bytes=5-", "bytes=0-0,2-3", "x")),
    ("Prefer", ("wait=1", "wait=0", "respond-async, wait=1", "wait=-1", "wait=1e9", "wait")),
    ("Origin", ("http://127.0.0.1", "https://evil.example", "null")),
    ("Connection", ("close", "keep-alive", "Upgrade", "x")),
    ("X-Request-ID", ("a", "a" * 200, "é")),
    ("traceparent", ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-0")),
    ("Expect", ("100-continue",)),
    ("Content-Type", ("application/json", "text/plain", "multipart/form-data; boundary=x")),
    ("Access-Control-Request-Method", ("POST",)),
    ("X-Forwarded-For", ("1.2.3.4",)),
)
LONG_FIELDS: Final = (
    "Cookie", "Accept", "Referer", "User-Agent", "Prefer", "If-None-Match", "traceparent", "tracestate",
    "X-Request-ID", "Accept-Encoding", "Origin", "Host", "Range", "Content-Type",
)  # fmt: skip
ODD_TARGETS: Final = (
    "http://127.0.0.1", "HTTP://LOCALHOST:80", "http://evil.example", "http://[", "//", "*", "\\",
)  # fmt: skip


class Drawing:
    """Draws parts of requests. What it draws depends on the random source, and on ids seen in responses."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self.target = target
        self.rng = rng
        self.seen: list[str] = ["10f0dede-0a61-455b-ba85-243131c5b36e"]
        """Ids of jobs and results that came in responses."""

    def choose(self, *options: str) -> str:
        return self.rng.choice(options)

    def id(self) -> str:
        """The id of a query, mostly."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.6:
            return str(rng.choice(list(self.target.queries.values())))
        if kind < 0.75:
            return str(HOSTILE + rng.randrange(400))
        if kind < 0.85:
            return str(rng.randrange(10**18))
        return quote(text(rng, 8_000).encode("utf-8", "replace"), safe=rng.choice(("", "/%", "0123456789abcdef%/?&=")))

    def path(self, template: str) -> str:
        """A path of the route table, filled with parts that are good mostly."""
        return re.sub(r"\{(\w+)\}", lambda found: self._part(found[1]), template)

    def _part(self, name: str) -> str:
        if self.rng.random() < 0.1:
            return self.id()
        if name == "form":
            return self.choose(*FORMS)
        if name == "job_id":
            return self.rng.choice(self.seen)
        if name == "dashboard":
            return self.choose("1", "2", "sales-overview", "shop-in-numbers", str(HOSTILE + self.rng.randrange(99)))
        if name == "result_id":
            return self.rng.choice([seen for seen in self.seen if seen.isdecimal()] or ["1"])
        if name in ("token", "word", "table", "database"):
            return self.choose("t" * 40, "modify", "orders")
        return self.id()

    def arguments(self, most: int = 7_000) -> str:
        """A query string, often none."""
        rng, made = self.rng, []
        count = rng.choice((0, 0, 1, 2, 3, 5, 199, 200, 201)) if rng.random() < 0.7 else 0
        for _ in range(count):
            parameter = "p_" + rng.choice(PARAMETERS) + self.choose(".start", ".end", "", "", "")
            others = ("max_age", "q", "page", "page_size", "order", "tags", "api_key", "run", "legacy")
            name = self.choose(parameter, parameter, *others, text(rng, 30))
            made.append(f"{self.coded(name)}={self.coded(text(rng, max(1, most // count)))}")
        return ("?" + rng.choice("&&&;").join(made))[: most + 1] if made else ""

    def coded(self, given: str) -> str:
        """Percent-encoded, more or less."""
        return quote(given.encode("utf-8", "surrogatepass"), safe=self.rng.choice(("", "[]{}'*/:")))

    def client(self) -> str:
        return self.choose("every", "every", "every", "reader", "reader", "bound", "narrow", "limited", "revealer")

    def credentials(self, client: str | None = None) -> tuple[str, list[str]]:
        """Return an argument ("" mostly) and header lines that bring a token."""
        rng, kind = self.rng, self.rng.randrange(12)
        token = self.target.tokens[client or self.client()]
        if kind == 0:
            return f"api_key={token}", []
        if kind == 1:
            pair = rng.choice((f"user:{token}", f"{token}:x", f"{'u' * texts_values.size(rng, 5_000)}:{token}"))
            return "", ["Authorization: Basic " + base64.b64encode(pair.encode()).decode()]
        if kind == 2:
            scheme = self.choose("Basic ", "Key ", "Bearer ", "", "Digest ")
            return "", [f"Authorization: {scheme}{one_line(text(rng, 8_300))}"]
        schemes = ("Authorization: Key ", "Authorization: Bearer ", "Authorization: ", "X-API-Key: ")
        return "", [self.choose(*schemes, "authorization:key ") + token] * rng.choice((1,) * 30 + (2,))

    def fields(self) -> list[str]:
        """Header lines that are known to change what a server does, and now and then a long one."""
        rng = self.rng
        lines = [f"{name}: {rng.choice(values)}" for name, values in FIELDS if rng.random() < 0.08]
        if rng.random() < 0.02:
            lines.append(f"{self.choose(*LONG_FIELDS)}: {one_line(text(rng, 33_000))}")
        return lines

    def request(
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
        argument, fields = self.credentials(client)
        if argument:
            path += ("&" if "?" in path else "?") + argument
        fields = [*fields, *lines, *self.fields()]
        rng.shuffle(fields)
        sent, framing = self._framed(body)
        host = [] if any(line.lower().startswith("host:") for line in fields) else ["Host: 127.0.0.1"]
        target = path if rng.random() > 0.02 else rng.choice(ODD_TARGETS) + path
        start = f"{method} {target} HTTP/1.1"
        head = "\r\n".join([start, *host, *fields, *framing, "", ""]).encode("latin-1", "replace")
        attack = Attack(label, [head + sent], [method == "HEAD"])
        if rng.random() < 0.12:
            attack.pieces, attack.pause = self.odd_pieces(head + sent), 0.001
        elif body and rng.random() < 0.2:
            attack.pieces = [head, sent]
        if "100-continue" in "".join(fields):
            attack.heads = []  # it may be refused or be slow; either is fine
        return attack

    def _framed(self, body: bytes | None) -> tuple[bytes, list[str]]:
        if body is None:
            return b"", []
        if self.rng.random() < 0.1:
            return self._chunks(body), ["Transfer-Encoding: chunked"]
        return body, [f"Content-Length: {len(body)}"]

    def _chunks(self, body: bytes) -> bytes:
        rng, at = self.rng, 0
        made: list[bytes] = []
        while at < len(body):
            count = rng.choice((1, 2, 7, 1_000, 65_536)) if len(made) < 2_000 else len(body)
            piece = body[at : at + count]
            at += len(piece)
            made.append(b"%x%s\r\n%s\r\n" % (len(piece), rng.choice((b"", b"", b"", b";a=b")), piece))
        return b"".join(made) + b"0\r\n\r\n"

    def odd_pieces(self, data: bytes) -> list[bytes]:
        """Cut data into pieces of any size."""
        made, at = [], 0
        while at < len(data) and len(made) < 20:
            count = self.rng.choice((1, 3, 10, 100, 5_000))
            made.append(data[at : at + count])
            at += count
        return [*made, data[at:]]

    def json_body(self, values: dict[str, str]) -> bytes:
        """A body of values that are JSON already; now and then with more in it, or something else."""
        rng = self.rng
        if rng.random() < 0.05:
            return encoded(value(rng), rng)
        if rng.random() < 0.1:
            values[text(rng, 300)] = value(rng, 20_000)
        made = members(values, rng)
        if rng.random() < 0.04:
            made += " " * max(0, MOST_BODY + rng.choice((-1, 0, 1)) - len(made))
        return encoded(made, rng)

    def parameters(self, most: int) -> str:
        """Values for parameters, as JSON."""
        rng = self.rng
        if rng.random() < 0.03:
            return members({f"k{n}": "1" for n in range(rng.choice((1_000, 20_000)))}, random.Random(1))
        names = rng.sample(PARAMETERS, rng.choice((0, 1, 1, 1, 2, 4)))
        return members({name: value(rng, most) for name in names}, rng)

    def max_age(self) -> str:
        """As JSON."""
        rng = self.rng
        return self.choose("0", "0", "-1", "60", "3600", '"60"', "null", "1.5", "false", number(rng), value(rng, 3_000))

    def definition(self) -> str:
        """A parameter as a query's options have it."""
        rng = self.rng
        kinds = ("text", "number", "enum", "query", "date", "date-range", "datetime-local", "datetime-range")
        name = rng.choice(PARAMETERS) if rng.random() < 0.8 else text(rng, 5_000)
        made = {
            "name": quoted(name, rng),
            "type": quoted(self.choose(*kinds, "text-pattern", text(rng, 30)), rng),
            "value": value(rng, 5_000),
        }
        if rng.random() < 0.5:
            options = [text(rng, 100) for _ in range(rng.choice((1, 5, 2_000)))]
            made["enumOptions"] = quoted("\n".join(options), rng)
        if rng.random() < 0.4:
            several = {"separator": value(rng, 50), "prefix": self.choose('"\'"', '""', '"x"')}
            made["multiValuesOptions"] = members(several, rng)
        if rng.random() < 0.2:
            made["regex"] = quoted(rng.choice(("a+", "[", "(", "P[0-9]{1,9}")), rng)
            made["queryId"] = number(rng)
        return members(made, rng)


def one_line(given: str) -> str:
    """A text that can be the value of a header line."""
    return re.sub(r"[\r\n\0]", " ", given).encode("latin-1", "replace").decode("latin-1")

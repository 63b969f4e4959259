"""Attacks with bytes that are no proper request, or with very many requests or connections at once."""

from __future__ import annotations

import json
from typing import Final

from . import texts_values
from .texts_drawing import MOST_BODY, Attack, Drawing
from .texts_redash import KEPT_QUERY
from .texts_values import text

FRAMINGS: Final = (
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: -1",
    "Content-Length: 1_0",
    "Content-Length: " + "9" * 4_000,
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
ODD_BODIES: Final = (
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
VERSIONS: Final = ("0.9", "1.0", "1.2", "2.0", "3", "11", "1.1 x", "9" * 5_000)


class RawAttacks(Drawing):
    """Draws such attacks."""

    def head(self) -> Attack:
        """Heads that are too long, too many, or none."""
        rng = self.rng
        token = "".join(line + "\r\n" for line in self.credentials()[1])
        start = f"GET /api/session HTTP/1.1\r\nHost: localhost\r\n{token}"
        many = "".join(
            f"X-{i}: {'v' * rng.choice((1, 100, 1_000))}\r\n" for i in range(rng.choice((50, 127, 129, 5_000)))
        )
        target = "a" * rng.choice((8_100, 8_180, 8_190, 8_200, 70_000, 1_000_000))
        hosts = ("localhost", "evil", "[" * 8_000, "a" * 8_000, "")
        heads = (
            start + many,
            start + "Cookie: " + "a=b; " * rng.choice((100, 1_630, 1_640, 10_000, 200_000)) + "\r\n",
            f"GET /{target} HTTP/1.1\r\nHost: localhost\r\n",
            start + "X" * rng.choice((100, 8_191, 9_000, 100_000)) + ": 1\r\n",
            f"{text(rng, 9_000)} /ping HTTP/1.1\r\nHost: localhost\r\n",
            f"GET /ping HTTP/{rng.choice(VERSIONS)}\r\nHost: localhost\r\n",
            start + text(rng, 40_000) + "\r\n",
            f"{start}Host: {rng.choice(hosts)}\r\n",
            text(rng, 100_000),
        )
        sent = (rng.choice(heads) + "\r\n").encode("utf-8", "surrogatepass")
        return Attack("head", [sent], [], admin=rng.random() < 0.25)

    def framing(self) -> Attack:
        """Bodies whose end is uncertain."""
        rng = self.rng
        start = "POST /api/queries/1/results HTTP/1.1\r\nHost: localhost\r\n"
        head = f"{start}Authorization: Key {self.target.tokens['every']}\r\n{rng.choice(FRAMINGS)}\r\n\r\n"
        pieces = self.odd_pieces(head.encode() + rng.choice(ODD_BODIES))
        return Attack("framing", pieces, [], admin=rng.random() < 0.2, pause=0.001)

    def pipelined(self) -> Attack:
        rng = self.rng
        kept = f"/api/queries/{self.target.queries[KEPT_QUERY]}/results.json?max_age=3600"
        paths = ("/ping", "/api/session", f"/api/queries/{self.id()}", kept, "/api/queries/1/results.csv", "/nothing")
        paths = rng.sample(paths, 3)
        token = self.target.tokens[self.client()]
        fields = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token}\r\n\r\n"
        requests = [f"GET {rng.choice(paths)} {fields}" for _ in range(rng.choice((2, 10, 33, 200, 3_000)))]
        sent = "".join(requests).encode("latin-1", "replace")
        attack = Attack("pipelined", [sent], [], reading=rng.choice(("all", "all", "a part", "nothing")))
        if rng.random() < 0.3:
            attack.pieces, attack.pause = self.odd_pieces(sent), 0.001
        return attack

    def tokenless(self) -> Attack:
        """Bodies of callers that are not admitted."""
        rng = self.rng
        body = b"x" * max(1, texts_values.size(rng, MOST_BODY))
        token = rng.choice(("", "Authorization: Key rg_unknown\r\n", "X-API-Key: \r\n"))
        length = len(body) + rng.choice((0, 0, 1, 999_999))
        start = f"POST /api/queries/{self.id()}/results HTTP/1.1\r\nHost: localhost\r\n"
        head = f"{start}{token}Content-Length: {length}\r\n\r\n".encode("latin-1", "replace")
        return Attack("tokenless", [head, body], [], reading=rng.choice(("all", "nothing")))

    def flood(self) -> Attack:
        """Many small runs, or refused requests, each with other values: what is kept of each must be bounded."""
        rng = self.rng
        token = self.target.tokens[self.choose("every", "reader", "narrow")]
        query, size = self.choose("above", "slow_seconds", "on_day", "pattern"), rng.choice((10, 10, 3_000))
        start = f"POST /api/queries/{self.target.queries[query]}/results HTTP/1.1\r\nHost: localhost\r\n"
        requests = []
        for _ in range(rng.choice((30, 30, 300))):
            drawn = rng.randrange(10**9)
            values: dict[str, dict[str, object]] = {
                "above": {"min_amount": drawn},
                "slow_seconds": {"seconds": drawn / 10**10},
                "on_day": {"day": "2024-01-01"},
                "pattern": {"code": f"P{drawn}"},
            }
            parameters = {**values[query], "unused": str(drawn) * size}
            body = json.dumps({"parameters": parameters, "max_age": rng.choice((0, 60))})
            requests.append(f"{start}Authorization: Key {token}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        return Attack("flood", [b"".join(requests)], [False] * len(requests))

    def swarm(self) -> Attack:
        """Many connections at once, each with a large part of a body."""
        rng, size = self.rng, self.rng.choice((10_000, 100_000, 990_000))
        token = rng.choice(("", f"Authorization: Key {self.target.tokens['every']}\r\n"))
        framing, before = rng.choice(
            (("Content-Length: 999999", b""), ("Transfer-Encoding: chunked", b"%x\r\n" % size))
        )
        head = f"POST /api/queries/1/results HTTP/1.1\r\nHost: localhost\r\n{token}{framing}\r\n\r\n".encode()
        return Attack("swarm", [head + before + b"[" * size], [], reading="nothing", copies=rng.choice((20, 60, 200)))

"""Texts and JSON that are made to hurt whoever parses them, of every size from nothing to just over a limit."""

from __future__ import annotations

import random
from typing import Final

LIMITS: Final = (1, 40, 100, 255, 4_096, 8_190, 16_384, 32_768, 65_536, 262_144, 1_000_000)
"""Sizes at which the gateway changes what it does; texts are made just under, at and just over them."""

REPEATED: Final = (
    "9", "[", "{", '{"a":', "/*", "/*a", "*/", "--", "'", '"', "\\", "`", "$", "$a$", ";", "(", "{{", "}}", "{{a}}",
    "{{ a }}", "{{#a}}", "{{^a}}", "{{/a}}", "{{#a}}{{/a}}", "{{{a}}}", "{{&a}}", "{{>a}}", "{{!a}}", "{{=<% %>=}}",
    "<%a%>", "{{.}}", "{{a.b}}", " ", "\t", "\n", "\r\n", ",", "a,", "a\n", "--a\n", "d_", ".", "-", "+", "%", "%25",
    "&", "=", "/", "//", "../", "?", "#", "\x00", "\x7f", "é", "𝒳", "\u202e", "ǅ", "ﬀ", "İ", "\u2028", "\ufeff",
    "\u0301", "\ud800", "\udfff", "rg_", "A1", "key=", "api_key=", "union select ", "''", "' or ", "E'\\'", "0x", "1e",
    "0.", "1 ", "2024-01-01", "2024-01-01 ", "T00:00:00", "00:", "null", "NaN",
)  # fmt: skip

WHOLE: Final = (
    "", "0", "-0", "-1", "1", "1.0", "1e400", "-1e400", "0x10", "1_000", "١٢", "²", "NaN", "Infinity", "null", "true",
    "d_now", "d_today", "d_last_7_days", "d_this_year", "d_yesterday", "2024-02-30", "2024-12-31", "2024-12-31 08:00",
    "2024-12-31T08:00:00.123456789Z", "9999-12-31", "0001-01-01", "2024-01-01--2024-12-31", "-1-01-01", "2024-W01-1",
    "20240101", "DE", "de", "paid", '["paid","new"]', "paid,new", "New York", "{{ country }}", "{{x", "x}}", "{{}}",
    "{{{}}}", "{{=}}", "{{= =}}", "{{#}}", "{{/}}", "__proto__", "constructor", "id", "P1", "a.b", ".start",
    "period.start", "' or 1=1 --", "1; drop table orders", "/*", "*/", "\x00", "\ud83d", "%00", "rg_" + "a" * 43,
    "A1b2" * 10, "=cmd|' /C calc'!A1",
)  # fmt: skip

DEPTHS: Final = (1, 2, 50, 99, 100, 101, 500, 990, 1_000, 3_000, 20_000, 200_000)
MOST: Final = 1_000_000


def size(rng: random.Random, most: int = MOST) -> int:
    """Mostly small, now and then next to one of the limits."""
    if rng.random() < 0.6:
        return rng.randrange(64)
    limits = [limit for limit in LIMITS if limit <= most] or [most]
    # The larger ones are rarer: one megabyte costs as much to send as a thousand small requests.
    limit = limits[min(int(rng.expovariate(0.35)), len(limits) - 1)]
    return max(0, limit + rng.choice((-1, 0, 1, -rng.randrange(limit + 1))))


def text(rng: random.Random, most: int = MOST) -> str:
    """One text: repeated, a well-known one, or both with something behind it."""
    if rng.random() < 0.35:
        return rng.choice(WHOLE)[:most]
    count = size(rng, most)
    piece = rng.choice(REPEATED)
    made = (piece * (count // len(piece) + 1))[:count]
    kind = rng.random()
    if kind < 0.3:
        made = made[:-1] + rng.choice("xA1'} \n*/")
    elif kind < 0.4:
        made += rng.choice(REPEATED) * min(count, most // 4)
    elif kind < 0.5:
        other = rng.choice(REPEATED)
        made = (piece + other) * (count // len(piece + other))
    return made[:most]


def number(rng: random.Random) -> str:
    """A number of JSON, or nearly one."""
    digits = rng.choice("0123456789") * max(1, size(rng, 20_000))
    made = (digits, "-" + digits, digits + ".5", "0." + digits, "1e" + digits[:300], digits + "x")
    return rng.choice((*made, "1", "0", "-1", "1.0", "NaN", "-Infinity"))


def quoted(value: str, rng: random.Random) -> str:
    """A JSON string; sometimes with everything escaped, or with raw control characters."""
    kind = rng.random()
    if kind < 0.1 and len(value) < 20_000:
        return '"' + "".join(f"\\u{ord(c) & 0xFFFF:04x}" for c in value) + '"'
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    if kind < 0.9 and not (escaped.isascii() and escaped.isprintable()):
        escaped = "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" else f"\\u{ord(c):04x}" for c in escaped)
    return f'"{escaped}"'


def nested(rng: random.Random) -> str:
    """JSON within JSON, closed or not."""
    depth = rng.choice(DEPTHS)
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]"), ("[1,", "]"), ('{"a":1,"a":', "}")))
    inner = rng.choice(("1", "[]", "{}", '"x"', ""))
    closed = depth if rng.random() < 0.8 else rng.randrange(depth)
    return opening * depth + inner + closing * closed


def wide(rng: random.Random) -> str:
    """JSON of very many small parts: it takes up to fifty times its length once it is parsed."""
    count = max(1, size(rng, 300_000) // 4)
    part = rng.choice(("[]", "{}", "0", '""', "null", '{"a":1}', "[[]]", "1.5", '"ab"'))
    if rng.random() < 0.3:
        return "{" + ",".join(f'"k{i}":{part}' for i in range(min(count, 40_000))) + "}"
    return "[" + ",".join([part] * count) + "]"


def value(rng: random.Random, most: int = 900_000) -> str:
    """Any JSON value, as text; or nearly one."""
    kind = rng.random()
    if kind < 0.45:
        return quoted(text(rng, most), rng)
    if kind < 0.65:
        return number(rng)
    if kind < 0.75:
        return nested(rng)
    if kind < 0.82:
        return wide(rng)
    if kind < 0.9:
        return array([quoted(text(rng, 200), rng) for _ in range(rng.randrange(6))])
    if kind < 0.95:
        return '{"start":' + value(rng, 2_000) + ',"end":' + value(rng, 2_000) + "}"
    return rng.choice(("null", "true", "false", "[]", "{}", '""', "tru", "'a'", "[,]", '{"a"}', ""))


def array(values: list[str]) -> str:
    """An array of values that are JSON already."""
    return "[" + ",".join(values) + "]"


def members(values: dict[str, str], rng: random.Random) -> str:
    """An object of values that are JSON already."""
    return "{" + ",".join(f"{quoted(name, rng)}:{value}" for name, value in values.items()) + "}"


def encoded(made: str, rng: random.Random) -> bytes:
    """As bytes: mostly UTF-8, sometimes another Unicode encoding, or none at all."""
    others = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1")
    coding = "utf-8" if rng.random() < 0.95 else rng.choice(others)
    return made.encode(coding, "surrogatepass" if coding.startswith("utf") else "replace")

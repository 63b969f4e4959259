"""Reads a request just far enough to look up its response: everything that the response depends on, as one value.

The parser is llhttp, as in aiohttp, and what is not plainly one whole request is left to aiohttp.
"""

from __future__ import annotations

from typing import Final

import httptools
from aiohttp import hdrs, web

from gateway.policy.access import TOKEN_FIELDS

MEANINGFUL: Final = (
    hdrs.HOST, *TOKEN_FIELDS, hdrs.ACCEPT_ENCODING, "Prefer", hdrs.IF_NONE_MATCH, hdrs.ORIGIN, "Sec-Fetch-Site",
    "Last-Event-ID", hdrs.ACCEPT, hdrs.RANGE, hdrs.IF_RANGE,
)  # fmt: skip
"""The header fields that a response can depend on. The normal path sees no others, so this list cannot be too short."""

LONGEST_REQUEST: Final = 8 * 1024
"""Longer requests are not looked up: the table is for many. No field of a shorter one is too long for aiohttp."""

MAX_HEAD_BYTES: Final = 32 * 1024
"""All fields of a request together."""

WHOLE: Final = 0
UNCERTAIN: Final = -1
"""The bytes are not plainly one request, or one whose end only aiohttp's parser knows."""
HEAD_MISSING: Final = -2

RequestKey = tuple[object, ...]
"""Everything in a request that its response depends on: equal keys mean equal responses, except the moving fields.

Request line, whether the connection stays open, body; then for each meaningful field its number and its value.
"""

END_OF_HEAD: Final = b"\r\n\r\n"
_MOST_FIELDS: Final = 100
_MOST_NAMES: Final = 1_000
_KEY_BYTES: Final = 600
_LONGEST_NAME: Final = 64
_LONGEST_LENGTH: Final = 15

# What a field is, by its lower-case name. Meaningful fields are numbered from 1.
_IGNORED: Final = 0
_LENGTH, _EXPECT, _UPGRADE, _REQUEST_ID, _TRACE, _ODD = range(100, 106)
_ONCE: Final = 200
"""From here on: those of which aiohttp refuses a second one."""

_SINGLE: Final = (
    hdrs.CONTENT_TYPE, hdrs.USER_AGENT, hdrs.CONTENT_LOCATION, hdrs.CONTENT_RANGE, hdrs.ETAG, hdrs.MAX_FORWARDS,
    hdrs.SERVER,
)  # fmt: skip

_PLACES: Final = {
    **{name.lower().encode(): number for number, name in enumerate(MEANINGFUL, 1)},
    **{name.lower().encode(): number for number, name in enumerate(_SINGLE, _ONCE)},
    b"content-length": _LENGTH,
    b"expect": _EXPECT,
    b"upgrade": _UPGRADE,
    b"x-request-id": _REQUEST_ID,
    b"traceparent": _TRACE,
    b"transfer-encoding": _ODD,
    b"sec-websocket-key1": _ODD,  # aiohttp refuses it
}
_SWITCHED: Final = (b"websocket", b"tcp")
"""Protocols that aiohttp changes to; it ignores a request for others, such as `h2c`."""


class _Places(dict[bytes, int]):
    """What a field is, by its name as it was written; new spellings are added, up to a number."""

    def __missing__(self, name: bytes) -> int:
        place = _PLACES.get(name.lower(), _IGNORED)
        if len(self) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
            self[name] = place
        return place


_places: Final = _Places()


def request_key(request: web.BaseRequest, body: bytes) -> RequestKey:
    """Return the key of a request that aiohttp has parsed; () if it is too long to be looked up."""
    parts: list[object] = []
    for name, value in request.raw_headers:
        place = _places[name]
        if _IGNORED < place < _LENGTH:
            parts += place, value
    major, minor = request.version
    line = f"{request.method} {request.raw_path} HTTP/{major}.{minor}".encode("utf-8", "surrogateescape")
    key = (line, request.keep_alive, body, *parts)
    return key if length_of(key) <= LONGEST_REQUEST else ()


def length_of(key: RequestKey) -> int:
    """Return the number of bytes in it."""
    return sum(len(part) for part in key if isinstance(part, bytes))


class RequestReader:
    """Reads one request at a time; the attributes are those of the request that was read last."""

    __slots__ = (
        "_by_bytes",
        "_bytes",
        "_complete",
        "_keeps_open",
        "_length",
        "_limit",
        "_odd",
        "_once",
        "_parser",
        "_parts",
        "_upgrades",
        "expects",
        "is_remembered",
        "key",
        "request_id",
        "traces",
    )  # fmt: skip

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes`: how much memory the requests may take that `remember` keeps."""
        self.key: RequestKey = ()
        """Of the last request that was WHOLE; () for one that is too long."""
        self._limit = limit_bytes
        self._by_bytes: dict[bytes, RequestKey | int] = {}  # of heads alone: how many bytes of body follow
        self._bytes = 0
        self._clear()
        self._parser = httptools.HttpRequestParser(self)

    def _clear(self) -> None:
        self._complete = self._upgrades = self._odd = False
        self._parts: list[object] = []
        self._length, self._once = b"", 0
        self._keeps_open = True
        self.expects = False
        """Whether the caller waits for 100 (Continue) before it sends the body."""
        self.is_remembered = False
        self.request_id: bytes | None = None
        self.traces: list[bytes] | None = None

    def read(self, data: bytes) -> int:
        """Read what has come of a request.

        Returns:
            WHOLE, the number of bytes that are missing of the body, HEAD_MISSING or UNCERTAIN.
        """
        if (known := self._by_bytes.get(data)) is not None:
            self.is_remembered = True
            self.request_id = self.traces = None
            if isinstance(known, int):
                self.expects = False
                return known
            self.key = known
            return WHOLE
        self._clear()
        found = self._parse(data)
        if found != WHOLE or self._upgrades or not self._keeps_open:
            self._parser = httptools.HttpRequestParser(self)  # the old one expects the rest, or accepts nothing more
        return found

    def _parse(self, data: bytes) -> int:
        """Let the parser read what is not known by its bytes; returns what `read` returns."""
        end = data.find(END_OF_HEAD)
        if end < 0:
            return HEAD_MISSING if self._accepts(data) and not self._complete else UNCERTAIN
        line, end = data[: data.find(b"\r\n")], end + len(END_OF_HEAD)
        plain = line.endswith(b" HTTP/1.1") and line.count(b" ") == 2 and line[:1].isalpha()
        if not plain or data.count(b"\n", 0, end - len(END_OF_HEAD)) > _MOST_FIELDS or not self._accepts(data):
            return UNCERTAIN
        missing = end + int(self._length or b"0") - len(data)
        if missing == 0 and self._complete:
            is_long = len(data) > LONGEST_REQUEST
            self.key = () if is_long else (line, self._keeps_open, data[end:], *self._parts)
            return WHOLE
        if missing <= 0 or (self._complete and not self._upgrades):
            return UNCERTAIN
        if end == len(data) <= LONGEST_REQUEST and not self.expects:
            self._remember(data, missing)
        return missing

    @property
    def keeps_open(self) -> bool:
        """Whether the connection stays open for another request."""
        return bool(self.key[1])

    def remember(self, data: bytes) -> None:
        """Keep the key of the request that was read last: most clients repeat theirs byte for byte.

        Looking the bytes up costs a tenth of parsing what a browser sends. Equal bytes always mean the same, so
        nothing can make the key wrong.
        """
        self._remember(data, self.key)

    def _remember(self, data: bytes, known: RequestKey | int) -> None:
        if self.request_id is not None or self.traces is not None:
            return  # the next request will have others
        self._bytes += 2 * len(data) + _KEY_BYTES
        if self._bytes > self._limit:
            self._by_bytes, self._bytes = {}, 2 * len(data) + _KEY_BYTES
        self._by_bytes[data] = known

    def _accepts(self, data: bytes) -> bool:
        """Whether the parser accepts this, and aiohttp's reads the same in it."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrades = True  # the parser has skipped the body, as aiohttp's does not
            if data.startswith(b"CONNECT "):
                return False
        except httptools.HttpParserError:
            return False
        return not self._odd and len(self._length) <= _LONGEST_LENGTH

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a field; called by the parser."""
        place = _places[name]
        if place == _IGNORED:
            return
        if place < _LENGTH:
            self._parts += place, value.rstrip(b" \t")  # llhttp leaves the blanks after it, aiohttp does not
        elif place >= _ONCE:
            bit = 1 << place - _ONCE
            self._odd = self._odd or self._once & bit != 0
            self._once |= bit
        else:
            self._note(place, value)

    def _note(self, place: int, value: bytes) -> None:
        value = value.rstrip(b" \t")
        if place == _LENGTH:
            self._length = value
        elif place == _EXPECT:
            self.expects = True
        elif place == _REQUEST_ID:
            self.request_id = value if self.request_id is None else self.request_id
        elif place == _TRACE:
            self.traces = [*(self.traces or ()), value]
        elif place != _UPGRADE or value.lower() in _SWITCHED:
            self._odd = True

    def on_message_complete(self) -> None:
        """Note the end; called by the parser."""
        self._odd = self._odd or self._complete  # a second request
        self._complete = True
        self._keeps_open = self._parser.should_keep_alive()

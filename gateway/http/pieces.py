"""Cuts what a caller sends, so that aiohttp's parser gets no bytes of the next request together with those of one.

Behind a request with `Upgrade: h2c` its parser drops the rest of what it was given, as if that were the new protocol.
"""

from __future__ import annotations

from aiohttp import hdrs
from aiohttp.http import RawRequestMessage

from gateway.http.request_key import END_OF_HEAD


class Pieces:
    """Finds where the parser must get no more at once: at each end of a head, of a body, or of chunks.

    A blank line within chunks is such a place, too: cutting there changes nothing.
    """

    __slots__ = ("_body_due", "_end")

    def __init__(self) -> None:
        self._body_due = 0
        self._end = b""  # the last bytes, which may be the beginning of a blank line

    def next_cut(self, data: bytes, at: int) -> int:
        """Return where the piece ends that begins at `at`, and take note of it."""
        if self._body_due:
            cut = min(at + self._body_due, len(data))
            self._body_due -= cut - at
            return cut
        missing = len(END_OF_HEAD) - 1
        across = (self._end + data[at : at + missing]).find(END_OF_HEAD)
        if across >= 0:
            cut = at + across + len(END_OF_HEAD) - len(self._end)
        else:
            found = data.find(END_OF_HEAD, at)
            cut = found + len(END_OF_HEAD) if found >= 0 else len(data)
        is_end = across >= 0 or data.endswith(END_OF_HEAD, at, cut)
        self._end = b"" if is_end else (self._end + data[max(at, cut - missing) : cut])[-missing:]
        return cut

    def begin_body(self, message: RawRequestMessage) -> int:
        """Take note that a head has ended; returns the length of its body, 0 where it is sent in chunks."""
        if not message.chunked:
            self._body_due = int(message.headers.get(hdrs.CONTENT_LENGTH, "0"))
        return self._body_due

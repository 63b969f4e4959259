"""How long a request is, by its first bytes alone: what the fast path needs to know beside aiohttp's parser."""

from __future__ import annotations

import re
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\n(?:transfer-encoding|upgrade)[ \t]*:", re.IGNORECASE)


def bytes_due(data: bytes) -> int:
    """Return how many bytes of body are to come after `data`, which begins a request; -1 where nobody can say."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return -1
    head = data[: end + 2]
    if _CHUNKED.search(head) or data.startswith(b"CONNECT"):
        return -1
    found = _LENGTH.search(head)
    if found is None and b"\r\ncontent-length" in head.lower():
        return -1  # the parser may take it
    return (int(found[1]) if found else 0) - (len(data) - end - 4)

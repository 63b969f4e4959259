"""Request ids: the caller's own where it is usable, else a unique one."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from typing import Final

from gateway.redash.redaction import text_without_keys

_SANE: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_format = os.urandom(8).hex() + "%016x"
_next_number = itertools.count(1).__next__


def request_id(headers: Mapping[str, str]) -> str:
    """Return the caller's own id, if it is short and plain, else a new one."""
    given = headers.get("X-Request-ID")
    return next_request_id() if given is None else usable_request_id(given)


def usable_request_id(given: str) -> str:
    """Return the caller's own id, if it is short and plain, else a new one."""
    if not _SANE.fullmatch(given):
        return next_request_id()
    # An id that looks like a key or token is not used: it would be echoed, logged and sent to Redash.
    return given if text_without_keys(given) == given else next_request_id()


def next_request_id() -> str:
    """Return a unique id: 16 random digits of the process, 16 digits of a counter."""
    return _format % _next_number()

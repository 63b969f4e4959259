"""Parses what Redash says when it refuses a request."""

from __future__ import annotations

import json
from typing import Final

_LOGIN_MESSAGE: Final = b"Please login and try again"


def is_login_refusal(status: int, data: bytes) -> bool:
    """Whether Redash says that it does not know the key: 404 with a fixed text (CONTRACT 1)."""
    return status == 404 and _LOGIN_MESSAGE in data


def parse_error(data: bytes) -> str:
    """Return the text of an error body, which has the shape of a job or a `message`; "" if there is none."""
    try:
        members = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(members, dict):
        return ""
    job = members.get("job")
    text = job.get("error") if isinstance(job, dict) else members.get("message")
    return text if isinstance(text, str) else ""

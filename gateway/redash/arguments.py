"""The query string of a URL: decoded as Redash decodes it, without what it would take for credentials."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode

from gateway.errors import BadRequest

_NOT_FOR_REDASH: Final = frozenset({"api_key", "signature", "expires", "user_id"})


def parse_arguments(query_string: str) -> tuple[tuple[str, str], ...]:
    """Decode the query string; leave out the names that Redash would use as credentials (CONTRACT 1, 20.1).

    Raises:
        BadRequest: it is not UTF-8 text, or has more than 200 fields.
    """
    if not query_string:
        return ()
    try:
        fields = parse_qsl(query_string, keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        raise BadRequest("The query string is not percent-encoded UTF-8 text of at most 200 fields.") from None
    return tuple((name, value) for name, value in fields if name not in _NOT_FOR_REDASH)


def parse_query_token(query_string: str) -> str | None:
    """Return the first `api_key` argument, compared by decoded name as in Redash (CONTRACT 1); None without one."""
    if "api" not in query_string and "%" not in query_string:
        return None
    try:
        fields = parse_qsl(query_string, keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        return None
    return next((value for name, value in fields if name == "api_key"), None)


def encode_arguments(arguments: tuple[tuple[str, str], ...]) -> str:
    """Encode arguments as a query string for Redash."""
    return urlencode(arguments) if arguments else ""

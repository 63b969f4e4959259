"""The query string of a URL: decoded as Redash decodes it, without what it would take for credentials."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode

from gateway.errors import BadRequest, UpstreamUnusable

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


def search_location(location: str) -> str:
    """Return the target of the only redirect in Redash's API: the old search redirects to the list (CONTRACT 5).

    It is relative, because the caller's path may begin with the slug, or with the prefix of a proxy in front.
    Only its arguments are taken: Redash 8 and 10 name a host, and with several organisations the path has a slug.

    Raises:
        UpstreamUnusable: its arguments cannot be decoded.
    """
    try:
        arguments = parse_arguments(location.partition("?")[2].partition("#")[0])
    except BadRequest:
        raise UpstreamUnusable("Redash answered with a redirect whose arguments cannot be decoded.") from None
    return f"../queries?{encode_arguments(tuple((n, v) for n, v in arguments if n != 'org_slug'))}"

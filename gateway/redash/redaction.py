"""Removes keys and tokens from response bodies (CONTRACT 15) and from texts for logs and errors."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.errors import UpstreamUnusable
from gateway.secret import kept_secrets

KEY_MEMBERS: Final = frozenset({"api_key", "public_url", "invite_link", "reset_link", "reset_password_link"})
"""Members of metadata objects that give access to Redash."""

LARGEST_METADATA: Final = 32 * 1024 * 1024
TOO_LARGE: Final = (
    "Redash's response is larger than 32 MB; only results may be, because keys are removed from all else."
)


MOST_MEMBERS: Final = 500_000
MOST_ITEMS: Final = 4_000_000
"""Of an object or list with everything in it, counted in its text: to parse more stops all other threads for too long,
and takes too much memory. A page of lists of 32 MB has fewer."""

LONGEST_REFUSAL: Final = 256 * 1024
LONGEST_ERROR: Final = 10_000
"""Characters of the error text of a job; databases repeat the SQL in theirs. Job ids keep it for hours."""

TOO_MANY: Final = "Redash's response has too many members or items; only results may have so many."

_SHOWN: Final = "[key]"


def without_keys(data: bytes) -> bytes:
    """Return a metadata body with every key, public link and invitation as `null`. Never call it on results.

    Raises:
        UpstreamUnusable: not JSON, or larger than 32 MB. What cannot be parsed cannot be cleaned, so it is not shown.
    """
    return _encode(_cleaned(_parse(data), lambda text: text))


def refusal_without_keys(data: bytes) -> bytes:
    """Return the body of a refusal, cleaned as metadata and in all its texts: they repeat what Redash was sent.

    Raises:
        UpstreamUnusable: as `without_keys`; or it is too long to be searched for keys on the event loop.
    """
    if len(data) > LONGEST_REFUSAL:
        raise UpstreamUnusable("Redash refuses the request, with a text that is too long to be passed on.")
    return _encode(_cleaned(_parse(data), text_without_keys))


def body_without_own_keys(data: bytes) -> bytes:
    """Return a metadata body as it is, but for the keys that the gateway keeps: nobody may see those.

    Raises:
        UpstreamUnusable: not JSON, or larger than 32 MB. Some responses have no body at all.
    """
    if data.strip() and not _is_json(data):
        _parse(data)
    return bytes_without_own_keys(data)


def bytes_without_own_keys(data: bytes) -> bytes:
    """Return a body of any kind without the keys that the gateway keeps."""
    text = data.decode("latin-1")  # keys are ASCII, and every byte survives
    clean = without_own_keys(text)
    return data if clean == text else clean.encode("latin-1")


def _is_json(data: bytes) -> bool:
    """Whether it is strict JSON; this takes a fraction of the time of parsing it."""
    if len(data) > LARGEST_METADATA:
        raise UpstreamUnusable(TOO_LARGE)
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
        data.decode()  # which msgspec does not look at
    except (ValueError, RecursionError):
        return False
    return True


def _parse(data: bytes) -> object:
    if len(data) > LARGEST_METADATA:
        raise UpstreamUnusable(TOO_LARGE)
    if data.count(b'":') > MOST_MEMBERS or data.count(b",") > MOST_ITEMS:
        raise UpstreamUnusable(TOO_MANY)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise UpstreamUnusable("Redash's response is not JSON.") from None


def _encode(value: object) -> bytes:
    try:
        return without_own_keys(json.dumps(value, ensure_ascii=False)).encode()
    except RecursionError:
        raise UpstreamUnusable("Redash's response is nested too deeply.") from None
    except UnicodeEncodeError:  # a lone surrogate: only the escaped form can carry it
        return without_own_keys(json.dumps(value)).encode()


def _cleaned(value: object, text: Callable[[str], str]) -> object:
    """Null the members that are keys, and pass every other string and name through `text`; changes the value itself."""
    root = [value]
    stack: list[object] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            item[:] = [text(member) if isinstance(member, str) else member for member in item]
            stack += item
        elif isinstance(item, dict):
            members = [(name, None if name in KEY_MEMBERS else member) for name, member in item.items()]
            item.clear()
            item.update((text(name), text(m) if isinstance(m, str) else m) for name, m in members)
            stack += item.values()
    return root[0]


_KEY_LIKE: Final = re.compile(
    r"(?i)(api(?:_|%5f)key(?:=|%3d)|authorization['\"]?\s*[:=]\s*['\"]?(?:(?:key|bearer|basic)\s+)?)[^\s&'\",]+|rg_[\w-]{20,}"
)
_LONG_WORD: Final = re.compile(r"[A-Za-z0-9]{40,}")
"""Redash's keys have 40 characters. Characters before the key may match as well: "%3D", "\\n"."""


def text_without_keys(text: str) -> str:
    """Return a text without the gateway's own keys and all that looks like a token or one of Redash's keys.

    Every text from Redash that is shown, logged or stored goes through here.
    """
    text = without_own_keys(text)
    return _LONG_WORD.sub(_without_key, _KEY_LIKE.sub(lambda m: (m[1] or "") + _SHOWN, text))


def shortened(text: str) -> str:
    """Return an error text of Redash without keys, cut where it is too long; never in the middle of a word."""
    if len(text) <= LONGEST_ERROR:
        return text_without_keys(text)
    return text_without_keys(text[:LONGEST_ERROR].rstrip(_OF_WORDS)) + " …"


def without_own_keys(text: str) -> str:
    """Return a text without the keys that the gateway keeps, whatever they look like."""
    words = "\n".join(_LONG_WORD.findall(text))  # however many keys there are, a long text is searched once
    for secret in kept_secrets():
        if secret in (words if _LONG_WORD.fullmatch(secret) else text):
            text = text.replace(secret, _SHOWN)
    return text


_OF_WORDS: Final = string.ascii_letters + string.digits + "_%-"


def _without_key(word: re.Match[str]) -> str:
    """Keep words of digits only, or of letters in one case only: a random key practically never is such a word."""
    plain = word[0].isdigit() or (word[0].isalpha() and (word[0].islower() or word[0].isupper()))
    return word[0] if plain else _SHOWN

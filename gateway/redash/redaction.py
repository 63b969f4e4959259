"""Removes keys and tokens from response bodies (CONTRACT 15) and from texts for logs and errors."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Container
from typing import Final

import msgspec

from gateway.errors import UpstreamUnusable
from gateway.secret import kept_secrets

KEY_MEMBERS: Final = frozenset({"api_key", "public_url", "invite_link", "reset_link", "reset_password_link"})
"""Members of metadata objects that give access to Redash."""

LARGEST_METADATA: Final = 32 * 1024 * 1024
TOO_LARGE: Final = (
    "Redash's response is larger than 32 MB, or than a seventh of cache.memory; only results may be, because keys are "
    "removed from all else."
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
    return _without_own_keys_in(_cleaned(_parse(data), members=KEY_MEMBERS))


def refusal_without_keys(data: bytes) -> bytes:
    """Return the body of a refusal, cleaned as metadata and in all its texts: they repeat what Redash was sent.

    Raises:
        UpstreamUnusable: as `without_keys`; or it is too long to be searched for keys on the event loop.
    """
    if len(data) > LONGEST_REFUSAL:
        raise UpstreamUnusable("Redash refuses the request, with a text that is too long to be passed on.")
    return _without_own_keys_in(_cleaned(_parse(data), members=KEY_MEMBERS, text=_refusal_text))


def _refusal_text(text: str) -> str:
    """Return a text without keys, and without the path of the gateway's own request, which Redash 8 adds to a 404."""
    return text_without_keys(text.partition(_OWN_PATH)[0].rstrip())


_OWN_PATH: Final = "You have requested this URI ["


def body_without_own_keys(data: bytes) -> bytes:
    """Return a metadata body as it is, but for the keys that the gateway keeps: nobody may see those.

    Raises:
        UpstreamUnusable: not JSON, or larger than 32 MB. Some responses have no body at all.
    """
    if not data.strip():
        return data
    if not _is_json(data):
        _parse(data)
    # Searched as it was sent: of members with the same name, the parsed value has only the last.
    sent = data.decode(json.detect_encoding(data), "surrogatepass")
    return _without_own_keys_in(_parse(data)) if _shows_own_key(sent) else data


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


def _without_own_keys_in(value: object) -> bytes:
    """Encode the value; only if a key of ours stands in it, every string is looked through."""
    text = _encode(value)
    return (_encode(_cleaned(value, text=without_own_keys)) if _shows_own_key(text) else text).encode()


_ESCAPED: Final = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|(["\\/]))')


def _shows_own_key(text: str) -> bool:
    """Whether a key of ours may stand in JSON text: readers undo the escapes of a string, so they are undone here."""
    plain = _ESCAPED.sub(lambda m: chr(int(m[1], 16)) if m[1] else m[2], text) if "\\" in text else text
    return without_own_keys(plain) != plain


def _encode(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise UpstreamUnusable("Redash's response is nested too deeply.") from None
    # A lone surrogate has no UTF-8: only the escaped form can carry it.
    return json.dumps(value) if _SURROGATE.search(text) else text


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _cleaned(value: object, *, members: Container[str] = (), text: Callable[[str], str] = str) -> object:
    """Null these members, and pass every other string and name through `text`; changes the value itself."""
    root = [value]
    stack: list[object] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            item[:] = [text(member) if isinstance(member, str) else member for member in item]
            stack += [member for member in item if isinstance(member, list | dict)]
        elif isinstance(item, dict):
            pairs = [(name, None if name in members else member) for name, member in item.items()]
            item.clear()
            item.update((text(name), text(m) if isinstance(m, str) else m) for name, m in pairs)
            stack += [member for member in item.values() if isinstance(member, list | dict)]
    return root[0]


_KEY_LIKE: Final = re.compile(
    r"(?i)(api(?:_|%5f)key(?:=|%3d)|authorization['\"]?\s*[:=]\s*['\"]?(?:(?:key|bearer|basic)\s+)?)[^\s&'\",]+|rg_[\w-]{20,}"
)
_IN_KEY_LIKE: Final = ("key", "auth", "rg_")
"""What it matches has one of these in it, in lower case. Looking for them first takes a tenth of the time."""

_LONG_WORD: Final = re.compile(r"[A-Za-z0-9]{40,}")
"""Redash's keys have 40 characters. Characters before the key may match as well: "%3D", "\\n"."""


_HARMLESS: Final = frozenset({"application/json", "application/json; charset=utf-8", "text/csv; charset=UTF-8"})
"""What nearly every response of Redash has as its type; with many keys a search takes long."""


def text_without_keys(text: str) -> str:
    """Return a text without the gateway's own keys and all that looks like a token or one of Redash's keys.

    Every text from Redash that is shown, logged or stored goes through here.
    """
    if text in _HARMLESS:
        return text
    text = without_own_keys(text)
    lowered = text.lower()
    if any(part in lowered for part in _IN_KEY_LIKE):
        text = _KEY_LIKE.sub(lambda m: (m[1] or "") + _SHOWN, text)
    return _LONG_WORD.sub(_without_key, text)


def shortened(text: str) -> str:
    """Return an error text of Redash without keys, cut where it is too long; never in the middle of a word."""
    if len(text) <= LONGEST_ERROR:
        return text_without_keys(text)
    return text_without_keys(text[:LONGEST_ERROR].rstrip(_OF_WORDS)) + " …"


def without_own_keys(text: str) -> str:
    """Return a text without the keys that the gateway keeps, whatever they look like."""
    if not text:
        return text
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

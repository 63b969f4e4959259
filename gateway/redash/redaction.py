"""Removes keys and tokens from response bodies (CONTRACT 15) and from texts for logs and errors."""

from __future__ import annotations

import json
import re
from typing import Final

from gateway.errors import UpstreamUnusable

KEY_MEMBERS: Final = frozenset({"api_key", "public_url", "invite_link", "reset_link", "reset_password_link"})
"""Members of metadata objects that give access to Redash."""

LARGEST_METADATA: Final = 32 * 1024 * 1024
TOO_LARGE: Final = (
    "Redash's response is larger than 32 MB; only results may be, because keys are removed from all else."
)


def without_keys(data: bytes) -> bytes:
    """Return a metadata body with every key, public link and invitation as `null`. Never call it on results.

    Raises:
        UpstreamUnusable: not JSON, or larger than 32 MB. What cannot be parsed cannot be cleaned, so it is not shown.
    """
    if len(data) > LARGEST_METADATA:
        raise UpstreamUnusable(TOO_LARGE)
    try:
        value = json.loads(data)
        _null_keys(value)
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        raise UpstreamUnusable("Redash's response is not JSON.") from None
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: only the escaped form can carry it
        return json.dumps(value).encode()


def _null_keys(value: object) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            for name, member in item.items():
                if name in KEY_MEMBERS:
                    item[name] = None
                else:
                    stack.append(member)


_KEY_LIKE: Final = re.compile(
    r"(?i)(api(?:_|%5f)key(?:=|%3d)|authorization['\"]?\s*[:=]\s*['\"]?(?:(?:key|bearer|basic)\s+)?)[^\s&'\",]+|rg_[\w-]{20,}"
)
_LONG_WORD: Final = re.compile(r"[A-Za-z0-9]{40,}")
"""Redash's keys have 40 characters. Characters before the key may match as well: "%3D", "\\n"."""


def text_without_keys(text: str) -> str:
    """Replace everything that looks like a token or like one of Redash's 40-character keys."""
    return _LONG_WORD.sub(_without_key, _KEY_LIKE.sub(lambda m: (m[1] or "") + "[key]", text))


def _without_key(word: re.Match[str]) -> str:
    """Keep words of digits only, or of letters in one case only: a random key practically never is such a word."""
    plain = word[0].isdigit() or (word[0].isalpha() and (word[0].islower() or word[0].isupper()))
    return word[0] if plain else "[key]"

"""Keys that the gateway keeps: hard to show by accident, and known to what removes them from texts."""

from __future__ import annotations

import hashlib
import weakref
from typing import Final


class Secret:
    """A key or token that cannot be printed, formatted, pickled, compared or logged by accident.

    `kept_secrets` has its text as long as any part of the process keeps it.
    """

    __slots__ = ("__weakref__", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) >= _SHORTEST_SECRET:
            _note(self)

    def reveal(self) -> str:
        """Return the text; call it only where the bytes leave for Redash."""
        return self._text

    def fingerprint(self) -> str:
        """Return the SHA-256 of the text, hex."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


_SHORTEST_SECRET: Final = 8
"""Shorter texts are words that stand in other texts by chance."""

_kept: tuple[weakref.ref[Secret], ...] = ()


def _note(secret: Secret) -> None:
    global _kept  # noqa: PLW0603 - replaced as a whole: threads that clean texts read it meanwhile
    kept = [*filter(None, (ref() for ref in _kept)), secret]
    _kept = tuple(weakref.ref(one) for one in sorted(kept, key=lambda one: -len(one.reveal())))


def kept_secrets() -> list[str]:
    """Return every key that the process keeps just now, the longest first; only to remove them from texts."""
    return [secret.reveal() for ref in _kept if (secret := ref()) is not None]

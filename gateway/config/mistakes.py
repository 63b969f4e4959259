"""The list of mistakes, and how a message may show names and values of the file. Knows nothing about single keys."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN = re.compile(r"rg_[\w-]{20}", re.ASCII)  # ours, even if it has no digit by chance
_LONG_WORD = re.compile(r"[A-Za-z0-9_+=-]{20,}")
_URL_WITH_MORE = re.compile(r"://.*[@?#]", re.DOTALL)  # it may contain a password or a key
_HIDDEN = "(not shown: it may be a secret)"
_LONGEST = 60


class Mistakes:
    """Mistakes found so far, one line each, and the dotted keys that they concern."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: list[str] = []
        self._bad: set[str] = set()
        self._around: set[str] = set()  # the tables and lists that contain them

    def add(self, key: str, text: str, *, unless: Iterable[str] = ()) -> None:
        """Add a mistake at `key`, unless a key in `unless` has one: then this may be only its consequence."""
        if any(self.concerns(other) for other in unless):
            return
        self.lines.append(f"{self.file}: {key}: {text}")
        self._bad.add(key)
        self._around.update(_enclosing(key))

    def concerns(self, key: str) -> bool:
        """Whether there is a mistake at `key`, inside it, or at a table that contains it."""
        return key in self._bad or key in self._around or any(outer in self._bad for outer in _enclosing(key))


def _enclosing(key: str) -> Iterator[str]:
    """Yield the dotted keys of the tables and lists around a key."""
    return (key[:end] for end, sign in enumerate(key) if sign in ".[")


def dotted(path: str, name: str) -> str:
    """Append a name to a dotted key, in quotes where TOML needs them."""
    part = name if _BARE_KEY.fullmatch(name) else json.dumps(_short(name))
    if may_be_secret(name):
        part = _HIDDEN
    return f"{path}.{part}" if path else part


def may_be_secret(text: str) -> bool:
    """Whether `text` contains a long word of letters and digits, like a key, a token or a hash."""
    if _TOKEN.search(text) is not None:
        return True
    return any(re.search("[0-9]", word) and re.search("[A-Za-z]", word) for word in _LONG_WORD.findall(text))


def shown(value: object) -> str:
    """Return the value for a message: short, escaped, and hidden if it may be a secret in the wrong place."""
    if isinstance(value, str):
        return _HIDDEN if may_be_secret(value) or _URL_WITH_MORE.search(value) else repr(_short(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 2**64:
        return "a huge number"  # Python refuses to print the largest ones
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was most likely meant, None if none is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: the nearest known name, or else all known names."""
    names = sorted(known)
    if (guess := nearest(name, names)) is not None:
        return f"did you mean {shown(guess)}?"
    return f"known: {', '.join(names)}" if names else "there is none"

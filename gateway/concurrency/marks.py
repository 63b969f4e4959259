"""When something last happened to a key, for any number of keys in bounded memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

MOST_KEYS: Final = 10_000


K = TypeVar("K", bound=Hashable)


class Marks(Generic[K]):
    """The newest mark of each key. Marks only grow: they are times, or numbers of a counter.

    Keys can come from callers, so only the last `most` are remembered one by one. Of all others it is known that none
    was marked after the newest mark that was forgotten; `get` returns that one: too late a mark is safe, none is not.
    """

    def __init__(self, start: float, most: int = MOST_KEYS) -> None:
        self._most = most
        self._by_key: dict[K, float] = {}
        self._of_others = start

    def get(self, key: K) -> float:
        """Return the newest mark of `key`, or a later one."""
        return self._by_key.get(key, self._of_others)

    def set(self, key: K, mark: float) -> None:
        """Mark one key."""
        self._by_key.pop(key, None)
        self._by_key[key] = mark
        if len(self._by_key) > self._most:
            self._of_others = self._by_key.pop(next(iter(self._by_key)))

    def set_all(self, mark: float) -> None:
        """Mark every key."""
        self._by_key.clear()
        self._of_others = mark

    def newest(self, most: int) -> tuple[float, list[tuple[K, float]]]:
        """Return so many marks, and the newest of all others: what `restore` takes."""
        marks = list(self._by_key.items())
        others = marks[-most - 1][1] if len(marks) > most else self._of_others
        return others, marks[-most:]

    def restore(self, others: float, marks: Iterable[tuple[K, float]]) -> None:
        """Take back earlier marks; those that were set meanwhile are later, and stay."""
        later, self._by_key = self._by_key, {}
        since, self._of_others = self._of_others, max(self._of_others, others)
        for key, mark in marks:
            self.set(key, max(mark, since))  # every key may have been marked meanwhile
        for key, mark in later.items():
            self.set(key, mark)

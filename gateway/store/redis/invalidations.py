"""What was invalidated while Redis was down, and must be passed on to it before it is used again. In bounded memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from gateway.model import Key

MOST_SELECTIONS: Final = 1_000
MOST_KEYS: Final = 10_000

Selection = tuple[str | None, int | None]
"""Scope and query id of a deletion; None: all."""

EVERYTHING: Final[Selection] = (None, None)


class Invalidations:
    """Where there are too many, everything counts as purged: too much is safe, too little is not."""

    def __init__(self) -> None:
        self._selections: dict[Selection, None] = {}
        self._keys: dict[Key, None] = {}

    def purge(self, selection: Selection) -> None:
        """The entries of a selection were deleted."""
        self._selections[selection] = None
        if selection == EVERYTHING or len(self._selections) > MOST_SELECTIONS:
            self._selections, self._keys = {EVERYTHING: None}, {}

    def deny(self, keys: Iterable[Key]) -> None:
        """What is stored under these keys is not the newest."""
        self._keys.update(dict.fromkeys(keys))
        if len(self._keys) > MOST_KEYS:
            self.purge(EVERYTHING)

    async def pass_on(
        self,
        purge: Callable[[Selection], Awaitable[object]],
        deny: Callable[[Sequence[Key]], Awaitable[object]],
    ) -> None:
        """Do it now; what fails stays here, with all that follows."""
        for selection in list(self._selections):
            await purge(selection)
            self._selections.pop(selection, None)
        keys = list(self._keys)
        if keys:
            await deny(keys)
        for key in keys:
            self._keys.pop(key, None)

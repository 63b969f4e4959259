"""Which announcements this gateway has seen: without a gap, what its memory holds is what all gateways agree on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Announcement(msgspec.Struct, frozen=True):
    """One message of the channel: the `number`-th of its epoch. `origin` is the process that caused it."""

    epoch: str
    number: int
    origin: str
    kind: str
    payload: bytes


def parse(message: bytes) -> Announcement | None:
    """Parse a message; None for one that is not ours."""
    parts = message.split(b" ", 4)
    if len(parts) != 5 or not parts[1].isdigit():
        return None
    epoch, number, origin, kind, payload = parts
    return Announcement(epoch.decode(), int(number), origin.decode(), kind.decode(), payload)


class Sequence:
    """The last announcement that was seen. `on_gap` is called when others were missed."""

    def __init__(self) -> None:
        self.epoch = ""
        self.number = 0
        self.on_gap: list[Callable[[], None]] = []

    def begin(self, epoch: str, number: int) -> None:
        """Begin at this point: nothing is in memory yet."""
        self.epoch, self.number = epoch, number

    def reset(self, epoch: str, number: int) -> None:
        """Go on from this point, as after a connection was lost; a gap unless all before it was seen."""
        if not self.has_reached(epoch, number):
            self.epoch, self.number = epoch, number
            self._gap()

    def advance(self, epoch: str, number: int) -> bool:
        """Note an announcement that has arrived; return whether it is new."""
        if epoch == self.epoch and number <= self.number:
            return False
        missed = epoch != self.epoch or number != self.number + 1
        self.epoch, self.number = epoch, number
        if missed:
            self._gap()
        return True

    def note_own(self, number: int) -> None:
        """Note one that this gateway caused, if it is the next; otherwise its message comes in its turn."""
        if number == self.number + 1:
            self.number = number

    def has_reached(self, epoch: str, number: int) -> bool:
        """Whether everything up to this one has been seen."""
        return epoch == self.epoch and number <= self.number

    def _gap(self) -> None:
        for notify in self.on_gap:
            notify()

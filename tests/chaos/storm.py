"""The weather of one schedule: which responses break, how, and how often. All chance comes from the seed."""

from __future__ import annotations

from random import Random
from typing import Final

from support.fault_proxy import KINDS, Fault

_PLACES: Final = (
    "",
    "",
    "^/api/jobs/",
    r"^/api/queries/\d+$",
    r"^/api/queries/\d+/results",
    "^/api/query_results",
    "^(?!/api/session)",
)
_LONGEST_SECONDS: Final = 0.6
_MOST_BYTES: Final = 600


class Storm:
    """Some kinds of faults, in some places, with some probability; a calm sea and a dead Redash are among them."""

    def __init__(self, seed: int) -> None:
        chance = Random(seed)
        self.kinds = tuple(chance.sample(KINDS, chance.randint(1, 4)))
        self.place = chance.choice(_PLACES)
        self.probability = chance.choice((0.05, 0.2, 0.5, 1.0))

    def __call__(self, chance: Random, method: str, target: str) -> Fault | None:
        """Return what befalls this request."""
        if chance.random() > self.probability:
            return None
        kind = chance.choice(self.kinds)
        seconds = chance.uniform(0, _LONGEST_SECONDS) if kind != "endless" else 0.01
        at = chance.choice((-1, 1, 7)) if kind == "wrong_length" else chance.randint(0, _MOST_BYTES)
        fault = Fault(kind, self.place, at=at, seconds=seconds)
        return fault if fault.affects(method, target) else None

    def __str__(self) -> str:
        return f"{', '.join(self.kinds)} on {self.place or 'everything'}, {self.probability:.0%}"

"""What `/api/session` says of a Redash: its version, and what that means for its cache; its date formats."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from gateway.redash.limits import NOT_SUCH, Short
from gateway.redash.renderings import DateFormats

_MAJOR: Final = re.compile(r"v?(\d{1,4})(?:\.|\Z)")
_HANDLED: Final = ". The gateway checks the SQL of what it gets, so there is nothing to do."

_SHOWN: Final = re.compile(r"[0-9][A-Za-z0-9.+-]{0,30}")
"""What is shown to the operator; anything else is no version."""

_FIRST_WITH_CASE: Final = 25
"""Version 10.1 and those before it fold letter case; 25.1 is the next one that was released."""


class RedashVersion(msgspec.Struct, frozen=True):
    """A version as Redash tells it, `10.1.0`; "" while it is unknown."""

    number: str = ""

    @property
    def hash_folds_case(self) -> bool:
        """Whether SQL that differs in letter case alone shares results and runs; an unknown version counts as old."""
        major = _MAJOR.match(self.number)
        return major is None or int(major[1]) < _FIRST_WITH_CASE

    def meaning(self) -> str:
        """Return what follows from it, as one sentence for the operator."""
        if not self.number:
            return (
                f"A Redash of unknown version may take SQL of other white space or letter case for the same{_HANDLED}"
            )
        if self.hash_folds_case:
            return f"Redash {self.number} takes SQL that differs in white space or letter case for the same{_HANDLED}"
        return f"Redash {self.number} takes SQL that differs in white space for the same{_HANDLED}"


class _ClientConfig(msgspec.Struct):
    dateFormat: Short | None = None  # noqa: N815 - Redash's own name
    dateTimeFormat: Short | None = None  # noqa: N815
    version: str = ""


class _Session(msgspec.Struct):
    client_config: _ClientConfig


_sessions = msgspec.json.Decoder(_Session)


class Organisation(msgspec.Struct, frozen=True):
    """What `/api/session` says of the server and its settings (CONTRACT 14)."""

    version: RedashVersion
    formats: DateFormats | None
    """None where it does not say them."""


def parse_organisation(data: bytes) -> Organisation | None:
    """Parse `/api/session`; None if this is none."""
    try:
        config = _sessions.decode(data).client_config
    except NOT_SUCH:
        return None
    dates, times = config.dateFormat, config.dateTimeFormat
    formats = DateFormats(dates, times) if dates is not None and times is not None else None
    number = config.version if _SHOWN.fullmatch(config.version) else ""
    return Organisation(RedashVersion(number), formats)

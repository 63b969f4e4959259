"""What the file names say that Redash gives to results. Pure."""

from __future__ import annotations

import re
from typing import Final

_DAY: Final = re.compile(r"_(\d{4})_(\d{2})_(\d{2})\.(?:json|csv|tsv|xlsx)\"?\s*(?:;|$)")


def day_in(disposition: str) -> str:
    """Return the day of a result from the file name that Redash gave it: CSV has it nowhere else, JSON at its end."""
    day = _DAY.search(disposition)
    return "-".join(day.groups()) if day else ""


_ID: Final = re.compile(r"filename=\"?(\d{1,15})_\d{4}_\d{2}_\d{2}\.json")


def id_in(disposition: str) -> int:
    """Return the id of a result from the file name that Redash gave it; 0 where the name is that of a query."""
    named = _ID.search(disposition)
    return int(named[1]) if named else 0

"""Times as Redash writes them. A time is whole microseconds of Unix time, so that comparisons are exact."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

SECOND = 1_000_000


def microseconds(seconds: float) -> int:
    """Microseconds of a time in seconds."""
    return round(seconds * SECOND)


def _utc(at: int) -> datetime:
    return datetime.fromtimestamp(at // SECOND, UTC).replace(microsecond=at % SECOND)


def timestamp(at: int | None) -> str | None:
    """Milliseconds, truncated, with Z; without fraction when it is exactly zero (CONTRACT 4)."""
    if at is None:
        return None
    text = _utc(at).isoformat()
    return (text[:23] if at % SECOND else text[:19]) + "Z"


def job_timestamp(at: int) -> str:
    """The form in jobs: without Z (CONTRACT 9)."""
    return _utc(at).isoformat(timespec="milliseconds")[:23]


def whole_second(at: int | None) -> str | None:
    """Like `timestamp`, truncated to the second."""
    return None if at is None else timestamp(at - at % SECOND)


def file_date(at: int) -> str:
    """The date in file names."""
    return _utc(at).strftime("%Y_%m_%d")


def http_date(at: int) -> str:
    """The form of the Date header."""
    return formatdate(at / SECOND, usegmt=True)


def cookie_date(at: int, separator: str = " ") -> str:
    """The form of Set-Cookie; `separator` stands between day, month and year."""
    return _utc(at).strftime(f"%a, %d{separator}%b{separator}%Y %H:%M:%S GMT")

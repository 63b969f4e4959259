"""Results as downloads: forms, content types, and the file names that Redash gives them (CONTRACT 4)."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal, get_args
from urllib.parse import quote

ResultForm = Literal["json", "csv", "tsv", "xlsx", "ndjson", "parquet", "arrow", "html"]
FORMS: Final[tuple[ResultForm, ...]] = get_args(ResultForm)

RenderedForm = Literal["csv", "tsv", "xlsx"]
"""The files that Redash makes."""

OWN_FORMS: Final[frozenset[ResultForm]] = frozenset({"ndjson", "parquet", "arrow", "html"})
"""Redash does not have these; the gateway makes them from the JSON."""

CONTENT_TYPES: Final[dict[ResultForm, str]] = {
    "json": "application/json",
    "csv": "text/csv; charset=UTF-8",
    "tsv": "text/tab-separated-values; charset=UTF-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.file",
    "html": "text/html; charset=UTF-8",
}


_NO_ROWS: Final = (b"<!doctype html", b"<html", b'{"job":', b'{"message":', b'{"query_result":')
"""How a page of HTML and Redash's JSON begin: a proxy may send them as whatever was requested."""

END_BYTES: Final = 22
"""So many bytes show whether a file has its end: what ends a ZIP file without a comment begins there."""


def is_file(content_type: str, beginning: bytes, form: ResultForm) -> bool:
    """Whether a response is such a file: of its media type, not empty, and a workbook begins as every ZIP file does."""
    begins = beginning.startswith(b"PK") if form == "xlsx" else beginning != b""
    others = beginning[:100].lstrip().lower().startswith(_NO_ROWS)
    return begins and not others and _media_type(content_type) == _media_type(CONTENT_TYPES[form])


def is_end(last: bytes, form: str) -> bool:
    """Whether such a file may end with these `END_BYTES`: a wrong Content-Length may have cut it."""
    return last.startswith(b"PK\x05\x06") if form == "xlsx" else last.endswith(b"\n")


def is_csv_instead(content_type: str, form: ResultForm) -> bool:
    """Whether Redash gives CSV in place of TSV: version 8 has no TSV, and gives CSV for every type that it lacks."""
    return form == "tsv" and _media_type(content_type) == _media_type(CONTENT_TYPES["csv"])


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


_NOT_IN_NAMES: Final = re.compile(r'[<>:"\\/|?*]+')
_SPACES: Final = re.compile(r"\s+")
_LONGEST_NAME: Final = 255
"""Redash's own limit. Unicode's normal forms take quadratic time for text of nothing but accents."""


def content_disposition(name: str, retrieved_at: str, form: str) -> str:
    """Return the header value for a download named after `name` (a query's name or a result id) and the result's day.
    A page is shown, not saved.

    RFC 6266, with the extended form of RFC 5987 if the name is not ASCII.
    """
    shown = "".join(character for character in name[:_LONGEST_NAME] if unicodedata.category(character)[0] != "C")
    stem = _SPACES.sub("_", _NOT_IN_NAMES.sub(" ", shown)).strip("_")
    file = f"{stem}_{retrieved_at[:10].replace('-', '_')}.{form}"
    plain = unicodedata.normalize("NFKD", file).encode("ascii", "ignore").decode()
    plain = f'"{plain}"' if re.search(r"[^\w!#$%&'*+.^`|~-]", plain, re.ASCII) else plain
    kind = "inline" if form == "html" else "attachment"
    if file.isascii():
        return f"{kind}; filename={plain}"
    return f"{kind}; filename={plain}; filename*=UTF-8''{quote(file, safe='')}"


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

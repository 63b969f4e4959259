"""GETs of a result: in which form, and who makes that: Redash or the gateway."""

from __future__ import annotations

from typing import cast

from gateway.redash.downloads import OWN_FORMS, RenderedForm
from gateway.redash.requests import ReadLatest, ReadParameterised, ReadResult
from gateway.redash.selection import WHOLE

Reading = ReadLatest | ReadParameterised | ReadResult


def is_made_here(reading: Reading) -> bool:
    """Whether the gateway makes what is requested from the JSON of the whole result."""
    return reading.form in OWN_FORMS or reading.selection != WHOLE


def file_of_redash(reading: Reading) -> RenderedForm | None:
    """Return the form in which Redash gives a file of what is requested; None for JSON and what is made here."""
    return None if reading.form == "json" or is_made_here(reading) else cast(RenderedForm, reading.form)

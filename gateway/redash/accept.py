"""Which form of a result a caller accepts, where the path does not name one (RFC 9110 section 12.5.1)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from gateway.redash.downloads import CONTENT_TYPES, ResultForm

_LONGEST: Final = 300
"""Longer fields are not looked at, so that they are no keys of caches; no program sends one."""

_ALSO: Final[dict[str, ResultForm]] = {
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/x-parquet": "parquet",
    "application/vnd.apache.arrow": "arrow",
}
_FORMS: Final[dict[str, ResultForm]] = {
    **{content_type.partition(";")[0]: form for form, content_type in CONTENT_TYPES.items()},
    **_ALSO,
}
_ANYTHING: Final = ("*/*", "*")


def preferred_form(accept: str | None) -> ResultForm:
    """Return the form with the highest weight; JSON, as Redash gives it, if none is accepted or any is.

    Browsers and Java's HttpURLConnection name HTML first in every request, and then anything: they get JSON.
    """
    if accept is None or accept in _ANYTHING or len(accept) > _LONGEST:
        return "json"
    return _preferred(accept)


@lru_cache(maxsize=256)
def _preferred(accept: str) -> ResultForm:
    weights = _weights(accept)
    anything = max(weights.get(name, 0.0) for name in _ANYTHING)
    named = [
        (weight, form)
        for name, form in _FORMS.items()
        if (weight := weights.get(name, 0.0)) > 0 and not (form == "html" and anything > 0)
    ]
    best = max((weight for weight, _ in named), default=0.0)
    plain = weights.get("application/json", weights.get("application/*", anything))
    if best <= 0 or (plain > best) or (plain == best and "application/json" in weights):
        return "json"
    return next(form for weight, form in named if weight == best)


def _weights(accept: str) -> dict[str, float]:
    """Return the weight of each media range; one that cannot be read counts as not accepted."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights[name] = next((_weight(given[2:]) for given in parameters if given.startswith("q=")), 1.0)
    return weights


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0

"""Can Redash's cache confuse two requests of one query? Needed where the response has no SQL to check.

Query keys get responses without SQL (CONTRACT 6). Then only the definition shows whether two sets of values give
different texts that become equal without white space and comments (CONTRACT 7), up to version 10 also without letter
case.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from gateway.model import Parameter
from gateway.redash import dates, template
from gateway.redash.sqltext import squeezed

_TAG = "\0"
"""Stands for a tag in the text."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?")
_WORDS = frozenset(string.ascii_letters + string.digits)
_NUMBERS = _WORDS | frozenset("+-._")  # "nan", "1_000" and 1e5 are numbers too (CONTRACT 6)
_DATES = _WORDS | frozenset("-/:,.+")


def is_ambiguous(
    definition_text: str, parameters: Sequence[Parameter], values: Mapping[str, object], *, folds_case: bool = False
) -> bool:
    """Whether Redash may respond to this request with rows of other values; then it must be sent with max_age 0.

    True if uncertain. Compares values of this query only, and assumes that the unknown options of a dropdown query
    differ in more than white space. `folds_case`: this Redash's cache ignores letter case.
    """
    found = list(template.tags(definition_text))
    if any(tag.sign for tag in found):
        return True
    declared = {parameter.name: parameter for parameter in parameters}
    used = [declared.get(tag.name.partition(".")[0]) for tag in found]
    known = [parameter for parameter in used if parameter is not None]
    if len(known) < len(used):
        return True
    shown = {parameter.name: parameter for parameter in known}.values()  # each once, however many tags show it
    if any(_value_is_ambiguous(parameter, values.get(parameter.name), folds_case=folds_case) for parameter in shown):
        return True
    if _comments_may_hide(definition_text, found, known, values):
        return True
    alphabets = {parameter.name: _alphabet(parameter, values, folds_case=folds_case) for parameter in shown}
    pairs = zip(found, found[1:], known, known[1:], strict=False)
    return any(
        _runs_together(
            squeezed(definition_text[a.end : b.start], folds_case=folds_case), alphabets[p.name], alphabets[q.name]
        )
        for a, b, p, q in pairs
    )


def _comments_may_hide(
    text: str, tags: Sequence[template.Tag], known: Sequence[Parameter], values: Mapping[str, object]
) -> bool:
    """Whether a value may stand within a comment, or make one: Redash removes them even in quotes (CONTRACT 7)."""
    ends = [0, *(tag.end for tag in tags)]
    starts = [*(tag.start for tag in tags), len(text)]
    pieces = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    if squeezed(_TAG.join(pieces)).count(_TAG) < len(tags):
        return True
    shown = {each.name: _shown_texts(each, values.get(each.name)) for each in {p.name: p for p in known}.values()}
    if any("*" in text for texts in shown.values() for text in texts):
        return True
    opening = {name for name, texts in shown.items() if any(text.endswith("/") for text in texts)}
    closing = {name for name, texts in shown.items() if any(text.startswith("/") for text in texts)}
    return any(
        (before.endswith("*") and parameter.name in closing) or (after.startswith("*") and parameter.name in opening)
        for before, after, parameter in zip(pieces[:-1], pieces[1:], known, strict=True)
    )


def _shown_texts(parameter: Parameter, value: object) -> Sequence[str]:
    """Return what may be shown in place of a tag, as far as it may have signs of comments in it."""
    if parameter.type not in ("enum", "query"):
        return ()
    options = parameter.enumOptions if parameter.type == "enum" else tuple(_texts(value))
    return options if parameter.multiValuesOptions is None else (*options, *template.wrapping(parameter))


def _value_is_ambiguous(parameter: Parameter, value: object, *, folds_case: bool) -> bool:
    if parameter.type == "enum":
        return _options_are_ambiguous(parameter, value, folds_case=folds_case)
    texts = _texts(value)
    if parameter.type == "number":
        return any(text.split() != [text] for text in texts)
    if parameter.type in dates.ALL:
        # Redash accepts other spellings too: "1 12 2024" and "11 2 2024" are two days with the same hash.
        return not all(_DATE.fullmatch(text) for text in texts)
    if parameter.type == "query":
        if folds_case and any(text.lower() != text.upper() for text in texts):
            return True  # the list may have the same value in other letters
        return parameter.multiValuesOptions is not None and not _list_is_readable(
            parameter, texts, folds_case=folds_case
        )
    return True


def _options_are_ambiguous(parameter: Parameter, value: object, *, folds_case: bool) -> bool:
    options = set(parameter.enumOptions)
    if parameter.multiValuesOptions is not None:
        bare = {squeezed(option, folds_case=folds_case) for option in options}
        return len(bare) < len(options) or not _list_is_readable(parameter, list(options), folds_case=folds_case)
    bare_value = squeezed(str(value), folds_case=folds_case)
    return any(option != str(value) and squeezed(option, folds_case=folds_case) == bare_value for option in options)


def _list_is_readable(parameter: Parameter, options: Sequence[str], *, folds_case: bool) -> bool:
    """Whether the joined text still shows its items when Redash has squeezed it, or is not changed by that."""
    prefix, separator, suffix = template.wrapping(parameter)
    between = suffix + separator + prefix
    if all(squeezed(text, folds_case=folds_case) == text for text in (*options, between)):
        return "*" not in "".join(options) + between
    barrier = set(squeezed(between, folds_case=folds_case))
    return bool(barrier) and not any(barrier & _characters(option, folds_case=folds_case) for option in options)


def _runs_together(between: str, left: frozenset[str], right: frozenset[str]) -> bool:
    """Whether `{{n}} {{m}}` can give the same text for other values: 1 and 23, 12 and 3.

    A character between them that neither value can contain rules this out.
    """
    return not any(character not in left and character not in right for character in between)


def _characters(text: str, *, folds_case: bool) -> frozenset[str]:
    return frozenset(text.casefold() if folds_case else text)


def _alphabet(parameter: Parameter, values: Mapping[str, object], *, folds_case: bool) -> frozenset[str]:
    if parameter.type == "number":
        return _NUMBERS
    if parameter.type in dates.ALL:
        return _DATES
    wrapped = "".join(template.wrapping(parameter)) if parameter.multiValuesOptions is not None else ""
    known = "".join(parameter.enumOptions if parameter.type == "enum" else _texts(values.get(parameter.name)))
    return _WORDS | _characters(known + wrapped, folds_case=folds_case)


def _texts(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [str(inner) for inner in value.values()]
    if isinstance(value, list):
        return [str(inner) for inner in value]
    return [str(value)]

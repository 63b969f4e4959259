"""Can Redash's cache confuse two requests of one query? Needed where the response has no SQL to check.

Query keys get responses without SQL (CONTRACT 6). Then only the definition shows whether two sets of values give
different texts that become equal without white space and comments (CONTRACT 7).
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from gateway.model import Parameter
from gateway.redash import dates, template
from gateway.redash.sqltext import squeezed

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?")
_WORDS = frozenset(string.ascii_letters + string.digits)
_NUMBERS = _WORDS | frozenset("+-._")  # "nan", "1_000" and 1e5 are numbers too (CONTRACT 6)
_DATES = _WORDS | frozenset("-/:,.+")


def is_ambiguous(definition_text: str, parameters: Sequence[Parameter], values: Mapping[str, object]) -> bool:
    """Whether Redash may respond to this request with rows of other values; then it must be sent with max_age 0.

    True if uncertain. Compares values of this query only, and assumes that the unknown options of a dropdown query
    are distinct.
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
    if any(_value_is_ambiguous(parameter, values.get(parameter.name)) for parameter in shown):
        return True
    alphabets = {parameter.name: _alphabet(parameter, values) for parameter in shown}
    pairs = zip(found, found[1:], known, known[1:], strict=False)
    return any(
        _runs_together(definition_text[a.end : b.start], alphabets[p.name], alphabets[q.name]) for a, b, p, q in pairs
    )


def _value_is_ambiguous(parameter: Parameter, value: object) -> bool:
    if parameter.type == "enum":
        return _options_are_ambiguous(parameter, value)
    texts = _texts(value)
    if parameter.type == "number":
        return any(text.split() != [text] for text in texts)
    if parameter.type in dates.ALL:
        # Redash accepts other spellings too: "1 12 2024" and "11 2 2024" are two days with the same hash.
        return not all(_DATE.fullmatch(text) for text in texts)
    if parameter.type == "query":
        return parameter.multiValuesOptions is not None and not _list_is_readable(parameter, texts)
    return True


def _options_are_ambiguous(parameter: Parameter, value: object) -> bool:
    options = set(parameter.enumOptions)
    if parameter.multiValuesOptions is not None:
        bare = {squeezed(option) for option in options}
        return len(bare) < len(options) or not _list_is_readable(parameter, list(options))
    bare_value = squeezed(str(value))
    return any(option != str(value) and squeezed(option) == bare_value for option in options)


def _list_is_readable(parameter: Parameter, options: Sequence[str]) -> bool:
    """Whether the joined text still shows its items without its white space, or has no white space."""
    prefix, separator, suffix = template.wrapping(parameter)
    between = suffix + separator + prefix
    if all(squeezed(text) == text for text in (*options, between)):
        return "*" not in "".join(options) + between
    barrier = set(squeezed(between))
    return bool(barrier) and not any(barrier & set(option) for option in options)


def _runs_together(between: str, left: frozenset[str], right: frozenset[str]) -> bool:
    """Whether `{{n}} {{m}}` can give the same text for other values: 1 and 23, 12 and 3.

    A character between them that neither value can contain rules this out.
    """
    return not any(character not in left and character not in right for character in squeezed(between))


def _alphabet(parameter: Parameter, values: Mapping[str, object]) -> frozenset[str]:
    if parameter.type == "number":
        return _NUMBERS
    if parameter.type in dates.ALL:
        return _DATES
    wrapped = "".join(template.wrapping(parameter)) if parameter.multiValuesOptions is not None else ""
    known = "".join(parameter.enumOptions if parameter.type == "enum" else _texts(values.get(parameter.name)))
    return _WORDS | frozenset(known + wrapped)


def _texts(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [str(inner) for inner in value.values()]
    if isinstance(value, list):
        return [str(inner) for inner in value]
    return [str(value)]

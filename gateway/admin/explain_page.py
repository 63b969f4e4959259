"""The page that explains a request: a form, and what the gateway would do. Only for who has signed in. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from gateway.admin import formats
from gateway.admin.shell import Frame, document, form
from gateway.errors import BadRequest
from gateway.executions.explanation import Explanation, Question

_ABOUT = (
    '<p class="about">What the gateway would do with a request now, and why. Nothing runs, and Redash is not asked.</p>'
)


def render(
    frame: Frame, clients: Sequence[str], given: Mapping[str, str], explanation: Explanation | None, trouble: str = ""
) -> str:
    """Return the page; `given` are the fields of the form as they were sent."""
    if not frame.csrf:
        link = f'<a href="{frame.root}sign-in">sign in</a>'
        needed = f'<p class="empty">This needs the admin token: {link}.</p>'
        return document(frame, "explain", "Explain", "", before=_ABOUT + needed)
    alert = f'<p class="alarm" role="alert">{escape(trouble)}</p>' if trouble else ""
    main = f'{_ABOUT}{alert}<section class="sheet card" aria-label="Request">{_form(frame, clients, given)}</section>'
    shown = _explained(explanation) if explanation is not None else ""
    return document(frame, "explain", "Explain", "", before=main, after=shown)


def question_of(fields: Mapping[str, str]) -> Question:
    """Return the question that a form asks.

    Raises:
        BadRequest: names the field that cannot be understood.
    """
    query, age = fields.get("query", "").strip(), fields.get("max_age", "").strip()
    if not (query.isascii() and query.isdecimal() and 0 < len(query) < 17):
        raise BadRequest("the query is a number.")
    if age and not (age.isascii() and age.isdecimal() and len(age) < 13):
        raise BadRequest("max_age is a number of seconds, or empty for any age.")
    lines = [line.strip() for line in fields.get("values", "").splitlines() if line.strip()]
    if any("=" not in line for line in lines):
        raise BadRequest("each value is a line NAME=VALUE.")
    arguments = [(name, value) for name, _, value in (line.partition("=") for line in lines)]
    return Question(fields.get("client", ""), int(query), int(age) if age else None, arguments)


def _form(frame: Frame, clients: Sequence[str], given: Mapping[str, str]) -> str:
    chosen = given.get("client", "")
    options = "".join(f"<option{' selected' if name == chosen else ''}>{escape(name)}</option>" for name in clients)
    query, age, values = (escape(given.get(name, "")) for name in ("query", "max_age", "values"))
    return form(
        frame,
        "explain",
        f'<label>Client <select name="client">{options}</select></label> '
        f'<label>Query <input name="query" inputmode="numeric" pattern="[0-9]{{1,16}}" size="8" required '
        f'value="{query}"></label> '
        f'<label>max_age <input name="max_age" inputmode="numeric" pattern="[0-9]*" size="8" placeholder="any" '
        f'value="{age}"></label> '
        f'<label>Values, a line each <textarea name="values" rows="2" placeholder="country=DE">{values}</textarea>'
        "</label> <button>Explain</button>",
    )


def _explained(explanation: Explanation) -> str:
    bounds = ", ".join(f"{bound.name} {bound.value} ({bound.origin})" for bound in explanation.bounds)
    rows: list[tuple[str, object]] = [
        ("Query", explanation.query),
        ("Credential", _joined(": ", explanation.credential, explanation.credential_why)),
        ("Values given", ", ".join(explanation.values)),
        ("Accepted age", _age(explanation)),
        ("Bounds", bounds),
        ("Stored", _stored(explanation)),
        ("Asked first", "; ".join(explanation.asks_first)),
        ("Last miss", _last_miss(explanation)),
        ("Key", explanation.key),
    ]
    shown = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in rows if value)
    return (
        f'<section class="sheet card" aria-labelledby="decision"><h2 id="decision">{explanation.decision}: '
        f'{escape(explanation.why)}</h2><dl class="facts">{shown}</dl></section>'
    )


def _joined(between: str, *parts: str) -> str:
    return between.join(filter(None, parts))


def _age(explanation: Explanation) -> str:
    if not explanation.key:
        return ""
    wanted = [_seconds(explanation.max_age_seconds), _seconds(explanation.effective_max_age_seconds)]
    return f"asked for {wanted[0]}, effective {wanted[1]}"


def _seconds(value: float | None) -> str:
    return "any age" if value is None else formats.duration(value)


def _stored(explanation: Explanation) -> str:
    stored = explanation.stored
    if stored is None:
        return "nothing" if explanation.key else ""
    text = f"result {stored.result_id}, {formats.duration(stored.age_seconds)} old, {formats.size(stored.bytes)}"
    fresh = stored.fresh_for_seconds
    if fresh is None:
        return text
    return (
        f"{text}; fresh for {formats.duration(fresh)}"
        if fresh >= 0
        else f"{text}; stale for {formats.duration(-fresh)}"
    )


def _last_miss(explanation: Explanation) -> str:
    miss = explanation.last_miss
    if miss is None:
        return ""
    return f"{formats.duration(miss.ago_seconds)} ago, client {miss.client}: {miss.why} (request {miss.request_id})"

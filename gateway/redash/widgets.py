"""A dashboard as Redash's front end shows it: its widgets in the order of the page, and where their values come from.

A widget maps each parameter of its query to a value (`options.parameterMappings`): one of the dashboard, one of its
own, or a fixed one. The server stores that and does not read it; the rules are those of the front end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from gateway.errors import BadRequest, UpstreamUnusable
from gateway.model import Definition, Parameter
from gateway.redash import template
from gateway.redash.limits import NOT_SUCH, Id
from gateway.redash.objects import LONGEST_PARAMETERS, MOST_PARAMETERS, parse_parameters_of
from gateway.redash.parameters import defaults, parse_parameters, undeclared

MOST_WIDGETS: Final = 1_000
"""With a query, on one dashboard."""

_LONGEST_NAME: Final = 1_000
_ENDS: Final = ("", ".start", ".end")


class Mapping(msgspec.Struct, frozen=True):
    """Where a parameter of a widget's query gets its value from."""

    kind: Literal["dashboard-level", "widget-level", "static-value"] = "widget-level"
    target: str = ""
    """Of `dashboard-level`: the name of the dashboard's parameter."""
    value: object = None
    """Of `static-value`."""


class Widget(msgspec.Struct, frozen=True):
    """A widget that shows a query; `query_id` is None where its reader may not see which."""

    id: int
    query_id: int | None
    visualization_id: int | None
    mappings: dict[str, Mapping]

    def mapping(self, name: str) -> Mapping:
        """Return where a parameter of the query gets its value; one that is new in the query is the widget's own."""
        return self.mappings.get(name, _OWN)

    def argument(self, name: str) -> str:
        """Return what the URL calls the value of a parameter, without `p_`; "" for a fixed one."""
        mapping = self.mapping(name)
        if mapping.kind == "static-value":
            return ""
        return mapping.target if mapping.kind == "dashboard-level" else f"w{self.id}_{name}"


_OWN: Final = Mapping()


class Board(msgspec.Struct, frozen=True):
    """A dashboard with its widgets, in the order of its page."""

    id: int
    name: str
    slug: str
    widgets: tuple[Widget, ...]
    shared: dict[str, Parameter]
    """The dashboard's parameters by name, each as the first widget has it that uses it."""

    def check_arguments(self, arguments: Iterable[tuple[str, str]]) -> None:
        """Refuse values for parameters that the dashboard does not have.

        Raises:
            BadRequest: names those that it has.
        """
        known = {w.argument(name) for w in self.widgets for name in w.mappings} - {""}
        known |= set(self.shared)
        for name, _ in arguments:
            if name[2:] not in known and name[2:].removesuffix(".start").removesuffix(".end") not in known:
                names = ", ".join(f"p_{one}" for one in sorted(known)) or "none"
                raise BadRequest(f"The dashboard has no parameter '{name[2:]}'; it has: {names}.")

    def values(
        self, widget: Widget, definition: Definition, arguments: Sequence[tuple[str, str]], now: datetime
    ) -> dict[str, object]:
        """Return the values with which a widget's query runs. `now` is in the time zone of dynamic dates.

        Raises:
            BadRequest: a value does not fit, or a parameter has none: names the argument.
        """
        loose = (Parameter(name=name) for name in sorted(_loose(definition.text, definition.parameters)))
        given: list[tuple[str, str]] = []
        mapped: list[Parameter] = []
        for parameter in (*definition.parameters, *loose):
            given += _renamed(arguments, widget.argument(parameter.name), parameter.name)
            mapped.append(self._with_default(widget, parameter))
        changed = msgspec.structs.replace(definition, parameters=tuple(mapped))
        known = defaults(changed, now).keys() | {name[2:].partition(".")[0] for name, _ in given}
        missing = sorted({name.partition(".")[0] for name in template.names(definition.text)} - known - {""})
        if missing:
            raise BadRequest(
                f"Parameter '{missing[0]}' of query {definition.query_id} has no default: "
                f"give p_{widget.argument(missing[0])}=<value>."
            )
        return parse_parameters(changed, given, now)

    def _with_default(self, widget: Widget, parameter: Parameter) -> Parameter:
        mapping = widget.mapping(parameter.name)
        if mapping.kind == "static-value":
            return msgspec.structs.replace(parameter, value=mapping.value)
        first = self.shared.get(mapping.target) if mapping.kind == "dashboard-level" else None
        return parameter if first is None else msgspec.structs.replace(parameter, value=first.value)


def _renamed(arguments: Sequence[tuple[str, str]], argument: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield the values that the URL gives to a parameter, under the name that it has in the query."""
    for given, value in arguments if argument else ():
        for end in _ENDS:
            if given == f"p_{argument}{end}":
                yield f"p_{name}{end}", value


def _loose(text: str, parameters: Sequence[Parameter]) -> frozenset[str]:
    """Return the names that a template uses without a definition."""
    named = {parameter.name for parameter in parameters}
    return frozenset({name.partition(".")[0] for name in undeclared(text, parameters)} - named - {""})


class _Query(msgspec.Struct):
    id: Id
    query: object = None
    options: object = None


class _Visualization(msgspec.Struct):
    id: object = None
    query: _Query | None = None


class _Widget(msgspec.Struct):
    id: Id
    visualization: _Visualization | None = None
    options: object = None
    restricted: object = None


class _Board(msgspec.Struct):
    id: Id
    name: object = None
    slug: object = None
    widgets: tuple[_Widget, ...] | None = None


_boards = msgspec.json.Decoder(_Board, strict=False)


def parse_board(data: bytes) -> Board:
    """Parse a dashboard object; texts are left out.

    Raises:
        UpstreamUnusable: it is none, or it has too many widgets or parameters.
    """
    try:
        board = _boards.decode(data)
    except NOT_SUCH:
        raise UpstreamUnusable("Redash's response is not a dashboard object.") from None
    shown = [w for w in board.widgets or () if _query_of(w) is not None or w.restricted]
    shown.sort(key=_position)
    parameters = [list(_parameters(widget)) for widget in shown]
    if len(shown) > MOST_WIDGETS or sum(map(len, parameters)) > MOST_PARAMETERS:
        raise UpstreamUnusable("This dashboard has more widgets or parameters than the gateway takes.")
    widgets = tuple(_widget(widget, own) for widget, own in zip(shown, parameters, strict=True))
    shared: dict[str, Parameter] = {}
    for widget, own in zip(widgets, parameters, strict=True):
        for parameter, _ in own:
            mapping = widget.mapping(parameter.name)
            if mapping.kind == "dashboard-level":
                shared.setdefault(mapping.target, parameter)
    if len(msgspec.json.encode((widgets, shared))) > LONGEST_PARAMETERS:
        raise UpstreamUnusable("The parameters of this dashboard take too much memory.")
    return Board(board.id, _text(board.name), _text(board.slug), widgets, shared)


def _query_of(widget: _Widget) -> _Query | None:
    return widget.visualization.query if widget.visualization is not None else None


def _parameters(widget: _Widget) -> Iterator[tuple[Parameter, bool]]:
    """Yield the parameters of a widget's query, declared or not, and whether each is of the old kind `global`."""
    query = _query_of(widget)
    if query is None:
        return
    options = query.options if isinstance(query.options, dict) else {}
    listed = options.get("parameters")
    declared = parse_parameters_of(listed)
    members = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    is_global = {one.get("name"): bool(one.get("global")) for one in members}
    text = query.query if isinstance(query.query, str) else ""
    for parameter in declared:
        yield parameter, is_global.get(parameter.name, False)
    for name in sorted(_loose(text, declared)):
        yield Parameter(name=name), False


def _widget(widget: _Widget, parameters: Sequence[tuple[Parameter, bool]]) -> Widget:
    options = widget.options if isinstance(widget.options, dict) else {}
    mappings = options.get("parameterMappings")
    known = mappings if isinstance(mappings, dict) else {}
    query, shown = _query_of(widget), widget.visualization
    return Widget(
        id=widget.id,
        query_id=query.id if query is not None else None,
        visualization_id=shown.id if shown is not None and isinstance(shown.id, int) else None,
        mappings={p.name: _mapping(p.name, known.get(p.name), is_global=old) for p, old in parameters},
    )


def _mapping(name: str, members: object, *, is_global: bool) -> Mapping:
    """Parse one mapping. Without one, a parameter of the old kind `global` is the dashboard's."""
    if not isinstance(members, dict):
        return Mapping("dashboard-level", name) if is_global else _OWN
    kind, target = members.get("type"), members.get("mapTo")
    if kind == "dashboard-level":
        return Mapping("dashboard-level", target if isinstance(target, str) and target else name)
    return Mapping("static-value", "", members.get("value")) if kind == "static-value" else _OWN


def _position(widget: _Widget) -> tuple[float, float, int]:
    """Return where it is on the page: by row, then column."""
    options: Any = widget.options if isinstance(widget.options, dict) else {}
    position = options.get("position")
    place = position if isinstance(position, dict) else {}
    row, column = (place.get(name) for name in ("row", "col"))
    return (_number(row), _number(column), widget.id)


def _number(value: object) -> float:
    """Return a number as it is: an integer of hundreds of digits is larger than every double, but has its place."""
    return value if isinstance(value, int | float) else math.inf


def _text(value: object) -> str:
    return value[:_LONGEST_NAME] if isinstance(value, str) else ""

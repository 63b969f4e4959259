"""The table of routes: the template that a path matches and its handlers. The handlers are in the api modules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .request import Request
from .response import Response

Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Resource:
    """`login`: requests without a caller never reach the handler. `rest`: errors have the form of Flask-RESTful,
    and OPTIONS needs no login. `embeddable`: other sites may show it in a frame."""

    template: str
    login: bool = True
    rest: bool = True
    embeddable: bool = False
    handlers: dict[str, Handler] = field(default_factory=dict)

    def handler(self, method: str) -> Handler | None:
        """The handler of this method; HEAD is a GET."""
        return self.handlers.get("GET" if method == "HEAD" else method)

    @property
    def allow(self) -> str:
        """The Allow header; GET always works, because the front-end page has every path."""
        return ", ".join(sorted({*self.handlers, "GET", "HEAD", "OPTIONS"}))


class Routes:
    """Fixed paths first, then patterns in the order they were added."""

    def __init__(self) -> None:
        self._fixed: dict[str, Resource] = {}
        self._patterns: list[tuple[re.Pattern[str], Resource]] = []

    def add(
        self, method: str, template: str, *, login: bool = True, rest: bool = True, embeddable: bool = False
    ) -> Callable[[Handler], Handler]:
        """A decorator: the function handles this method on this template."""

        def register(handler: Handler) -> Handler:
            resource = self._resource(Resource(template, login, rest, embeddable))
            resource.handlers[method] = handler
            return handler

        return register

    def _resource(self, new: Resource) -> Resource:
        if "<" not in new.template:
            return self._fixed.setdefault(new.template, new)
        known = next((known for _, known in self._patterns if known.template == new.template), None)
        if known is None:
            self._patterns.append((_pattern(new.template), new))
        return known or new

    def find(self, path: str, missing: frozenset[str] = frozenset()) -> tuple[Resource, dict[str, str]] | None:
        """The resource for a decoded path, with the path's variables; `missing` are templates that do not exist."""
        fixed = self._fixed.get(path)
        if fixed is not None and path not in missing:
            return fixed, {}
        known = ((pattern, resource) for pattern, resource in self._patterns if resource.template not in missing)
        matches = ((pattern.fullmatch(path), resource) for pattern, resource in known)
        return next(((resource, match.groupdict()) for match, resource in matches if match), None)

    def similar(self, path: str, missing: frozenset[str]) -> list[str]:
        """Up to three templates of REST resources that are like this path once their variables are cut out."""
        resources = [*self._fixed.values(), *(resource for _, resource in self._patterns)]
        templates = [resource.template for resource in resources if resource.rest and resource.template not in missing]
        bare = {re.sub("<.*>", "", template): template for template in templates}
        return [bare[match] for match in difflib.get_close_matches(path, bare)]


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"<(\w+)>", template)
    return re.compile("".join(f"(?P<{part}>[^/]+?)" if i % 2 else re.escape(part) for i, part in enumerate(parts)))


routes = Routes()
"""Filled by the api modules when they are imported."""

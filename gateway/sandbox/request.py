"""A request as the handlers see it: decoded path, arguments and body, the caller, and the state behind the routes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from .database import Database
from .objects import Caller, User
from .response import BAD_REQUEST, BROKEN, FORBIDDEN, NO_LOGIN, abort
from .state import State
from .versions import Version


@dataclass
class Request:
    """`path` is decoded and has no organisation slug; `org` is None for an unknown slug; `params` come from `path`."""

    state: State
    method: str
    target: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes
    org: int | None
    slug: str
    params: dict[str, str] = field(default_factory=dict)
    caller_or_none: Caller | None = None
    session: str | None = None

    @property
    def database(self) -> Database:
        """The objects of the whole Redash, of all organisations."""
        return self.state.database

    @property
    def version(self) -> Version:
        """What this Redash does differently."""
        return self.state.version

    @property
    def caller(self) -> Caller:
        """404 without a caller."""
        if self.caller_or_none is None:
            abort(404, NO_LOGIN)
        return self.caller_or_none

    @property
    def user(self) -> User:
        """500 for API users: routes that need a person break on them (CONTRACT 2)."""
        user = self.caller.user
        if user is None:
            abort(500, BROKEN)
        return user

    @property
    def org_id(self) -> int:
        """The organisation, 0 for an unknown one."""
        return self.org or 0

    @property
    def host_url(self) -> str:
        """Forwarded headers are trusted from everybody (CONTRACT 18)."""
        scheme = self.headers.get("X-Forwarded-Proto", "http")
        return f"{scheme}://{self.headers.get('X-Forwarded-Host') or self.headers.get('Host', 'localhost')}"

    def arg(self, name: str, default: str = "") -> str:
        """The first value of a repeated argument."""
        return next((value for key, value in self.query if key == name), default)

    def has_arg(self, name: str) -> bool:
        """Whether the argument is present, even if it is empty."""
        return any(key == name for key, _ in self.query)

    def args(self, name: str) -> list[str]:
        """All values of a repeated argument."""
        return [value for key, value in self.query if key == name]

    def json(self) -> Any:
        """The body, whatever its Content-Type is; 400 if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            abort(400, BAD_REQUEST)

    def json_object(self) -> dict[str, Any]:
        """500 for JSON that is not an object: Redash reads its members."""
        value = self.json()
        if not isinstance(value, dict):
            abort(500, BROKEN)
        return value

    def need(self, permission: str) -> None:
        """403 without this permission."""
        if not self.caller.may(permission):
            abort(403, FORBIDDEN)

    def require(self, granted: bool, text: str = FORBIDDEN) -> None:
        """403 unless granted."""
        if not granted:
            abort(403, text)


def split_target(target: str) -> tuple[str, list[tuple[str, str]]]:
    """Decoded path and arguments of a raw target: absolute form is cut, leading slashes collapse (CONTRACT 20)."""
    raw, _, query = target.partition("?")
    if "://" in raw[:8]:
        raw = "/" + raw.split("/", 3)[-1]
    path = "/" + unquote(raw, errors="replace").lstrip("/")
    return path, parse_qsl(query, keep_blank_values=True)

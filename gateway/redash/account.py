"""What Redash says of a key: whose it is, and what it can see. Its users chose the names: print them with care."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from gateway.redash.limits import NOT_SUCH, Id

Parsed = TypeVar("Parsed")


class Account(msgspec.Struct, frozen=True):
    """The user of a key, of `/api/session`."""

    id: int = 0
    name: str = ""
    email: str = ""
    permissions: frozenset[str] = frozenset()

    @property
    def is_admin(self) -> bool:
        """Whether it may see and change everything."""
        return "admin" in self.permissions

    @property
    def can_execute(self) -> bool:
        """Whether it may run queries at all."""
        return self.is_admin or "execute_query" in self.permissions


class Session(msgspec.Struct, frozen=True):
    """`org_slug` is the organisation's, "default" where there is only one."""

    user: Account
    org_slug: str = ""


class Named(msgspec.Struct, frozen=True):
    """An object in a list. `slug` is a dashboard's."""

    id: Id
    name: str = ""
    slug: str = ""
    view_only: bool = False


class Page(msgspec.Struct, frozen=True):
    """A page of a list of queries or dashboards; `count` is the length of the whole list."""

    count: int
    results: list[Named] = []


def parse_session(data: bytes) -> Session | None:
    """Parse `/api/session`; None if this is none."""
    return _parse(data, Session)


def parse_page(data: bytes) -> Page | None:
    """Parse a page of queries or dashboards; None if this is none."""
    return _parse(data, Page)


def parse_sources(data: bytes) -> list[Named] | None:
    """Parse the list of data sources; None if this is none."""
    return _parse(data, list[Named])


def parse_named(data: bytes) -> Named | None:
    """Parse one object; None if this is none."""
    return _parse(data, Named)


def _parse(data: bytes, kind: type[Parsed]) -> Parsed | None:
    try:
        return msgspec.json.decode(data, type=kind)
    except NOT_SUCH:
        return None

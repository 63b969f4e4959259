"""Callers and what they may do: the caller of a key, and Redash's two access checks (CONTRACT 1, 2). Pure look-ups."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .database import Database
from .objects import Caller, DataSource, Query, User


class BadIdError(Exception):
    """An id that PostgreSQL cannot read; Redash responds with 500."""


class UnknownOwnerError(Exception):
    """A key that belongs to no user, with a query id or slug that does not exist; Redash fails in the look-up (500)."""


def number(text: str) -> int:
    """An id as PostgreSQL reads it: signs, blanks and leading zeros are allowed, digits outside ASCII are not."""
    if not re.fullmatch(r"[ \t\n\r\f\v]*[+-]?[0-9]+[ \t\n\r\f\v]*", text, re.ASCII) or abs(int(text)) >= 2**31:
        raise BadIdError(text)
    return int(text)


def find_caller(database: Database, key: str, org: int | None, query_id: str | None) -> Caller | None:
    """The caller behind a key. Query keys are valid only where the path has a query id (CONTRACT 1)."""
    if not key:
        return None
    user = next((u for u in database.users.values() if u.api_key == key and u.org == org), None)
    if user is not None:
        return None if user.disabled_at is not None else as_caller(database, user)
    board = database.board_of_token(key)
    if board is not None:
        return Caller(board.org, api_key=key)
    return _by_query_key(database, key, org, query_id) if query_id else None


def _by_query_key(database: Database, key: str, org: int | None, query_id: str) -> Caller | None:
    try:
        query = database.queries.get(number(query_id))
    except BadIdError as error:
        raise UnknownOwnerError(query_id) from error
    if query is None or query.org != org:
        raise UnknownOwnerError(query_id)
    if query.api_key != key:
        return None
    source = database.sources.get(query.data_source_id or 0)
    return Caller(query.org, api_key=key, groups=tuple(source.groups if source else ()))


def as_caller(database: Database, user: User) -> Caller:
    """A user as caller, with the permissions of all groups of the user."""
    permissions = tuple(dict.fromkeys(database.permissions(user)))
    return Caller(user.org, user, groups=tuple(user.groups), permissions=permissions)


def reaches_groups(groups: Mapping[int, bool], caller: Caller, *, view_only: bool) -> bool:
    """Result and source access: by the groups of a data source."""
    if caller.may("admin"):
        return True
    matching = [groups[id] for id in caller.groups if id in groups]
    return bool(matching) and (view_only or not all(matching))


def reaches_source(source: DataSource | None, caller: Caller, *, view_only: bool) -> bool:
    """Like `reaches_groups`; without a source only admins have access."""
    return reaches_groups(source.groups if source else {}, caller, view_only=view_only)


def reaches_query(database: Database, query: Query, caller: Caller, *, view_only: bool) -> bool:
    """Query access: API users by key, others by the groups of the query's source."""
    if caller.is_api_user:
        return view_only and (query.api_key == caller.api_key or _on_board(database, query, caller.api_key))
    return reaches_source(database.sources.get(query.data_source_id or 0), caller, view_only=view_only)


def _on_board(database: Database, query: Query, token: str) -> bool:
    board = database.board_of_token(token)
    return board is not None and query.id in database.queries_on(board.id)


def owns(owner_id: int, caller: Caller) -> bool:
    """Whether the caller is the owner or an admin."""
    return caller.user is not None and (caller.user.id == owner_id or caller.may("admin"))


def is_safe(query: Query) -> bool:
    """Whether no parameter *definition* has type text; undeclared names count as safe (CONTRACT 2)."""
    return all(definition.get("type") != "text" for definition in query.parameters)

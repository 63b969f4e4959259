"""Which client calls, what it may do, and with which credential. Pure: depends on configuration and request only."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from gateway import config
from gateway.errors import BadRequest, Forbidden, Unauthorized
from gateway.redash.arguments import parse_query_token
from gateway.redash.matching import Match
from gateway.redash.requests import Operation, ReadParameterised
from gateway.secret import Secret

ANONYMOUS: Final = "anonymous"

TOKEN_FIELDS: Final = ("Authorization", "X-API-Key")
"""The request fields that may contain a token. `Vary`, CORS and the refusal of two tokens use this list, too."""

_REFUSED: Final = "This request needs a token that the gateway knows: send 'Authorization: Key <token>'."


_TOKEN_LIKE: Final = re.compile(r"rg_[\w-]{20,}")
"""Of the making of `redash-gateway token`."""

_NO_WORD: Final = re.compile(r"[^\w.~+-]+")

_MOST_ADMITTED: Final = 1_024
"""Number of fields whose client is cached: only those with valid tokens, so others cannot evict them."""

_MOST_GRANTS: Final = 4_096
"""Number of (client, path) whose right and credential are cached."""

_LONGEST_ADMITTED: Final = 256
"""Longer fields are not cached: `Basic` may contain a name of any length before the token."""


class Credential(msgspec.Struct, frozen=True, weakref=True):
    """A Redash key that the gateway keeps, with the only URL that it is sent to and the scope of what it fetches there.

    They are one value: what began with it ends with it, whatever the configuration says meanwhile.
    """

    name: str
    kind: str
    query_id: int | None
    url: str
    key: Secret
    scope: str
    """Whose results these are: nothing is shared across scopes. It is that of the key, or of the user's first key."""

    @property
    def scope_of_key(self) -> str:
        """The scope of the key alone: upstream URL and fingerprint."""
        return _scope_of_key(self.url, self.key)

    @property
    def is_query_key(self) -> bool:
        """Whether it is a query's own key, with the narrow rights of CONTRACT 2."""
        return self.kind == "query"


class Caller(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """A client of the configuration, with the settings in its table."""

    name: str
    settings: config.Client

    def may(self, capability: str) -> bool:
        """Whether the capability is granted."""
        return capability in self.settings.can

    def has_expired(self, now: float) -> bool:
        """Whether its tokens are refused by now (unix seconds): the date in its table is that of all of them."""
        return self.settings.expires is not None and now >= self.settings.expires

    @property
    def is_bound(self) -> bool:
        """Whether it may use some queries only."""
        return self.settings.is_bound

    def owns(self, token_sha256: str) -> bool:
        """Whether runs started with this token are the client's: a client that takes over a name inherits nothing.

        "" stands for no token, as `anonymous` has it.
        """
        return not token_sha256 or token_sha256 in self.settings.token_sha256

    def keeps_rights_of(self, before: Caller) -> bool:
        """Whether it may do all that `before`, the same client in an earlier configuration, was allowed."""
        old, new = before.settings, self.settings
        return (
            set(old.can) <= set(new.can)
            and new.reveal_keys >= old.reveal_keys
            and new.text_parameters >= old.text_parameters
            and (not new.is_bound or (old.is_bound and _within(old, new)))
        )


NOBODY: Final = Caller("-", config.Client(credentials=()))
"""The caller of a request that needs no token; it may do nothing."""


class Access:
    """The clients and credentials of one configuration."""

    def __init__(self, settings: config.Config) -> None:
        self.callers = {name: Caller(name, client) for name, client in settings.clients.items()}
        self._by_digest = {h: c for c in self.callers.values() for h in c.settings.token_sha256}
        url = settings.upstream.url
        self.credentials = {name: _credential(name, c, url) for name, c in settings.credentials.items()}
        self._query_keys = {c.query_id: c for c in self.credentials.values() if c.is_query_key}
        self._admitted = lru_cache(_MOST_ADMITTED)(self._by_field)
        self.grant = lru_cache(_MOST_GRANTS)(self._grant)

    def adopt(self, scopes: Mapping[str, str]) -> None:
        """Give users' credentials other scopes, by those that they have; only before the first request."""
        for name, one in self.credentials.items():
            if not one.is_query_key and one.scope in scopes:
                self.credentials[name] = msgspec.structs.replace(one, scope=scopes[one.scope])

    @property
    def has_query_keys(self) -> bool:
        """Whether one of the credentials is a query's own key."""
        return bool(self._query_keys)

    def admit(self, token: tuple[str, str] | None, query_string: str, now: float) -> tuple[Caller, str]:
        """Return the client that calls, and its token (SHA-256, hex; "" for anonymous). `now` is unix seconds.

        `token` is name and value of the header that brings it; without one, the argument of Redash's name is read.

        Raises:
            Unauthorized: no token, an unknown or an expired one: the same text for all three.
            BadRequest: a Basic header that cannot be decoded.
        """
        if token is None:
            caller, hashed = self._by_argument(parse_query_token(query_string))
        elif len(token[1]) <= _LONGEST_ADMITTED:
            caller, hashed = self._admitted(*token)
        else:
            caller, hashed = self._by_field(*token)
        if caller.has_expired(now):
            raise Unauthorized(_REFUSED)
        return caller, hashed

    def _by_field(self, name: str, value: str) -> tuple[Caller, str]:
        # A look-up by hash compares nothing secret: its timing depends on the hash of what the caller itself sent.
        for hashed in map(_hash, parse_tokens(name, value)):
            if (caller := self._by_digest.get(hashed)) is not None:
                return caller, hashed
        raise Unauthorized(_REFUSED)

    def _by_argument(self, token: str | None) -> tuple[Caller, str]:
        hashed = _hash(token) if token is not None else ""
        caller = self._by_digest.get(hashed) if hashed else self.callers.get(ANONYMOUS)
        if caller is None or (hashed and not caller.settings.query_token):
            raise Unauthorized(_REFUSED)
        return caller, hashed

    def without_tokens(self, arguments: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """Return the arguments without those that hold a client's token, in name or value: none reaches Redash."""
        return tuple((n, v) for n, v in arguments if not (self._holds_token(n) or self._holds_token(v)))

    def _holds_token(self, text: str) -> bool:
        """Whether a text is a token or has one in it; within a longer word only those of our own making are found."""
        words = (text, *_NO_WORD.split(text))
        return _TOKEN_LIKE.search(text) is not None or any(_hash(word) in self._by_digest for word in words)

    def still_admits(self, client: str, token_sha256: str, now: float) -> bool:
        """Whether a request that was admitted before would be admitted now, after a change of the configuration."""
        caller = self._by_digest.get(token_sha256) if token_sha256 else self.callers.get(ANONYMOUS)
        return caller is not None and caller.name == client and not caller.has_expired(now)

    def _grant(self, caller: Caller, match: Match) -> Credential | None:
        """Return the credential for Redash, None where no credential of the client can be used.

        Raises:
            Forbidden: the client's table does not grant this route.
        """
        check_capability(caller, match)
        return self.credential(caller, match)

    def credential(self, caller: Caller, match: Match) -> Credential | None:
        """Choose the credential for Redash: the first of the client's that can use the route for the query, else None.

        The choice depends on route and query only, never on a refusal of Redash.
        """
        query_id = match.query_id
        for name in caller.settings.credentials:
            credential = self._query_keys.get(query_id) if name == "query" else self.credentials[name]
            if credential is not None and (not credential.is_query_key or query_key_can(credential, match)):
                return credential
        return None

    def user_credential(self, caller: Caller) -> Credential:
        """Return the first of the client's credentials that is a user's: only those can read dashboards.

        Raises:
            Forbidden: the client has none.
        """
        for name in caller.settings.credentials:
            if name != "query" and not self.credentials[name].is_query_key:
                return self.credentials[name]
        raise Forbidden(f"Client '{caller.name}' has no user credential; reading a dashboard needs one.")

    def scopes(self, caller: Caller) -> frozenset[str]:
        """Return every scope that the client's results can come from."""
        names = caller.settings.credentials
        chosen = [self.credentials[n] for n in names if n != "query"]
        return frozenset(c.scope for c in chosen + (list(self._query_keys.values()) if "query" in names else []))

    def of_scope(self, scope: str) -> Credential | None:
        """Return the credential with that scope, None if it is no longer configured."""
        return next((c for c in self.credentials.values() if c.scope == scope), None)


def _within(old: config.Client, new: config.Client) -> bool:
    return set(old.queries) <= set(new.queries) and set(old.dashboards) <= set(new.dashboards)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _credential(name: str, settings: config.Credential, url: str) -> Credential:
    return Credential(name, settings.kind, settings.query, url, settings.key, _scope_of_key(url, settings.key))


def _scope_of_key(url: str, key: Secret) -> str:
    return hashlib.sha256(f"{url}\n{key.fingerprint()}".encode()).hexdigest()[:32]


def parse_tokens(name: str, value: str) -> tuple[str, ...]:
    """Return what may be the token in one of `TOKEN_FIELDS`: one text, or both parts of `Basic`.

    `Authorization` has `Key T`, `Bearer T`, bare `T`, or `Basic` with it as the password or the user.

    Raises:
        BadRequest: `Basic` that is not base64 of `name:password`.
    """
    scheme, _, rest = value.strip().partition(" ")
    if not rest or name != "Authorization":
        return (value.strip(),)
    if scheme.lower() in ("key", "bearer"):
        return (rest.strip(),)
    if scheme.lower() != "basic":
        return (value,)
    try:
        user, _, password = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
    except ValueError:  # of base64, of UTF-8, or for what is not ASCII
        raise BadRequest("The Basic Authorization header is not base64 of name:token.") from None
    return (password, user)


def query_key_can(credential: Credential, match: Match) -> bool:
    """Whether a query's own key can use the route (CONTRACT 2): only below its own query's path, and no edits."""
    return match.route.query_key and match.query_id == credential.query_id


def check_capability(caller: Caller, match: Match) -> None:
    """Refuse what the client's table does not grant.

    Raises:
        Forbidden: names the missing capability.
    """
    if not caller.may(match.route.capability):
        raise _lacks(caller, match.route.capability)
    if caller.is_bound and match.route.lists:
        raise Forbidden(f"Client '{caller.name}' is bound to some queries and may not use lists and search.")


def check_operation(caller: Caller, operation: Operation) -> None:
    """Refuse what only the arguments show: a GET that may run a query.

    Raises:
        Forbidden: the client may not execute.
    """
    if isinstance(operation, ReadParameterised) and not caller.may("execute"):
        raise _lacks(caller, "execute")


def _lacks(caller: Caller, capability: str) -> Forbidden:
    return Forbidden(f"Client '{caller.name}' lacks the capability '{capability}' for this request.")

"""Whose key a credential is: a new key of the same Redash user has the scope of the old one, and so its results.

Only Redash's own word counts, and only for the keys of users. The scope of a key that nobody has asked about is its
own, and nothing is shared with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Final

from gateway.errors import CredentialRejected, GatewayError
from gateway.model import digest
from gateway.outcome import Sender
from gateway.policy.access import Access, Credential
from gateway.policy.configured import Live
from gateway.redash import calls
from gateway.redash.account import parse_session
from gateway.store import Ledger
from gateway.upstream.protocol import Upstream

events = logging.getLogger("gateway.events")

PATIENCE_SECONDS: Final = 5.0
"""So long a start or a reload waits for Redash to say whose the new keys are."""

_FIRST_PAUSE_SECONDS: Final = 60.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_SENDER: Final = Sender("gateway", "identity")


class Identities:
    """Finds the scopes of user credentials. The ledger has a scope for each user, for each key, and for each server.

    The first key of a user gives the user its scope, so a gateway whose keys never change has the scopes of its keys.
    """

    def __init__(self, live: Live, upstream: Upstream, ledger: Ledger) -> None:
        self._live = live
        self._upstream = upstream
        self._ledger = ledger
        self._known: dict[str, str] = {}  # by the scope of the key alone; of the credentials in force
        self._accepted: dict[str, bool] = {}  # what Redash has said to each key that it was asked about, by name
        self._learning: asyncio.Task[None] | None = None

    async def adopt(self, access: Access) -> Mapping[str, bool]:
        """Give the credentials the scopes of their users, before any of them is used.

        Redash is asked about new keys only if a user of the same server is known, whose key one of them may be. Returns
        by name which of those Redash accepts, as far as it has responded.
        """
        accepted = self._accepted = {}
        users = [credential for credential in access.credentials.values() if not credential.is_query_key]
        found = {one.scope: scope for one in users if (scope := await self._recorded(one)) is not None}
        unknown = [one for one in users if one.scope not in found and await self._has_users(one.url)]
        if unknown:
            found |= await self._ask(unknown)
        self._known = found
        access.adopt(found)
        return accepted

    async def _ask(self, unknown: list[Credential]) -> dict[str, str]:
        tasks = [asyncio.create_task(self._learn(one)) for one in unknown]
        try:
            await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        found = {one.scope: scope for one, scope in zip(unknown, answers, strict=True) if isinstance(scope, str)}
        for one in unknown:
            if one.scope not in found:
                text = "credential '%s': Redash does not say whose its key is; nothing that is stored is used for it"
                events.warning(text, one.name)
            elif found[one.scope] != one.scope:
                events.info("credential '%s': a new key of the same Redash user; its results stay", one.name)
        return found

    async def _recorded(self, credential: Credential) -> str | None:
        key = credential.scope_of_key
        return self._known.get(key) or await self._ledger.scope_of(_name("key", key))

    async def _has_users(self, url: str) -> bool:
        return await self._ledger.scope_of(_name("server", url)) is not None

    async def _learn(self, credential: Credential) -> str | None:
        """Ask whose the key is, record it, and return the scope; None if that is not certain."""
        user, key = await self._user_of(credential), credential.scope_of_key
        if user is None or (scope := await self._ledger.record_scope(user, key)) is None:
            return None
        await self._ledger.record_scope(_name("server", credential.url), key)
        return await self._ledger.record_scope(_name("key", key), scope)

    async def _user_of(self, credential: Credential) -> str | None:
        """Return a name for server and user. The address is part of it: a new installation counts its users anew."""
        try:
            response = await self._upstream.send(credential, calls.session(), _SENDER)
        except GatewayError as error:
            if isinstance(error, CredentialRejected):
                self._accepted[credential.name] = False
            return None
        self._accepted[credential.name] = True
        session = parse_session(response.body.load()) if response.status == 200 else None
        if session is None or session.user.id < 1 or not session.user.email:
            return None
        return _name("user", credential.url, str(session.user.id), session.user.email)

    def begin(self) -> None:
        """From now on, learn in the background whose the keys in force are, so that they can be replaced one day."""
        self._live.on_change.append(self._learn_anew)
        self._learn_anew()

    def _learn_anew(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
        self._learning = asyncio.get_running_loop().create_task(self._learn_all())

    async def _learn_all(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not await self.learn():
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def learn(self) -> bool:
        """Ask about one unknown key after the other; return whether all are known now.

        No scope changes under a request: the next `adopt` uses what was learnt.
        """
        users = [one for one in self._live.access.credentials.values() if not one.is_query_key]
        unknown = [one for one in users if await self._recorded(one) is None]
        return None not in [await self._learn(one) for one in unknown]

    async def aclose(self) -> None:
        """End what is under way."""
        if self._learning is not None:
            self._learning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._learning


def _name(kind: str, *parts: str) -> str:
    """Return the name under which a scope is recorded. It shows nobody's address, and no key."""
    return f"{kind}:{digest(*(part.encode() for part in parts)).hex()[:32]}"

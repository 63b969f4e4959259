"""`check --online`: what Redash says to every credential of a configuration, or why it says nothing; and the Redis that
gateways share.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, NamedTuple

from gateway import config
from gateway.app.inquiry import Inquiry, MistakeError, inquiry
from gateway.app.settings import store_options
from gateway.config.values import AUTOMATIC
from gateway.model import SystemClock
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash import calls
from gateway.redash.account import Named
from gateway.redash.organisation import RedashVersion
from gateway.store import factory

MOST_AHEAD_SECONDS: Final = 2.0
"""`Date` has whole seconds, and takes its time on the way."""

_MOST_NAMES: Final = 5


class Findings(NamedTuple):
    """What an online check has found, one line each; those of mistakes begin with the key that causes them."""

    notes: list[str]
    mistakes: list[str]


async def check_online(settings: config.Config, say: Callable[[str], None] = lambda text: None) -> Findings:
    """Try Redash with every credential, and Redis if the store is one; `say` is called with what is being done."""
    redash, shared = await _redash(settings, say), await _redis(settings, say)
    return Findings([*redash.notes, *shared.notes], [*redash.mistakes, *shared.mistakes])


async def _redis(settings: config.Config, say: Callable[[str], None]) -> Findings:
    if not config.is_redis(settings.cache.store):
        return Findings([], [])
    say("asking Redis")
    found = await factory.examine(settings.cache.store, store_options(settings, SystemClock()))
    return Findings(
        [f"cache.store: {line}" for line in found.notes], [f"cache.store: {line}" for line in found.mistakes]
    )


async def _redash(settings: config.Config, say: Callable[[str], None]) -> Findings:
    live, keys, mistakes = Live(settings), {}, []
    async with inquiry(settings, live, say) as redash:
        for credential in live.access.credentials.values():
            try:
                keys[credential.name] = await _described(redash, credential)
            except MistakeError as mistake:
                mistakes.append(f"{mistake.key}: {mistake.detail}")
                if mistake.key.startswith("upstream."):
                    break  # it is the same for the other credentials
    mistakes += _wrong_version(settings.upstream.version, redash.version)
    return Findings([*_about(settings, redash), *_aligned(keys)] if keys else [], mistakes)


async def _described(redash: Inquiry, credential: Credential) -> str:
    """Return whose key it is and what it can see."""
    if credential.query_id is not None:
        name = await redash.query_name(credential, credential.query_id)
        return f'key of query {credential.query_id} "{name}"'
    user = (await redash.session(credential)).user
    who = f"key of {user.name} ({user.email})" + (", an administrator" if user.is_admin else "")
    can = "" if user.can_execute else "; may not run queries"
    return f"{who}{can}; sees {', '.join([text async for text in _seen(redash, credential)]) or 'nothing'}"


async def _seen(redash: Inquiry, credential: Credential) -> AsyncIterator[str]:
    lists = {"queries": calls.queries(1, 1), "dashboards": calls.dashboards(1, 1)}
    for name, request in lists.items():
        if (page := await redash.page(credential, request)) is not None:
            yield f"{page.count} {name}"
    if (sources := await redash.sources(credential)) is not None:
        yield f"data sources: {_names(sources)}"


def _names(sources: list[Named]) -> str:
    shown = [source.name + (" (only to view)" if source.view_only else "") for source in sources[:_MOST_NAMES]]
    more = len(sources) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "") if shown else "none"


def _about(settings: config.Config, redash: Inquiry) -> Iterator[str]:
    configured = settings.upstream.version
    yield (redash.version if configured == AUTOMATIC else RedashVersion(configured)).meaning()
    if redash.slug:
        yield f"organisation: {redash.slug}"
    if redash.ahead is not None:
        if abs(redash.ahead) <= MOST_AHEAD_SECONDS:
            yield f"clocks: Redash's and this one differ by at most {MOST_AHEAD_SECONDS:g} s"
        else:
            behind = "ahead of" if redash.ahead > 0 else "behind"
            text = f"Redash's is {abs(redash.ahead):.0f} s {behind} this one; let both be set by NTP"
            yield f"clocks: {text} (ages of results are counted by Redash's)"


def _aligned(keys: dict[str, str]) -> list[str]:
    width = max(map(len, keys))
    return ["keys:", *(f"  {name:<{width}}  {text}" for name, text in keys.items())]


def _wrong_version(configured: str, found: RedashVersion) -> list[str]:
    if configured == AUTOMATIC or not found.number:
        return []
    if RedashVersion(configured).hash_folds_case == found.hash_folds_case:
        return []
    return [f'upstream.version: is "{configured}", but Redash says {found.number}; write "auto"']

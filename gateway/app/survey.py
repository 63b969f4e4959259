"""What keys can see in Redash: for `init --from-redash`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from gateway import config
from gateway.app.inquiry import Inquiry, MistakeError, inquiry
from gateway.errors import ConfigurationError
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash import calls
from gateway.redash.account import Account, Named
from gateway.redash.calls import UpstreamRequest

PAGE_SIZE: Final = 250
MOST_PAGES: Final = 8
"""Nobody reads a longer list."""


class Seen(msgspec.Struct, frozen=True):
    """What one key can see."""

    user: Account
    sources: list[str]
    queries: list[Named]
    dashboards: list[Named]


async def survey(settings: config.Config, say: Callable[[str], None]) -> list[Seen]:
    """Ask Redash what every credential of the configuration can see.

    Raises:
        ConfigurationError: a key is not accepted, or Redash cannot be asked.
    """
    live = Live(settings)
    async with inquiry(settings, live, say) as redash:
        try:
            return [await _seen(redash, credential) for credential in live.access.credentials.values()]
        except MistakeError as mistake:
            raise ConfigurationError([f"{mistake.key}: {mistake.detail}"]) from None


async def _seen(redash: Inquiry, credential: Credential) -> Seen:
    user = (await redash.session(credential)).user
    sources = await redash.sources(credential) or []
    return Seen(
        user,
        [source.name for source in sources],
        await _all(redash, credential, calls.queries),
        await _all(redash, credential, calls.dashboards),
    )


async def _all(redash: Inquiry, credential: Credential, request: Callable[[int, int], UpstreamRequest]) -> list[Named]:
    found: list[Named] = []
    for number in range(1, MOST_PAGES + 1):
        page = await redash.page(credential, request(number, PAGE_SIZE))
        found += page.results if page is not None else []
        if page is None or not page.results or len(found) >= page.count:
            break
    return found

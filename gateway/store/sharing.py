"""What gateways with the same store tell each other. Implemented in `redis`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.concurrency.leased_bucket import TokenSource
from gateway.concurrency.shared_spending import SpendingSource
from gateway.config import RedisAddress
from gateway.model import Key, SharingStats
from gateway.redash.purges import NewData, Purge


class Sharing(Protocol):
    """What gateways with the same store tell each other, and what is known of them."""

    @property
    def tokens(self) -> TokenSource:
        """Where buckets of rates are that all share."""

    @property
    def spending(self) -> SpendingSource:
        """Where the spending of clients is counted that all share."""

    def stats(self) -> SharingStats:
        """Return who shares the store; cheap, never waits."""

    async def announce_reload(self) -> bool:
        """Notify all others that they load their configuration again; False if they cannot be notified."""

    async def announce_new_data(self, said: Sequence[NewData]) -> None:
        """Pass on to all others what a client or an operator has said; later, if they cannot be reached now."""

    def on_new_data(self, note: Callable[[str | None, Purge], None]) -> None:
        """Call `note` with what was said on another gateway."""

    async def announce_write(self) -> None:
        """Notify all others that somebody has changed something in Redash; later, if they cannot be notified now."""

    def use(self, address: RedisAddress) -> None:
        """Log in with the password of this address from the next connection on, if it is the same Redis and user."""

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Call `reload` when another gateway has asked all to load their configuration again."""

    def on_stored(self, stored: Callable[[Sequence[Key] | None], None]) -> None:
        """Call `stored` with the keys under which another gateway has stored results; None: nobody knows which."""

    def on_purge(self, purge: Callable[[str | None, int | None], None]) -> None:
        """Call `purge` with scope and query (None: all) of what another gateway has deleted, or may have, why ever."""

    def on_write(self, drop: Callable[[], None]) -> None:
        """Call `drop` when somebody has changed something in Redash through another gateway, or may have."""

"""The leases of a gateway that shares its store with no other: each is granted at once, and never lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from types import MappingProxyType
from typing import Final

from gateway.model import Key
from gateway.store.protocols import Claim


class LocalLease:
    """Costs nothing, and waits for nothing."""

    number = 0
    is_safe = is_lost = False
    needs: Mapping[int, float] = MappingProxyType({})

    def until_lost(self) -> AbstractAsyncContextManager[None]:
        """See the protocol."""
        return nullcontext()

    async def confirm(self) -> None:
        """See the protocol."""

    async def renew(self) -> bool:
        """See the protocol."""
        return True

    async def close(self, *, unless_used: bool = False) -> bool:
        """See the protocol."""
        return True

    async def reopen(self) -> None:
        """See the protocol."""

    async def end(self, follow_up: str = "", marker: str = "") -> None:
        """See the protocol."""

    async def release(self) -> None:
        """See the protocol."""


LOCAL: Final = LocalLease()


class LocalLeases:
    """Grants everything."""

    for_many = shared = False
    held = losses = 0

    def __init__(self) -> None:
        self.on_news: list[Callable[[str, str, str], None]] = []

    async def claim(self, _claim: Claim) -> LocalLease:
        """See the protocol."""
        return LOCAL

    async def note_ask(self, _execution_id: str, _age: float) -> int:
        """See the protocol."""
        return 0

    async def is_free(self, _key: Key) -> bool:
        """See the protocol."""
        return True

    async def announce(self, what: str, execution_id: str, job_id: str = "", *, leaves: bool = False) -> None:
        """See the protocol: there is nobody to tell."""

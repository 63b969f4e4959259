"""Who waits for news of a query: very many, woken a few at a time, with one timer for all that watch one query."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

from gateway.concurrency.events import Event, wait_for

AT_ONCE: Final = 50
"""So many are woken in one turn of the event loop: each of them then judges its rights, some ms for all of these."""


class Watch:
    """One who watches a query. News that come while it is busy are not lost: then `wait` returns at once."""

    __slots__ = ("_event", "key", "query_id")

    def __init__(self, query_id: int) -> None:
        self.query_id = query_id
        self.key = b""  # under which its result would be stored
        self._event = Event()

    async def wait(self, seconds: float) -> None:
        """Return when there may be something new, when it is time to look, or when the time is up."""
        await wait_for(self._event, seconds)
        self._event.is_set = False

    def wake(self) -> None:
        """Let it look."""
        self._event.set()


class _Topic:
    __slots__ = ("timer", "watches")

    def __init__(self) -> None:
        self.watches: dict[Watch, None] = {}
        self.timer: asyncio.TimerHandle | None = None


class Watchers:
    """All who watch, by query."""

    def __init__(self, period: Callable[[], float]) -> None:
        """`period`: after so many seconds without news all look, because rights may have ended."""
        self._period = period
        self._topics: dict[int, _Topic] = {}
        self._by_key: dict[bytes, set[Watch]] = {}
        self._due: dict[Watch, None] = {}  # in the order in which they are to be woken
        self._waking: asyncio.Handle | None = None
        self.count = 0
        self.closed = False
        """The gateway is stopping: nobody watches any more."""

    @contextmanager
    def watching(self, query_id: int) -> Iterator[Watch]:
        """Watch a query while the context is open."""
        watch, topic = Watch(query_id), self._topics.setdefault(query_id, _Topic())
        topic.watches[watch] = None
        self.count += 1
        if topic.timer is None:
            self._check_later(query_id, topic)
        try:
            yield watch
        finally:
            self.count -= 1
            self.follow(watch, b"")
            self._due.pop(watch, None)
            del topic.watches[watch]
            if not topic.watches and topic.timer is not None:
                topic.timer.cancel()
                del self._topics[query_id]

    def follow(self, watch: Watch, key: bytes) -> None:
        """Let it be woken by what other gateways store under this key; b"" for nothing."""
        if watch.key == key:
            return
        if (others := self._by_key.get(watch.key)) is not None:
            others.discard(watch)
            if not others:
                del self._by_key[watch.key]
        watch.key = key
        if key:
            self._by_key.setdefault(key, set()).add(watch)

    def note(self, query_id: int) -> None:
        """There may be a new result of this query, or it may be visible no more."""
        if (topic := self._topics.get(query_id)) is not None:
            self._wake(topic.watches)

    def note_stored(self, keys: Iterable[bytes] | None) -> None:
        """Another gateway has stored something under these keys; None: nobody knows what."""
        if keys is None:
            self.note_all()
            return
        for key in keys:
            self._wake(self._by_key.get(key, ()))

    def note_all(self) -> None:
        """Rights may have changed: let all look."""
        for topic in self._topics.values():
            self._wake(topic.watches)

    def close(self) -> None:
        """Let all end."""
        self.closed = True
        self.note_all()

    def _check_later(self, query_id: int, topic: _Topic) -> None:
        topic.timer = asyncio.get_running_loop().call_later(self._period(), self._check, query_id, topic)

    def _check(self, query_id: int, topic: _Topic) -> None:
        self._wake(topic.watches)
        self._check_later(query_id, topic)

    def _wake(self, watches: Iterable[Watch]) -> None:
        self._due.update(dict.fromkeys(watches))
        if self._due and self._waking is None:
            self._wake_some()

    def _wake_some(self) -> None:
        for watch in list(islice(self._due, AT_ONCE)):
            del self._due[watch]
            watch.wake()
        self._waking = asyncio.get_running_loop().call_soon(self._wake_some) if self._due else None

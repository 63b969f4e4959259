"""The API listener, put together from the parts of this room."""

from __future__ import annotations

from aiohttp import web

from gateway.http.addresses import TrustedProxies
from gateway.http.api import Api
from gateway.http.fast_path import FastPath
from gateway.http.response_cache import ResponseCache
from gateway.model import Clock
from gateway.outcome import Observer
from gateway.pipeline import Pipeline
from gateway.policy.configured import Live
from gateway.policy.quotas import Quotas
from gateway.store import FrontStore
from gateway.store.compression import Compressor


class ApiListener:
    """Responds to callers. A reload drops the cached responses and ends the requests that are no longer admitted."""

    def __init__(
        self,
        live: Live,
        pipeline: Pipeline,
        quotas: Quotas,
        store: FrontStore,
        observer: Observer,
        clock: Clock,
        *,
        each: bool,
    ) -> None:
        """`each`: record every hit of the fast path on its own, as tracing needs it."""
        self._live = live
        self._clock = clock
        self.cache = ResponseCache(store, observer, clock, live.settings.cache.memory // 4)
        self.fast_path = FastPath(self.cache, TrustedProxies(live.settings.server.trusted_proxies), each=each)
        self._compressor = Compressor(store)
        self.api = Api(
            pipeline,
            live,
            quotas,
            observer=observer,
            clock=clock,
            cache=self.cache,
            fast_path=self.fast_path,
            compressor=self._compressor,
        )
        live.on_change.append(self._configuration_changed)

    def _configuration_changed(self) -> None:
        self.cache.clear()
        self.fast_path.proxies = TrustedProxies(self._live.settings.server.trusted_proxies)
        self.api.cut_off(self._live.access, self._clock.wall())

    def server(self, most_connections: int) -> web.Server:
        """Return the server to run on a socket; it has at most so many connections open."""
        return self.api.server(most_connections)

    def begin_to_drain(self) -> None:
        """From now on, close each connection after its response: what its caller sends next is for the next process."""
        self.cache.clear()
        self.api.begin_to_drain()

    async def drain(self) -> int:
        """Let the requests in progress get their responses within `server.drain_timeout`; cancel the rest.

        Complete responses may still be on their way when this returns; `aclose` waits for that. Returns how many
        requests were cancelled.
        """
        return await self.api.drain(self._live.settings.server.drain_timeout)

    def hurry(self) -> None:
        """Cut off what `drain` and `aclose` wait for."""
        self.api.hurry()

    async def aclose(self) -> int:
        """Let what is left be sent in the rest of that time, and return how much was not; end the work in progress."""
        cut_off = await self.api.finish()
        await self._compressor.aclose()
        return cut_off

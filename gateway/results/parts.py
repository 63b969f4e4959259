"""The parts of this room, put together."""

from __future__ import annotations

from gateway.model import Clock
from gateway.policy.configured import Live
from gateway.results.bindings import Bindings
from gateway.results.cache import ResultCache
from gateway.results.dashboards import Dashboards
from gateway.results.definitions import Definitions
from gateway.results.fetcher import ResultFetcher
from gateway.results.forms.making import ResultForms
from gateway.results.identities import Identities
from gateway.results.metadata import Metadata
from gateway.results.organisation import OrganisationReader
from gateway.results.pauses import Pauses
from gateway.results.reader import ResultReader
from gateway.store import FrontStore, Ledger
from gateway.upstream.protocol import Upstream


class ResultParts:
    """Everything that needs no query run."""

    def __init__(self, live: Live, upstream: Upstream, store: FrontStore, ledger: Ledger, clock: Clock) -> None:
        self.definitions = Definitions(upstream, store, ledger, live, clock)
        self.pauses = Pauses(upstream, live, clock)
        self.cache = ResultCache(store, ledger, clock)
        self.organisation = OrganisationReader(live, upstream, clock)
        self.identities = Identities(live, upstream, ledger)
        self.fetcher = ResultFetcher(live, upstream, self.cache, self.organisation, clock)
        self.dashboards = Dashboards(upstream, clock)
        self.bindings = Bindings(self.dashboards, self.definitions)
        self.metadata = Metadata(live, upstream, self.definitions, self.pauses, self.bindings, clock)
        self.definitions.on_denied = self.metadata.drop_object
        self.metadata.on_dropped = self.dashboards.drop_all
        self.forms = ResultForms(live, self.cache, self.organisation, clock)
        self.reader = ResultReader(live, self.definitions, self.cache, self.fetcher, self.forms, ledger, clock)

    def query_changed(self, query_id: int) -> None:
        """Make the end of a run visible: after the job has ended, "latest" and the query object show the new result."""
        self.definitions.drop(query_id)
        self.metadata.drop_query(query_id)

    async def aclose(self) -> None:
        """Cancel the requests in progress."""
        await self.metadata.aclose()
        await self.dashboards.aclose()
        await self.definitions.aclose()
        await self.pauses.aclose()
        await self.fetcher.aclose()
        await self.forms.aclose()
        await self.organisation.aclose()
        await self.identities.aclose()

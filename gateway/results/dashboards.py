"""Which queries are on a dashboard: the only place that requests this from Redash."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.concurrency.flights import Flights
from gateway.errors import UpstreamRefused, UpstreamUnusable, is_denial
from gateway.model import Clock
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.redash import calls
from gateway.redash.objects import DashboardQueries, parse_dashboard, parse_named, parse_slugs
from gateway.redash.widgets import Board, parse_board
from gateway.upstream.protocol import Upstream, UpstreamResponse, refusal

log = logging.getLogger("gateway.results")

REREAD_SECONDS: Final = 60.0
"""A dashboard's queries are read again after this time; then a removed widget no longer gives access to its query."""

SLUGS_SECONDS: Final = 600.0
"""How long a slug from the list is used. Nothing is trusted to it: the dashboard that it leads to must have the id."""

_MOST_PAGES: Final = 40
_MOST_SLUGS: Final = 2 * _MOST_PAGES * calls.DASHBOARDS_A_PAGE
"""Of all scopes together; each has at most 200 characters."""

_NO_DASHBOARD: Final = 0
"""The id of a slug that leads nowhere: Redash's ids begin with 1."""

_SHOWN_BYTES: Final = 4 * 2**20
"""What the dashboards take that are remembered with their widgets, as they came from Redash."""

_ANOTHER: Final = "Redash's response is the object of another dashboard than the requested one."


class _Slugs(msgspec.Struct, frozen=True):
    by_id: dict[int, str]
    requested_at: float


class _Read(msgspec.Struct, frozen=True):
    dashboard: DashboardQueries
    requested_at: float
    generation: int


class _Shown(msgspec.Struct, frozen=True):
    board: Board
    size: int
    requested_at: float
    generation: int


class Dashboards:
    """Reads dashboards with a credential, by id or slug; caches the ids of their queries, by scope."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._generation = 0
        self._recent: dict[tuple[str, int | str], _Read] = {}
        self._slugs: LRUCache[str, _Slugs] = LRUCache(_MOST_SLUGS, getsizeof=lambda slugs: len(slugs.by_id) + 1)
        self._shown: LRUCache[tuple[str, int | str], _Shown] = LRUCache(
            _SHOWN_BYTES, getsizeof=lambda shown: shown.size
        )
        self._flights: Flights[_Read] = Flights()  # a read that was sent before a write does not serve callers after it
        self._reads: Flights[_Shown] = Flights()
        self._lists: Flights[_Slugs] = Flights()

    async def queries_on(self, credential: Credential, dashboard: int | str, sender: Sender) -> frozenset[int]:
        """Request from Redash the ids of the queries on a dashboard.

        Raises:
            UpstreamRefused: Redash does not show it to this credential.
            UpstreamUnusable: the response is not this dashboard's object.
        """
        response = await self._request(credential, dashboard, sender)
        return parse_dashboard(response.body.load()).queries

    async def board(self, credential: Credential, dashboard: int | str, sender: Sender) -> Board:
        """Return a dashboard with its widgets, as it was at most `REREAD_SECONDS` ago, and after the last write.

        Raises:
            UpstreamRefused: Redash does not show it to this credential.
            UpstreamUnusable: the response is not this dashboard's object, or it has too many widgets.
        """
        place = (credential.scope, dashboard)
        shown = self._shown.get(place)
        if shown is None or self._clock.monotonic() > self._good_until(shown):
            show = partial(self._show, credential, dashboard, sender)
            shown, _ = await self._reads.share((*place, self._generation), show)
        return shown.board

    async def _show(self, credential: Credential, dashboard: int | str, sender: Sender) -> _Shown:
        place = (credential.scope, dashboard)
        self._shown.pop(place, None)
        generation = self._generation
        response = await self._request(credential, dashboard, sender)
        shown = _Shown(parse_board(response.body.load()), response.body.size, response.sent, generation)
        if shown.size <= _SHOWN_BYTES:
            self._shown[place] = shown
        return shown

    async def recent(self, credential: Credential, dashboard: int | str, sender: Sender) -> DashboardQueries:
        """Return a dashboard as it was at most `REREAD_SECONDS` ago, and after the last write; concurrent callers share
        one request.

        One that Redash refuses (deleted, or not for this credential) has no queries.

        Raises:
            UpstreamUnusable: the response is not this dashboard's object.
        """
        place = (credential.scope, dashboard)
        if self._clock.monotonic() <= self.valid_until(credential, dashboard):
            return self._recent[place].dashboard
        refresh = partial(self._refresh, credential, dashboard, sender)
        return (await self._flights.share((*place, self._generation), refresh, sender.outcome))[0].dashboard

    def known(self, credential: Credential, dashboard: int | str) -> DashboardQueries | None:
        """Return what `recent` would return without a request; None if it would send one."""
        if self._clock.monotonic() > self.valid_until(credential, dashboard):
            return None
        return self._recent[credential.scope, dashboard].dashboard

    def known_id(self, credential: Credential, dashboard: int | str) -> int | None:
        """Return the id of a dashboard; of a slug, that of the last reading, None if there is none."""
        if isinstance(dashboard, int):
            return dashboard
        recent = self._recent.get((credential.scope, dashboard))
        return recent.dashboard.dashboard_id if recent is not None else None

    def valid_until(self, credential: Credential, dashboard: int | str) -> float:
        """Return until when (monotonic) `recent` needs no request; -inf where nothing is cached."""
        recent = self._recent.get((credential.scope, dashboard))
        return self._good_until(recent) if recent is not None else -math.inf

    def drop_all(self) -> None:
        """Let every dashboard be read again before it is used: a write was made, which may affect any of them.

        Ids of slugs stay known: a request in progress has read the dashboards of its client already.
        """
        self._generation += 1

    def _good_until(self, read: _Read | _Shown) -> float:
        return read.requested_at + REREAD_SECONDS if read.generation == self._generation else -math.inf

    async def aclose(self) -> None:
        """Cancel the requests in flight."""
        await self._flights.aclose()
        await self._reads.aclose()
        await self._lists.aclose()

    async def _refresh(self, credential: Credential, dashboard: int | str, sender: Sender) -> _Read:
        began, generation = self._clock.monotonic(), self._generation
        try:
            response = await self._request(credential, dashboard, sender)
            read = _Read(parse_dashboard(response.body.load()), response.sent, generation)
        except UpstreamRefused as refused:
            if not is_denial(refused):
                raise
            log.warning("Redash refuses dashboard %s to credential '%s': it opens no query", dashboard, credential.name)
            board = dashboard if isinstance(dashboard, int) else _NO_DASHBOARD
            read = _Read(DashboardQueries(board, frozenset()), began, generation)
        self._recent[credential.scope, dashboard] = read
        return read

    async def _request(self, credential: Credential, dashboard: int | str, sender: Sender) -> UpstreamResponse:
        if isinstance(dashboard, str):
            return _accepted(await self._upstream.send(credential, calls.dashboard_by_slug(dashboard), sender))
        slug = self._known_slug(credential, dashboard)
        if slug is None:
            response = await self._upstream.send(credential, calls.dashboard(dashboard), sender)
            if not _is_for_a_slug(response, dashboard):
                return _checked(_accepted(response), dashboard)
            slug = await self._find_slug(credential, dashboard, sender)
            if slug is None:
                raise refusal(response) if response.status == 404 else UpstreamUnusable(_ANOTHER)
        response = await self._upstream.send(credential, calls.dashboard_by_slug(slug), sender)
        try:
            return _checked(_accepted(response), dashboard)
        except (UpstreamRefused, UpstreamUnusable):
            if (slugs := self._slugs.get(credential.scope)) is not None:
                slugs.by_id.pop(dashboard, None)  # it may have moved; the next list says so
            raise

    def _known_slug(self, credential: Credential, dashboard_id: int) -> str | None:
        slugs = self._slugs.get(credential.scope)
        if slugs is None or self._clock.monotonic() - slugs.requested_at > SLUGS_SECONDS:
            return None
        return slugs.by_id.get(dashboard_id)

    async def _find_slug(self, credential: Credential, dashboard_id: int, sender: Sender) -> str | None:
        """Look a slug up in the list of dashboards, which is requested at most once in `REREAD_SECONDS`."""
        slugs = self._slugs.get(credential.scope)
        if slugs is None or self._clock.monotonic() - slugs.requested_at > REREAD_SECONDS:
            slugs, _ = await self._lists.share(credential.scope, lambda: self._list(credential, sender), sender.outcome)
        return slugs.by_id.get(dashboard_id)

    async def _list(self, credential: Credential, sender: Sender) -> _Slugs:
        requested_at, by_id = self._clock.monotonic(), dict[int, str]()
        for page in range(1, _MOST_PAGES + 1):
            response = await self._upstream.send(credential, calls.dashboards(page), sender)
            if response.status != 200:
                raise refusal(response)
            count, slugs = parse_slugs(response.body.load())
            by_id.update(list(slugs.items())[: calls.DASHBOARDS_A_PAGE])
            if not slugs or page * calls.DASHBOARDS_A_PAGE >= count:
                break
        listed = self._slugs[credential.scope] = _Slugs(by_id, requested_at)
        return listed


def _is_for_a_slug(response: UpstreamResponse, dashboard_id: int) -> bool:
    """Whether Redash may have taken the id for a slug, as 8 and 9 do: it knows none, or the dashboard of that slug."""
    if response.status != 200:
        return response.status == 404
    named = parse_named(response.body.load())
    return named.slug == str(dashboard_id) and named.id != dashboard_id


def _checked(response: UpstreamResponse, dashboard_id: int) -> UpstreamResponse:
    """Return the response, if it shows the requested dashboard.

    Raises:
        UpstreamUnusable: it shows another one, or none.
    """
    if parse_dashboard(response.body.load()).dashboard_id != dashboard_id:
        raise UpstreamUnusable(_ANOTHER)
    return response


def _accepted(response: UpstreamResponse) -> UpstreamResponse:
    """Return the response to a request for one dashboard.

    Raises:
        UpstreamRefused: Redash does not show it.
    """
    if response.status != 200:
        raise refusal(response)
    return response

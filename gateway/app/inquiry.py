"""Asks Redash about keys, one after the other: whose each is, what it can see, and what is wrong with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from gateway import config
from gateway.app.tls import client_context
from gateway.concurrency.spool import Spool
from gateway.errors import (
    CredentialRejected,
    GatewayError,
    UpstreamError,
    UpstreamRedirected,
    UpstreamRefusedByPage,
    UpstreamTimeout,
    UpstreamUnusable,
)
from gateway.model import SystemClock
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash import account, calls
from gateway.redash.account import Page, Session
from gateway.redash.calls import UpstreamRequest
from gateway.redash.organisation import RedashVersion, parse_organisation
from gateway.telemetry.levels import Levels
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Telemetry
from gateway.upstream.causes import cause_of, speaks_tls
from gateway.upstream.client import HttpUpstream
from gateway.upstream.protocol import UpstreamResponse

_PROBLEM: Final = "application/problem+json"
"""The type of the gateway's own errors; Redash has none of it."""


class MistakeError(GatewayError):
    """Something that a key of the configuration causes; the text says what to do."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class Inquiry:
    """What Redash has said so far: its version, the slug of the organisation, and its clock."""

    def __init__(self, upstream: HttpUpstream, url: str, say: Callable[[str], None]) -> None:
        """`say` is called with what is being done."""
        self._upstream = upstream
        self._url = url
        self._say = say
        self.version = RedashVersion()
        self.slug = ""
        self.ahead: float | None = None
        """Seconds by which Redash's clock is ahead of this machine's, to the second."""

    async def session(self, credential: Credential) -> Session:
        """Ask whose key it is.

        Raises:
            MistakeError: Redash does not know it as a user's, or cannot be asked.
        """
        try:
            data = await self.read(credential, calls.session())
        except CredentialRejected:
            raise MistakeError(f"credentials.{credential.name}", self._rejected_user()) from None
        organisation, session = parse_organisation(data), account.parse_session(data)
        if organisation is None or session is None:
            raise MistakeError(
                "upstream.url", f"what answers at {self._url} is not Redash; write the address of Redash"
            )
        self.version, self.slug = organisation.version, session.org_slug
        return session

    async def query_name(self, credential: Credential, query_id: int) -> str:
        """Ask with a query's own key for the name of its query.

        Raises:
            MistakeError: it is not the key of this query, or Redash cannot be asked.
        """
        key = f"credentials.{credential.name}"
        try:
            found = account.parse_named(await self.read(credential, calls.query(query_id)))
        except CredentialRejected:
            text = f"Redash does not accept this key for query {query_id}; copy it again from that query's menu"
            raise MistakeError(key, text) from None
        if (user := await self._user_of(credential)) is not None:
            text = f'is "query", but this is the key of the user {user}; write kind = "user", without query'
            raise MistakeError(f"{key}.kind", text)
        return "" if found is None else found.name

    async def _user_of(self, credential: Credential) -> str | None:
        try:
            session = account.parse_session(await self.read(credential, calls.session()))
        except (CredentialRejected, MistakeError):
            return None
        return None if session is None else session.user.name

    async def page(self, credential: Credential, request: UpstreamRequest) -> Page | None:
        """Ask for a page of a list; None where the key may not see it."""
        try:
            return account.parse_page(await self.read(credential, request))
        except (CredentialRejected, MistakeError):
            return None

    async def sources(self, credential: Credential) -> list[account.Named] | None:
        """Ask for the data sources; None where the key may not see them."""
        try:
            return account.parse_sources(await self.read(credential, calls.data_sources()))
        except (CredentialRejected, MistakeError):
            return None

    async def read(self, credential: Credential, request: UpstreamRequest) -> bytes:
        """Return the body of a response with 200.

        Raises:
            CredentialRejected: Redash does not know the key.
            MistakeError: anything else, at the key of the configuration that causes it.
        """
        self._say(f"asking Redash about credentials.{credential.name}")
        try:
            response = await self._upstream.send(credential, request, Sender("check", "check"))
        except CredentialRejected:
            raise
        except UpstreamRefusedByPage as error:
            raise MistakeError(f"credentials.{credential.name}", error.detail) from None
        except (UpstreamError, UpstreamUnusable) as error:
            raise await self._unreachable(error) from None
        except GatewayError as error:
            raise MistakeError("upstream.url", error.detail) from None
        if response.status != 200:
            raise self._refused(credential, request, response)
        if response.date is not None:
            self.ahead = response.date - int(response.received)
        return response.body.load()

    async def _unreachable(self, error: UpstreamError | UpstreamUnusable) -> MistakeError:
        is_plain, is_slow = self._url.startswith("http://"), isinstance(error, UpstreamTimeout)
        if is_plain and not is_slow and await speaks_tls(self._url):
            return MistakeError("upstream.url", f"{self._url} speaks TLS on this port, not plain http; write https://")
        cause = cause_of(error, self._url)
        if cause is not None:
            return MistakeError(cause.key, f"Redash cannot be reached at {self._url}: {cause.text}; {cause.remedy}")
        if isinstance(error, UpstreamRedirected) and error.leads_to:
            text = f"{self._url} redirects to {error.leads_to}; write that address, if it is Redash"
            return MistakeError("upstream.url", text)
        slug = urlsplit(self._url).path
        hint = f"; is {slug} the slug of an organisation of this Redash?" if slug else ""
        return MistakeError("upstream.url", f"{error.detail} It was sent to {self._url}{hint}")

    def _refused(self, credential: Credential, request: UpstreamRequest, response: UpstreamResponse) -> MistakeError:
        if response.content_type.startswith(_PROBLEM):
            text = f"a Redash Gateway answers at {self._url}, not Redash; write the address of Redash"
            return MistakeError("upstream.url", text)
        text = f"Redash responded {response.status} to GET {request.path}"
        slug = urlsplit(self._url).path
        if response.status == 500 and slug:
            return MistakeError("upstream.url", f"{text}; is {slug} the slug of one of its organisations?")
        return MistakeError(f"credentials.{credential.name}", text)

    def _rejected_user(self) -> str:
        text = "Redash does not accept this key as a user's; copy it again from the user's profile"
        several = "" if urlsplit(self._url).path else ", and one of several organisations in upstream.url its slug"
        return f'{text}. A query\'s own key needs kind = "query"{several}'


@asynccontextmanager
async def inquiry(settings: config.Config, live: Live, say: Callable[[str], None]) -> AsyncIterator[Inquiry]:
    """Connect to Redash."""
    clock = SystemClock()
    observer = Telemetry(Metrics(_no_levels, live.access.credentials, 0), clock, access_log=False)
    upstream = HttpUpstream(live, client_context(settings.upstream), clock, observer, _no_spool, _never)
    await upstream.open()
    try:
        yield Inquiry(upstream, settings.upstream.url, say)
    finally:
        await upstream.close()


def _no_levels() -> Levels:
    raise NotImplementedError("a check has no metrics to scrape")


async def _never(_scope: str) -> bool:
    return False


async def _no_spool(_size: int | None) -> Spool:
    raise NotImplementedError("a check requests no results")

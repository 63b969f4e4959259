"""Whether a response of Redash can be used: not a proxy's, not a login page, not a refusal of the gateway's key."""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import CredentialRejected, UpstreamBusy, UpstreamError, UpstreamTimeout, UpstreamUnusable
from gateway.policy.access import Credential
from gateway.redash import routes
from gateway.redash.responses import is_login_refusal
from gateway.upstream.protocol import UpstreamResponse

_REDIRECT: Final = re.compile(rf"(?:/[\w-]+)?{re.escape(routes.QUERIES.template)}")
"""Where the one redirect of Redash's API goes (CONTRACT 5); every other one is a login page or a wrong URL."""

_SECONDS: Final = re.compile("[0-9]{1,9}")

_UNAVAILABLE: Final = frozenset({502, 503, 504})
"""Statuses that come from a proxy before Redash; Redash's own failures are 500 (CONTRACT 3)."""


def usable(response: UpstreamResponse, credential: Credential, *, is_write: bool = False) -> UpstreamResponse:
    """Return the response, if it is one of Redash's own to a key that it knows.

    Raises:
        UpstreamError: a proxy says that Redash is unavailable (`UpstreamTimeout`: too slow).
        UpstreamBusy: Redash, or a proxy, limits the rate of requests and says when to come again.
        CredentialRejected: Redash does not know the key.
        UpstreamUnusable: a status that Redash never uses, a redirect, an HTML page, a Content-Type that is none. A
            write may have any 2xx.
    """
    if not 100 <= response.status < 600:
        raise UpstreamUnusable(f"Redash answered {response.status}, which is no status of HTTP.")
    if response.status in _UNAVAILABLE:
        if response.status == 504:
            raise UpstreamTimeout("A proxy before Redash says that Redash is too slow (504).")
        raise UpstreamError(f"A proxy before Redash says that Redash is unavailable ({response.status}).")
    if response.status == 429 and _SECONDS.fullmatch(response.retry_after):
        raise UpstreamBusy(
            "Redash limits the rate of requests; try again later.", retry_after=int(response.retry_after)
        )
    if response.body.data is not None and is_login_refusal(response.status, response.body.data):
        raise CredentialRejected(f"Redash does not accept the key of credential '{credential.name}'.")
    if is_write and 200 <= response.status < 300 and response.body.size == 0:
        return response  # DELETE of a data source is 204 without a body, whatever type it says (CONTRACT 25.1)
    if 200 < response.status < 300 and not is_write:  # a read is 200 or an error; a proxy that transforms says 203
        raise UpstreamUnusable(f"Redash answered {response.status}, which is not one of its own statuses.")
    if 300 <= response.status < 400 and not _REDIRECT.fullmatch(response.location.partition("?")[0]):
        raise UpstreamUnusable("Redash answered with a redirect; the gateway follows none. Check upstream.url.")
    if not response.content_type.isascii():
        raise UpstreamUnusable("Redash answered with a Content-Type that is not ASCII.")
    if "text/html" in response.content_type.lower():
        raise UpstreamUnusable("Redash answered with an HTML page instead of data.")
    return response

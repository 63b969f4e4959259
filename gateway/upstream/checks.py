"""Whether a response of Redash can be used: not a proxy's, not a login page, not a refusal of the gateway's key."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from gateway.errors import (
    CredentialRejected,
    UpstreamBusy,
    UpstreamError,
    UpstreamRedirected,
    UpstreamRefusedByPage,
    UpstreamTimeout,
    UpstreamUnusable,
)
from gateway.policy.access import Credential
from gateway.redash import routes
from gateway.redash.refusals import is_login_refusal
from gateway.redash.routes import Route
from gateway.upstream.protocol import UpstreamResponse

_LIST: Final = re.compile(rf"(?:/[\w-]+)?{re.escape(routes.QUERIES.template)}")
"""The list of queries, with the slug of the organisation in front where there are several."""

_SECONDS: Final = re.compile("[0-9]{1,9}")

_UNAVAILABLE: Final = frozenset({502, 503, 504})
"""Statuses that come from a proxy before Redash; Redash's own failures are 500 (CONTRACT 3)."""


def usable(response: UpstreamResponse, credential: Credential, route: Route) -> UpstreamResponse:
    """Return the response, if it is one of Redash's own to a key that it knows.

    Raises:
        UpstreamError: a proxy says that Redash is unavailable (`UpstreamTimeout`: too slow).
        UpstreamBusy: Redash, or a proxy, limits the rate of requests and says when to come again.
        CredentialRejected: Redash does not know the key.
        UpstreamUnusable: a status that Redash never uses, a redirect, a Content-Type that is none. A write may have
            any 2xx. An HTML page, with Redash's own status where it refuses in this way (`UpstreamRefusedByPage`).
    """
    if not 100 <= response.status < 600:
        raise UpstreamUnusable(f"Redash answered {response.status}, which is no status of HTTP.")
    is_write = route.kind == "write"
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
    if 300 <= response.status < 400 and not _leads_to_list(response, credential, route):
        text = "Redash answered with a redirect; the gateway follows none. Check upstream.url."
        raise UpstreamRedirected(text, _other_server(response, credential))
    if not response.content_type.isascii():
        raise UpstreamUnusable("Redash answered with a Content-Type that is not ASCII.")
    if "text/html" in response.content_type.lower():
        raise _page(response.status, route)
    return response


def _leads_to_list(response: UpstreamResponse, credential: Credential, route: Route) -> bool:
    """Whether it is the one redirect of Redash's API (CONTRACT 5); every other one is a login page or a wrong URL.

    Redash 8 and 10 write the absolute URL as they see it: behind a TLS proxy its scheme may be http.
    """
    if response.status != 301 or not route.redirects:
        return False
    try:
        target = urlsplit(response.location)
    except ValueError:
        return False
    is_own = target.netloc.lower() in ("", urlsplit(credential.url).netloc)
    return is_own and target.scheme in ("", "http", "https") and _LIST.fullmatch(target.path) is not None


def _other_server(response: UpstreamResponse, credential: Credential) -> str:
    """Return scheme and host of where a redirect leads, "" if that is the same server: http became https, perhaps."""
    try:
        target, own = urlsplit(response.location), urlsplit(credential.url)
    except ValueError:
        return ""
    leads_away = target.hostname and (target.scheme, target.netloc) != (own.scheme, own.netloc)
    return f"{target.scheme or own.scheme}://{target.hostname}" if leads_away else ""


def _page(status: int, route: Route) -> UpstreamUnusable:
    """Return the error for an HTML page. Redash refuses in this way on some routes; elsewhere it is a proxy's page."""
    if status == 405:
        return UpstreamRefusedByPage(405, f"Redash does not take {route.method} here; its version may lack this route.")
    if status == 403 and route.capability == "admin":
        return UpstreamRefusedByPage(403, "Redash refuses this to the gateway's key: it takes an administrator's.")
    if status == 200 and route.newer:
        return UpstreamRefusedByPage(404, "Redash does not have this route: its version lacks it.")
    return UpstreamUnusable("Redash answered with an HTML page instead of data.")

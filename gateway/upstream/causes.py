"""Why Redash cannot be reached: the key of the configuration that causes it, what happened, and what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from gateway.errors import UpstreamError

PROBE_SECONDS: Final = 3.0

_UNTRUSTED: Final = frozenset({18, 19, 20, 21})
"""Codes of OpenSSL (openssl-verification-options(1)): signed by itself, or by an authority that is not known here."""

_EXPIRED: Final = 10
_PLAIN_HTTP: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
)
_REACHABLE_NOT: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH})


class Cause(NamedTuple):
    """`key` is the one to change; `text` what happened; `remedy` what to do."""

    key: str
    text: str
    remedy: str


def cause_of(error: BaseException | None, url: str) -> Cause | None:
    """Return why a request to Redash at `url` failed; None if it is no failure of the connection."""
    if isinstance(error, UpstreamError):
        return cause_of(error.__cause__, url)
    where = _where(url)
    match error:
        case aiohttp.ClientConnectorDNSError():
            return _url(
                f"the name {urlsplit(url).hostname} is not found", "check its spelling, and the name server here"
            )
        case aiohttp.ClientConnectorCertificateError():
            return _certificate(error.certificate_error, urlsplit(url).hostname or "")
        case aiohttp.ClientConnectorSSLError():
            return _handshake(error.os_error, where)
        case aiohttp.ClientConnectorError():
            return _connecting(error.os_error, where)
        case aiohttp.ConnectionTimeoutError():
            return _url(f"no connection to {where} in time", "is a firewall or a wrong address in the way?")
        case TimeoutError():
            return _url("no response in time", "is Redash overloaded, or is this another server?")
        case aiohttp.ClientError() | ConnectionError():
            return _url("the connection was closed before the end of the response", "is this the port of Redash?")
    return None


def sentence(error: BaseException, url: str) -> str:
    """Return for callers and the log why there is no response: the URL, which holds no secret, and the cause."""
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"Redash at {url} did not answer in time."
    cause = cause_of(error, url)
    why = "" if cause is None else f": {cause.text}"
    return f"Redash cannot be reached at {url}{why}."


def _url(text: str, remedy: str) -> Cause:
    return Cause("upstream.url", text, remedy)


def _where(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _certificate(error: Exception, host: str) -> Cause:
    code, message = getattr(error, "verify_code", 0), getattr(error, "verify_message", "")
    if code in _UNTRUSTED:
        text = f"the certificate of {host} is not trusted ({message})"
        return Cause("upstream.ca_file", text, "name the PEM file with the certificate of the authority that signed it")
    if code == _EXPIRED:
        return _url(f"the certificate of {host} has expired", "renew it on that server")
    return _url(f"the certificate is not for {host} ({message})", "write a name that the certificate has")


def _handshake(error: OSError, where: str) -> Cause:
    reason = getattr(error, "reason", "") or ""
    if reason in _PLAIN_HTTP:
        return _url(f"{where} speaks plain http, not TLS", "write http:// in place of https://, or the port of TLS")
    return _url(f"the TLS handshake with {where} failed ({reason or 'unknown reason'})", "check its TLS settings")


def _connecting(error: OSError, where: str) -> Cause:
    if error.errno == errno.ECONNREFUSED:
        return _url(f"{where} refuses the connection", "is Redash running, and is this its port?")
    if error.errno in _REACHABLE_NOT:
        return _url(f"there is no route to {where}", "check the address and the network")
    reason = os.strerror(error.errno) if error.errno else "unknown reason"
    return _url(f"no connection to {where} ({reason})", "check the address and the network")


async def speaks_tls(url: str) -> bool:
    """Whether the server at this http URL speaks TLS on that port. Any certificate will do: nothing is sent."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError, TimeoutError):  # ssl.SSLError is an OSError
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, ssl=context)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            return True
    return False

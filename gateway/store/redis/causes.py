"""Says in plain words why there is no connection to a server, or why it does not let us in."""

from __future__ import annotations

import errno
import os
from typing import Final

from redis import exceptions

ADVICE: Final = "is Redis running, are host and port in cache.store right, and does no firewall stand between?"

_NOT_ASKED_FOR: Final = "without any password configured"


def no_connection(error: Exception, host: str, port: int) -> str | None:
    """Return why there is no connection; None if there was one, and the server has closed it or refuses the login."""
    cause = error.__cause__ or error.__context__
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, exceptions.TimeoutError):
        return f"no answer from {where} in time"
    if type(error) is not exceptions.ConnectionError or not isinstance(cause, OSError):
        return None
    if verdict := getattr(cause, "verify_message", ""):
        return f"the certificate of {host} is not accepted ({verdict}); see redis.ca_file"
    if reason := getattr(cause, "reason", ""):
        return f"the TLS handshake with {where} failed ({reason})"
    if cause.errno is not None and cause.errno < 0:  # of getaddrinfo
        return f"the name {host} cannot be resolved ({cause.strerror})"
    if cause.errno == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in str(cause):  # a name with two addresses
        return f"{where} refuses the connection"
    return f"no connection to {where} ({os.strerror(cause.errno) if cause.errno else 'unknown reason'})"


def no_login(error: Exception, keys: str) -> str:
    """Return why the server does not let us in, and the keys of the configuration that say who we are."""
    if _NOT_ASKED_FOR in str(error):
        return f"its user default has no password, but one was sent; is redis.username missing? See {keys}"
    return f"{error}; see {keys}"

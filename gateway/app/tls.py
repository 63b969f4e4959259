"""TLS contexts for the listener and for Redash, made from the configuration; errors name its keys."""

from __future__ import annotations

import ssl

from gateway import config
from gateway.errors import ConfigurationError


def server_context(server: config.Server) -> ssl.SSLContext | None:
    """Return the listener's context, None where no certificate is configured.

    Raises:
        ConfigurationError: certificate or key cannot be used.
    """
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError([f"server.tls_cert, server.tls_key: cannot be used: {_reason(error)}"]) from None
    return context


def client_context(upstream: config.Upstream) -> ssl.SSLContext:
    """Return the context that verifies Redash: against `ca_file`, or against the system's authorities.

    Raises:
        ConfigurationError: the file holds no certificates.
    """
    if upstream.ca_file is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=str(upstream.ca_file))
    except (OSError, ValueError) as error:
        raise ConfigurationError([f"upstream.ca_file: cannot be used: {_reason(error)}"]) from None
    if not context.cert_store_stats()["x509_ca"]:
        raise ConfigurationError(["upstream.ca_file: holds no certificate of an authority (PEM is expected)"])
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__

"""TLS contexts for the listener and for Redash, made from the configuration; errors name its keys."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from gateway import config
from gateway.app.certificates import ends_of_validity
from gateway.errors import ConfigurationError


class Refusal(NamedTuple):
    """What is wrong with the file at a key of the configuration, and what to do."""

    key: str
    text: str


def refusals(settings: config.Config) -> list[Refusal]:
    """Return what is wrong with the certificates and keys that the configuration names."""
    server, authority = settings.server, settings.upstream.ca_file
    found = []
    if server.tls_cert is not None and server.tls_key is not None:
        found.append(_load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), server.tls_cert, server.tls_key))
    if authority is not None:
        found.append(_authority(authority)[1])
    return [refusal for refusal in found if refusal is not None]


def server_context(server: config.Server) -> ssl.SSLContext | None:
    """Return the listener's context, None where no certificate is configured.

    Raises:
        ConfigurationError: certificate or key cannot be used.
    """
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _raise(_load(context, server.tls_cert, server.tls_key))
    return context


def client_context(upstream: config.Upstream) -> ssl.SSLContext:
    """Return the context that verifies Redash: against `ca_file`, or against the system's authorities.

    Raises:
        ConfigurationError: the file holds no certificates.
    """
    if upstream.ca_file is None and upstream.url.startswith("http:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused: it trusts nobody, for reading authorities takes 20 ms
    if upstream.ca_file is None:
        return ssl.create_default_context()
    context, refusal = _authority(upstream.ca_file)
    _raise(refusal)
    return context


def expiries(settings: config.Config) -> dict[str, float]:
    """Return until when the certificates in force are valid (unix seconds), by the key that names their file.

    Callers need every certificate of the chain. Of several authorities, one that is still valid may be enough.
    """
    files = (
        ("server.tls_cert", settings.server.tls_cert, min),
        ("upstream.ca_file", settings.upstream.ca_file, max),
    )
    found = [(key, choose, ends_of_validity(_text(file))) for key, file, choose in files if file is not None]
    return {key: choose(ends) for key, choose, ends in found if ends}


def _text(file: Path) -> str:
    """Return the text of a file that has been read before; "" if it is gone."""
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _raise(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise ConfigurationError([f"{refusal.key}: {refusal.text}"])


class _PassphraseError(Exception):
    """The private key has one. OpenSSL would ask for it on the terminal."""


def _no_passphrase() -> str:
    raise _PassphraseError


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> Refusal | None:
    """Load certificate and key into a context, or return what is wrong."""
    try:
        ssl.create_default_context(cafile=str(cert))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        text = f"{cert} holds no certificate in PEM form ({_reason(error)}); put it there, with its chain after it"
        return Refusal("server.tls_cert", text)
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except _PassphraseError:
        text = f"the key in {key} has a passphrase; write it without one: openssl pkey -in KEY -out NEW_KEY"
        return Refusal("server.tls_key", text)
    except (OSError, ValueError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            text = f"{key} is not the key of the certificate in server.tls_cert; name the one that belongs to it"
            return Refusal("server.tls_key", text)
        text = f"{key} holds no private key in PEM form ({_reason(error)}); put the key of the certificate there"
        return Refusal("server.tls_key", text)
    return None


def _authority(file: Path) -> tuple[ssl.SSLContext, Refusal | None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context = ssl.create_default_context(cafile=str(file))
    except (OSError, ValueError) as error:
        text = f"{file} holds no certificate in PEM form ({_reason(error)}); put the authority's certificate there"
        return context, Refusal("upstream.ca_file", text)
    if not context.cert_store_stats()["x509_ca"]:
        text = f"{file} holds no certificate of an authority; put the certificate there that signed that of Redash"
        return context, Refusal("upstream.ca_file", text)
    return context, None


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__

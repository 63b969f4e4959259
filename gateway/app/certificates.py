"""Until when certificates are valid. `ssl` says it only of those that a peer has sent, so they are read here."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_LONGEST_LENGTH: Final = 4


def ends_of_validity(pem: str) -> list[float]:
    """Return the end of validity (unix seconds) of each certificate in the text, but not of one that is damaged."""
    found = []
    for block in _PEM.findall(pem):
        try:
            found.append(_end_of_validity(ssl.PEM_cert_to_DER_cert(block)))
        except (ValueError, IndexError):
            continue  # OpenSSL has refused it, if it is needed
    return found


def _end_of_validity(der: bytes) -> float:
    """Read `notAfter` (RFC 5280 section 4.1): the fifth field of the signed part, or the sixth after a version.

    Raises:
        ValueError, IndexError: it is not encoded as a certificate.
    """
    signed = _fields(_fields(_fields(der)[0][1])[0][1])
    validity = _fields(signed[4 if signed[0][0] == _VERSION else 3][1])
    kind, text = validity[1]
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    year = datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
    return year.timestamp()


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of each element of a DER sequence's content."""
    found, at = [], 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= _LONGEST_LENGTH:
                raise ValueError("a length of that form is not DER")
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("an element is longer than what contains it")
        found.append((tag, data[at : at + length]))
        at += length
    return found

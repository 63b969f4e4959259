"""Parsers for addresses, URLs, names and other values of single keys. Pure; a ValueError says what to write instead.

Numbers with units are in `units`.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import zoneinfo
from datetime import date, datetime, time
from urllib.parse import SplitResult, urlsplit

import msgspec

from gateway.config.mistakes import did_you_mean
from gateway.model import SLUG

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_BASE_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/*", re.ASCII)
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){0,3}([.-][A-Za-z0-9.]{1,20})?", re.ASCII)
_REDIS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
AUTOMATIC = "auto"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLACEHOLDER = "0" * 64
_LONGEST_UNIX_PATH = 107
"""Bytes, without the zero at the end (unix(7))."""

_LONGEST_PREFIX = 200
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", re.ASCII)
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f]")


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a listener: `host` (IPv6 without brackets) and `port`, or the path of a `unix` socket."""

    host: str = ""
    port: int = 0
    unix: str = ""

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The http URL of this listener, or "unix:/path"."""
        if self.unix:
            return str(self)
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - for clients, not to listen on
        return f"http://{Listen(host=everywhere.get(self.host, self.host), port=self.port)}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return bool(self.unix) or self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def is_reached_by(self, name: str, port: int | None) -> bool:
        """Whether a connection from this machine to a host name or address, and a port, leads here."""
        if self.unix or not self.port or self.port != port:
            return False
        here, there = _same(self.host), _same(name)
        return here == there or (here in ("0.0.0.0", "::") and Listen(host=there).is_local)  # noqa: S104 - compared


def _same(host: str) -> str:
    """Return one name for all that mean this machine alone."""
    return "localhost" if host in ("127.0.0.1", "::1") else host.lower()


def text(value: object) -> str:
    """Parse a string that is not empty and has no control characters."""
    if not isinstance(value, str):
        hint = "is a list; write one string, without brackets"
        raise ValueError(hint if isinstance(value, list) else "is not a string; write it in quotes")
    if not value.strip():
        raise ValueError("is empty; give it a value or leave the key out")
    if _UNUSABLE.search(value):
        raise ValueError("has control characters in it")
    return value


class WholeNumber:
    """Parses whole numbers from `least` to `most`, by default to 2**53 (what JSON carries safely)."""

    def __init__(self, least: int, most: int = 2**53) -> None:
        self.least = least
        self.most = most

    def __call__(self, value: object) -> int:
        """Return the number."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            most = "" if self.most == 2**53 else f" and at most {self.most}"
            raise ValueError(f"is not a whole number of at least {self.least}{most}")
        return value


def dashboard(value: object) -> int | str:
    """Parse the id of a dashboard or its slug."""
    if not isinstance(value, str):
        return WholeNumber(1)(value)
    if value.isdecimal():
        raise ValueError("is an id in quotes; write ids without quotes, slugs in quotes")
    if not re.fullmatch(SLUG, value):
        raise ValueError(
            "is not the slug of a dashboard, as in /dashboard/sales-overview; or write its id, as a number"
        )
    return value


def listen(value: object) -> Listen:
    """Parse "host:port", "[IPv6]:port" or "unix:/path"."""
    address = text(value)
    if address.startswith("unix:/"):
        if len(os.fsencode(address)) > _LONGEST_UNIX_PATH + len("unix:"):
            raise ValueError(f"is a path that is too long for a Unix socket; use at most {_LONGEST_UNIX_PATH} bytes")
        return Listen(unix=address.removeprefix("unix:"))
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    known = _is_ipv6(host[1:-1]) if bracketed else _is_host_name(host)
    if not (colon and known and re.fullmatch("[0-9]{1,5}", port) and int(port) <= 65535):
        raise ValueError('is not an address; write "127.0.0.1:8080", "[::1]:8080" or "unix:/run/name.sock"')
    return Listen(host=host[1:-1] if bracketed else host, port=int(port))


def socket_mode(value: object) -> str:
    """Parse the permissions of a Unix socket, in octal digits as chmod takes them."""
    mode = text(value)
    if not re.fullmatch("0?[67][0-7]{2}", mode):
        raise ValueError('is no mode that leaves the socket to its owner; write for example "0660", in quotes')
    return mode


def group(value: object) -> str:
    """Parse the name of a group of this machine."""
    name = text(value)
    if not _GROUP.fullmatch(name):
        raise ValueError('is not the name of a group; write for example "www-data"')
    return name


def host(value: object) -> str:
    """Parse a name that a Host header may contain, without port, in lower case; "*" for any."""
    name = text(value).lower()
    if name == "*" or _is_host_name(name) or (name[0] == "[" and name[-1] == "]" and _is_ipv6(name[1:-1])):
        return name
    raise ValueError('is not a host name; write it without scheme, port and path, "[::1]" for IPv6, "*" for any')


def origin(value: object) -> str:
    """Parse an origin as browsers send it: "https://host" or "https://host:port"; "*" for any."""
    given = text(value)
    if given == "*":
        return given
    parts = _web_url(given)
    if parts.path not in ("", "/"):
        raise ValueError("is not an origin; write scheme, host and port only")
    return _normal(parts)


def redash_version(value: object) -> str:
    """Parse Redash's version, "10.1.0" or just "10"; "auto" for the one that it says itself."""
    given = text(value)
    if given != AUTOMATIC and not _VERSION.fullmatch(given):
        raise ValueError('is not a version of Redash; write "auto", or its number as "10.1.0"')
    return given


def base_url(value: object) -> str:
    """Parse Redash's URL, with the organisation's slug if there is one; a slash at the end is dropped."""
    parts = _web_url(text(value))
    if not _BASE_PATH.fullmatch(parts.path):
        raise ValueError("has a path that Redash cannot have; write the address of its start page")
    if parts.path.rstrip("/").endswith("/api"):
        raise ValueError("ends with /api; write the address of Redash's start page, the gateway adds /api itself")
    return _normal(parts) + parts.path.rstrip("/")


def path_prefix(value: object) -> str:
    """Parse the path at which clients see the gateway, "" for the root; a slash at the end is dropped."""
    if value == "":
        return ""
    path = text(value)
    if len(path) > _LONGEST_PREFIX or not path.startswith("/") or not _BASE_PATH.fullmatch(path):
        raise ValueError('is not a path; write for example "/redash", or "" without one')
    if path.split("/")[1] in ("api", "ping"):
        raise ValueError("is where the gateway's own paths begin; write the path that the proxy has for the gateway")
    return path.rstrip("/")


def web_url(value: object) -> str:
    """Parse any http(s) URL without user, query and fragment."""
    parts = _web_url(text(value))
    return _normal(parts) + parts.path


def redis_name(value: object) -> str:
    """Parse the prefix of keys in Redis, or the name of a gateway: no character has a meaning in Redis or a metric."""
    given = text(value)
    if not _REDIS_NAME.fullmatch(given):
        raise ValueError("is not a usable name; use up to 64 letters, digits, '-', '_', '.' and ':'")
    return given


def sha256(value: object) -> str:
    """Parse the hash of a token; no message shows it."""
    given = text(value)
    if given == _PLACEHOLDER:
        raise ValueError("is the placeholder of the examples; `redash-gateway token` prints a line to put here")
    if _SHA256.fullmatch(given):
        return given
    if given.startswith("rg_"):
        raise ValueError("looks like a token itself; the file holds its SHA-256: `redash-gateway token` prints both")
    raise ValueError("is not a SHA-256 of 64 lower-case hexadecimal digits; `redash-gateway token` makes one")


def timezone(value: object) -> str:
    """Parse a name of the IANA time zone database."""
    name = text(value)
    try:
        if name != "UTC":  # needs no database
            zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        known = zoneinfo.available_timezones() | {"UTC"}
        guess = did_you_mean(name, known)
        hint = guess if guess.startswith("did") else 'write for example "UTC" or "Europe/Berlin"'
        raise ValueError(f"is not a known time zone; {hint}") from None
    return name


def parameters(value: object) -> dict[str, object]:
    """Parse a query's parameters: any value that JSON can represent."""
    if not isinstance(value, dict):
        raise ValueError('is not a table; write { name = "value" }')
    _only_json(value)
    return value


def _only_json(value: object) -> None:
    if isinstance(value, date | datetime | time):
        raise ValueError('has a date in it; Redash takes dates as text: "2027-06-30"')
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("has a number in it that JSON cannot carry")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _only_json(child)


def _web_url(given: str) -> SplitResult:
    parts = split_url(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('is not a URL; write for example "https://redash.example.com"')
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user name or password in it, which are not used; leave them out")
    if "?" in given or "#" in given:
        raise ValueError("has a query or fragment, which are not used; leave them out")
    if not is_host(parts.hostname):
        raise ValueError("has a host name with characters that host names cannot have")
    return parts


def is_host(name: str) -> bool:
    """Whether it is the name of a host, or an IP address without brackets."""
    return _is_host_name(name) or _is_ipv6(name)


def split_url(given: str) -> SplitResult:
    """Split a URL; the errors never quote it."""
    try:
        parts = urlsplit(given)
        _ = parts.port  # raises if it is not a port number
    except ValueError:  # the text of the exception quotes the URL
        raise ValueError("is not a URL: host or port cannot be read") from None
    if re.search(r"\s", given):
        raise ValueError("has white space in it")
    return parts


def _normal(parts: SplitResult) -> str:
    name = parts.hostname or ""
    bracketed = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{bracketed}" + (f":{parts.port}" if parts.port is not None else "")


def _is_host_name(name: str) -> bool:
    """Whether it can be looked up: Python fails on labels that are empty or too long (RFC 1035 2.3.4)."""
    return _HOST_NAME.fullmatch(name) is not None and all(0 < len(label) <= 63 for label in name.split("."))


def _is_ipv6(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).version == 6
    except ValueError:
        return False

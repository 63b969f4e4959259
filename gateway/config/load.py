"""Loading a configuration file: text, structs, cross checks, keys; all mistakes in one error."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from gateway.config.checks import check
from gateway.config.material import gather
from gateway.config.read import Reader
from gateway.config.report import Report, may_be_secret
from gateway.config.schema import Admin, Config
from gateway.config.texts import Listen
from gateway.errors import ConfigurationError


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read the file with the keys it points at; `ConfigurationError` holds one line for each mistake."""
    return parse(_text(path), path.absolute().parent, environ, str(path))


def parse(text: str, directory: Path, environ: Mapping[str, str], name: str = "config.toml") -> Config:
    """Read the text of a file called `name` as if it stood in `directory` (absolute)."""
    report = Report(name)
    config = Reader(report, directory).table(Config, _toml(text, name), "")
    check(config, report)
    config = gather(config, directory, environ, report)
    if report.lines:
        raise ConfigurationError(report.lines)
    return config


def admin_listen(path: Path) -> Listen:
    """Where the file's admin listener is; mistakes elsewhere in it and missing keys do not matter here."""
    report = Report(str(path))
    admin = Reader(report, path.absolute().parent).table(Admin, _toml(_text(path), str(path)).get("admin", {}), "admin")
    if report.lines:
        raise ConfigurationError(report.lines)
    return admin.listen


def token_hash(token: str) -> str:
    """SHA-256 of a token, hex: what `token_sha256` holds."""
    return hashlib.sha256(token.encode()).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: is not UTF-8 text (byte {error.start + 1})"]) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unknown reason"
        raise ConfigurationError([f"{path}: cannot be read: {reason}"]) from None


def _toml(text: str, name: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{name}: {_placed(str(error), text)}"]) from None
    except (RecursionError, ValueError):  # neither says where
        raise ConfigurationError([f"{name}: nested too deeply, or with a number too long to be read"]) from None


def _placed(message: str, text: str) -> str:
    """Put line and column first, and leave out what tomllib quotes where that may be a secret."""
    what, _, place = message.rpartition(" (at ")
    found = re.fullmatch(r"line (\d+), column (\d+)\)", place)
    lines = text.splitlines() or [""]
    line, column = (found[1], found[2]) if found else (len(lines), len(lines[-1]) + 1)
    return f"line {line}, column {column}: {'not valid TOML' if may_be_secret(what) else what}"

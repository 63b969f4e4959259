"""Loads a configuration file: text, structs, cross checks, keys. One error holds all mistakes."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.config.checks import check
from gateway.config.mistakes import Mistakes, may_be_secret
from gateway.config.reader import Reader
from gateway.config.references import others_can_write, resolve
from gateway.config.schema import Admin, Config
from gateway.config.values import Listen
from gateway.errors import ConfigurationError


def load(path: Path, environ: Mapping[str, str], listen: Sequence[str] | None = None) -> Config:
    """Read the file and the keys that it refers to; `ConfigurationError` has one line for each mistake.

    `listen`, addresses, is read in place of the file's `server.listen`.
    """
    return parse(_text(path), path.absolute().parent, environ, str(path), listen)


def parse(
    text: str,
    directory: Path,
    environ: Mapping[str, str],
    name: str = "config.toml",
    listen: Sequence[str] | None = None,
) -> Config:
    """Parse the text of a file `name` in `directory` (an absolute path)."""
    mistakes, raw = Mistakes(name), _toml(text, name)
    server = raw.setdefault("server", {})
    if listen is not None and isinstance(server, dict):
        server["listen"] = list(listen)
    config = Reader(mistakes, directory).table(Config, raw, "")
    check(config, mistakes)
    config = resolve(config, directory, environ, mistakes)
    if mistakes.lines:
        raise ConfigurationError(mistakes.lines)
    return config


def admin_listen(path: Path) -> Listen:
    """Return the address of the admin listener; mistakes in other tables and missing keys are ignored."""
    mistakes = Mistakes(str(path))
    admin = Reader(mistakes, path.absolute().parent).table(
        Admin, _toml(_text(path), str(path)).get("admin", {}), "admin"
    )
    if mistakes.lines:
        raise ConfigurationError(mistakes.lines)
    return admin.listen


def token_hash(token: str) -> str:
    """Return the SHA-256 of a token in hex, as in `token_sha256`."""
    return hashlib.sha256(token.encode()).hexdigest()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            if others_can_write(stream.fileno()):
                text = "every user of this machine can write to it, and so give away keys; run chmod o-w on it"
                raise ConfigurationError([f"{path}: {text}"])
            return stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: is not UTF-8 text (byte {error.start + 1})"]) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unknown reason"
        raise ConfigurationError([f"{path}: cannot be read: {reason}"]) from None


def _toml(text: str, name: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{name}: {_located(str(error), text)}"]) from None
    except (RecursionError, ValueError):  # neither says where
        raise ConfigurationError([f"{name}: nested too deeply, or with a number too long to be read"]) from None


def _located(message: str, text: str) -> str:
    """Put line and column first, and hide what tomllib quotes if it may be a secret."""
    what, _, place = message.rpartition(" (at ")
    found = re.fullmatch(r"line (\d+), column (\d+)\)", place)
    lines = text.splitlines() or [""]
    line, column = (found[1], found[2]) if found else (len(lines), len(lines[-1]) + 1)
    hint = _remedy(lines[min(int(line), len(lines)) - 1])
    return f"line {line}, column {column}: {'not valid TOML' if may_be_secret(what) else what}{hint}"


def _remedy(line: str) -> str:
    """Return what is probably missing in a line that is no TOML; quotes mostly. Shows nothing of the line."""
    if re.match(r"\s*\[[\w. -]*\w [\w]", line):
        return '; a name with spaces needs quotes: [clients."sales dashboard"]'
    if re.match(r"\s*[\w.-]+\s*=\s*[^\s\"'\[{#]", line):
        return '; a text needs quotes: disk = "4GB"'
    return ""

"""What the configuration refers to: keys in variables and files, certificates, paths. No message shows any content."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from gateway.config import stores
from gateway.config.mistakes import Mistakes, dotted, shown
from gateway.config.redis_url import NO_PASSWORD
from gateway.config.schema import Config, Credential, Redis
from gateway.secret import Secret

_KEY = re.compile(r"[\x21-\x7e]+")
_LONGEST_KEY = 4096
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


def resolve(config: Config, directory: Path, environ: Mapping[str, str], mistakes: Mistakes) -> Config:
    """Return the configuration with every key read and an absolute path of the store; what is missing is a mistake."""
    for path, file in (
        ("server.tls_cert", config.server.tls_cert),
        ("server.tls_key", config.server.tls_key),
        ("upstream.ca_file", config.upstream.ca_file),
        ("redis.ca_file", config.redis.ca_file),
    ):
        if file is not None:
            _bytes(file, path, mistakes)
    credentials = {
        name: replace(credential, key=_key(credential, dotted("credentials", name), environ, mistakes))
        for name, credential in config.credentials.items()
    }
    cache = replace(config.cache, store=stores.anchored(config.cache.store, directory))
    redis = replace(config.redis, password=_password(config.redis, environ, mistakes))
    return replace(config, credentials=credentials, cache=cache, redis=redis)


def _password(redis: Redis, environ: Mapping[str, str], mistakes: Mistakes) -> Secret:
    """Return the password of Redis; it may have any characters but for line ends behind it, as files have them."""
    if redis.password_env is not None:
        source, text = "redis.password_env", _variable(redis.password_env, "redis.password_env", environ, mistakes)
        data = None if text is None else text.encode(errors="surrogateescape")
    elif redis.password_file is not None:
        source, data = "redis.password_file", _bytes(redis.password_file, "redis.password_file", mistakes)
    else:
        return NO_PASSWORD
    if data is None:
        return NO_PASSWORD
    try:
        password = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        mistakes.add(source, "the password there is not UTF-8 text")
        return NO_PASSWORD
    if not 0 < len(password) <= _LONGEST_KEY:
        mistakes.add(source, f"the password there is {'too long' if password else 'empty'}")
    return Secret(password)


def _key(credential: Credential, path: str, environ: Mapping[str, str], mistakes: Mistakes) -> Secret:
    sources = (f"{path}.key_env", f"{path}.key_file")
    if (credential.key_env is None) == (credential.key_file is None):
        mistakes.add(
            path, "needs exactly one of key_env and key_file", unless=(*sources, f"{path}.key", f"{path}.api_key")
        )
        return Secret("")
    if credential.key_env is not None:
        source, text = sources[0], _variable(credential.key_env, sources[0], environ, mistakes)
    else:
        assert credential.key_file is not None  # noqa: S101 - one of the two is there
        data = _bytes(credential.key_file, sources[1], mistakes)
        source, text = sources[1], None if data is None else data.decode("latin-1")
    return _checked_key(text, source, mistakes)


def _checked_key(text: str | None, source: str, mistakes: Mistakes) -> Secret:
    """Refuse what a header cannot carry. Redash makes keys of 40 letters and digits, others may be valid too."""
    if text is None:
        return Secret("")
    key = text.rstrip("\r\n")
    if not key:
        mistakes.add(source, "the key there is empty")
    elif key.startswith("rg_"):
        mistakes.add(source, "the key there is a token of the gateway; put a key of Redash there (see a user's page)")
    elif len(key) > _LONGEST_KEY:
        mistakes.add(source, "the key there is too long")
    elif not _KEY.fullmatch(key):
        mistakes.add(source, "the key there has white space, control or non-ASCII characters in it")
    return Secret(key)


def _variable(name: str, path: str, environ: Mapping[str, str], mistakes: Mistakes) -> str | None:
    if name in environ:
        return environ[name]
    # what is not a plain variable name may be a key in the wrong place
    named = f" {name}" if _VARIABLE.fullmatch(name) and len(name) <= 64 else ""
    mistakes.add(path, f"the environment variable{named or ' that it names'} is not set")
    return None


def _bytes(file: Path, path: str, mistakes: Mistakes) -> bytes | None:
    try:
        with file.open("rb") as stream:
            if others_can_write(stream.fileno()):
                mistakes.add(path, f"every user of this machine can write to {shown(str(file))}; run chmod o-w on it")
            return stream.read(_LONGEST_KEY + 3)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "cannot be read"
        mistakes.add(path, f"the file {shown(str(file))} cannot be read: {reason}")
        return None


def others_can_write(descriptor: int) -> bool:
    """Whether an open file is a regular one that every user of the machine can write to."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISREG(mode) and bool(mode & stat.S_IWOTH)

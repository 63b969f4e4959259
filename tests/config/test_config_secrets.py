"""Keys and tokens in any place of the file, also in a wrong one, never get into a message."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest
from config_helpers import BASE, ENVIRON
from hypothesis import given
from hypothesis import strategies as st
from test_config_example import FULL

from gateway.config import parse
from gateway.config.mistakes import may_be_secret
from gateway.errors import ConfigurationError

DIRECTORY = Path("/etc/gateway")
letters = string.ascii_letters + string.digits
redash_keys = st.text(letters, min_size=40, max_size=40).filter(may_be_secret)
tokens = st.text(letters, min_size=43, max_size=43).map(lambda text: f"rg_{text}")
hashes = st.text("0123456789abcdef", min_size=64, max_size=64).filter(may_be_secret)
secrets = redash_keys | tokens | hashes


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str | bool | int | float) else str(value)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every value of the example, tables and lists included, by its path."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def put(value: object, path: tuple[str | int, ...], secret: str) -> object:
    if not path:
        return secret
    if isinstance(value, dict):
        return {key: put(child, path[1:], secret) if key == path[0] else child for key, child in value.items()}
    assert isinstance(value, list)
    return [put(child, path[1:], secret) if key == path[0] else child for key, child in enumerate(value)]


def document(value: dict[str, object]) -> str:
    return "\n".join(f"{json.dumps(key)} = {toml(child)}" for key, child in value.items())


def told(text: str) -> str:
    try:
        parse(text, DIRECTORY, ENVIRON)
    except ConfigurationError as error:
        return f"{error}{error!r}"
    return ""


@given(
    st.sampled_from(places(FULL)[1:]),
    secrets,
    st.sampled_from(["{}", "https://u:{}@h", "x {}", "{}\n", "redis://:{}@"]),
)
def test_secret_as_any_value(place: tuple[str | int, ...], secret: str, form: str) -> None:
    broken = put(FULL, place, form.format(secret))
    assert isinstance(broken, dict)
    assert secret not in told(document(broken))


@given(secrets)
def test_secret_as_any_key(secret: str) -> None:
    text = document({**FULL, "server": {secret: 1}, "clients": {secret: {secret: 1}}, "credentials": {secret: {}}})
    assert secret not in told(text)
    assert secret not in told(f"{secret} = 1\n{secret} = 2\n")
    assert secret not in told(f"[{secret}]\n[{secret}]\n")


@given(st.text(min_size=1).filter(str.strip))
def test_password_of_the_store_however_short(password: str) -> None:
    marked = f"<{password}>"
    text = BASE + f"[cache]\nstore = {json.dumps('redis:://:' + marked + '@h', ensure_ascii=False)}\n"
    if re.search(r"[\x00-\x1f\x7f]", password):
        return
    assert marked not in told(text)


@pytest.mark.parametrize("key", ["a b", "a\nb", "ä", ""])
def test_unusable_keys_are_not_quoted(key: str) -> None:
    text = BASE.replace("KEY", "OTHER")
    with pytest.raises(ConfigurationError) as caught:
        parse(text, DIRECTORY, {"OTHER": f"visible{key}" if key else ""})
    assert "visible" not in str(caught.value)

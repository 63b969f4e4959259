"""Every key of the configuration is read by somebody: a key without effect would be a promise that nobody keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from settings_reads import reads
from support.schema_keys import keys

SOURCE: Final = Path(__file__).parents[2] / "gateway"

READ_WHILE_LOADING: Final = {"credentials.key_env"}
"""It says where a key is; the rest of the gateway sees the key only. `check` looks at the modes of a `key_file` and of
`password_file`, too, and what says that Redis refuses a login names the keys that say where user and password are.
"""


def test_every_key_is_read_outside_the_room_of_the_configuration() -> None:
    read = reads(
        path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in ("config", "sandbox")
    )
    unread = sorted(keys().keys() - read - READ_WHILE_LOADING)
    assert unread == [], "nobody reads these keys"
    assert not read & READ_WHILE_LOADING


def test_what_is_read_while_loading_is_read_there() -> None:
    assert reads((SOURCE / "config").glob("*.py")) >= READ_WHILE_LOADING


SAMPLES: Final = {
    "settings.cache.disk": {"cache.disk"},
    "self.settings.cache.disk": {"cache.disk"},
    "[c.rate for c in settings.clients.values()]": {"clients.rate"},
    "[c.rate for n, c in settings.clients.items()]": {"clients.rate"},
    "settings.clients['a'].rate": {"clients.rate"},
    "settings.clients.get('a').rate": {"clients.rate"},
    "[w.every for w in settings.warm]": {"warm.every"},
    "(server := settings.server).hosts": {"server.hosts"},
    "self.caller.table.can": {"clients.can"},
    "next((r for r in settings.cache.rules), None).tags": {"cache.rules.tags"},
    "[getattr(t, 'floor') for t in (settings.cache, self.caller.table)]": {"cache.floor", "clients.floor"},
    "self.current().admin.listen": {"admin.listen"},
    "other.cache.disk": set(),
    "settings.cache": set(),
    "disk": set(),
}


@pytest.mark.parametrize("expression", SAMPLES)
def test_reads_are_found_by_type_not_by_name(expression: str, tmp_path: Path) -> None:
    text = f"""
from collections.abc import Callable
from gateway import config
class Caller:
    table: config.Client
class Part:
    def __init__(self, given: config.Config, caller: Caller, current: Callable[[], config.Config]) -> None:
        self.settings = given
        self.caller, self.current = caller, current
    def look(self, settings: config.Config, other: Caller, disk: int) -> None:
        {expression}
"""
    (tmp_path / "part.py").write_text(text)
    assert reads([tmp_path / "part.py"]) == SAMPLES[expression]

"""What `check` finds on the machine, beside the mistakes of the file itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from support.settings import SMALL

from gateway import cli
from gateway.app import settings, sockets
from gateway.config import Listen
from gateway.store import factory


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEY", "k" * 40)
    path = tmp_path / "config.toml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", ["gateway.db", "gateway.db.bodies", ""])
def test_a_store_that_this_user_may_not_write_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typical after a first start as root. Root itself may write everything, so the system's answer is replaced."""
    (tmp_path / "gateway.db").touch()
    (tmp_path / "gateway.db.bodies").mkdir()
    locked = tmp_path / name
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and allowed(path, mode))
    text = factory.obstacle(f"sqlite:{tmp_path}/gateway.db")
    assert text == f"this user may not write to {locked}; give it to the user that runs the gateway (chown)"


def test_an_address_in_use_is_no_obstacle() -> None:
    """`check` runs beside the gateway, before its reload."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert sockets.obstacle(Listen(host="127.0.0.1", port=taken.getsockname()[1])) is None


def test_a_socket_that_systemd_has_made_is_not_looked_for(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its socket in place, the directory or the address may be one that the service itself cannot make."""
    file.write_text(SMALL + '[server]\nlisten = "192.0.2.1:8080"\n')
    loaded = settings.load(file)
    assert cli.main(["check", "-c", str(file)]) == 2
    assert "server.listen: this machine has no address" in capsys.readouterr().err
    settings.refuse_obstacles(file, loaded, ["api"])


def test_keys_that_others_can_read_are_noted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = file.with_name("key")
    key.write_text("k" * 40)
    file.write_text(SMALL.replace('key_env = "KEY"', 'key_file = "key"'))
    for mode, noted in ((0o644, True), (0o640, False)):
        key.chmod(mode)
        assert cli.main(["check", "-c", str(file)]) == 0
        assert ("note: credentials.a.key_file: every user" in capsys.readouterr().out) == noted


@pytest.mark.parametrize(
    ("listen", "name", "port", "expected"),
    [
        ("127.0.0.1:80", "localhost", 80, True),
        ("localhost:80", "::1", 80, True),
        ("0.0.0.0:80", "127.0.0.1", 80, True),
        ("[::]:80", "localhost", 80, True),
        ("redash.example:80", "Redash.Example", 80, True),
        ("127.0.0.1:80", "127.0.0.2", 80, False),
        ("0.0.0.0:80", "redash.example", 80, False),
        ("127.0.0.1:80", "127.0.0.1", 81, False),
        ("127.0.0.1:0", "127.0.0.1", 0, False),
    ],
)
def test_which_addresses_are_the_same(listen: str, name: str, port: int, expected: bool) -> None:
    host, _, own = listen.rpartition(":")
    assert Listen(host=host.strip("[]"), port=int(own)).is_reached_by(name, port) == expected

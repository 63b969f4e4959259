"""What a service manager passes and is told: sockets, READY, RELOADING, STOPPING, WATCHDOG. No systemd is needed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from support.process import Process
from support.waiting import within
from support.world import token_table

from gateway.app.systemd import Supervisor, inherited_sockets
from gateway.errors import ConfigurationError
from gateway.sandbox import Sandbox

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield made
    for one in made:
        one.close()


# -- sockets


async def serving(written: Path, sandbox: Sandbox, sockets: list[socket.socket], names: str) -> Process:
    env = token_table(sandbox) | {"LISTEN_FDNAMES": names}
    numbers = [one.fileno() for one in sockets]
    return await Process.start("serve", "-c", str(written), cwd=written.parent, env=env, sockets=numbers)


def change(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


def url(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


async def test_sockets_are_used_by_their_names(written: Path, sandbox: Sandbox, sockets: list[socket.socket]) -> None:
    process = await serving(written, sandbox, sockets, "admin:api")
    try:
        assert await process.serving() == (url(sockets[1]), url(sockets[0]))
        async with aiohttp.ClientSession() as session:
            async with session.get(url(sockets[1]) + "/ping") as response:
                assert response.status == 200
            async with session.get(url(sockets[0]) + "/readyz") as response:
                assert response.status == 200
        process.child.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        for one in sockets:  # it is systemd's, and goes on to take connections
            socket.create_connection(one.getsockname(), timeout=5).close()
    finally:
        await process.kill()


async def test_a_single_socket_without_a_name_is_the_apis(
    written: Path, sandbox: Sandbox, sockets: list[socket.socket]
) -> None:
    process = await serving(written, sandbox, sockets[:1], "")
    try:
        assert (await process.serving())[0] == url(sockets[0])
    finally:
        await process.kill()


@pytest.mark.parametrize(
    ("names", "listen", "says"),
    [
        ("api:admin", "127.0.0.2:0", "the inherited socket 'api' listens on 127.0.0.1:"),
        ("api:admin", "127.0.0.1:1", "server.listen is 127.0.0.1:1"),
        ("api:admin", "unix:/run/api.sock", "server.listen is unix:/run/api.sock"),
        ("api:redash-gateway-admin.socket", "127.0.0.1:0", "name each api or admin"),
        ("api", "127.0.0.1:0", "name each api or admin"),
    ],
)
async def test_sockets_that_do_not_fit_the_configuration_are_refused(
    written: Path, sandbox: Sandbox, sockets: list[socket.socket], names: str, listen: str, says: str
) -> None:
    # What is allowed on a listener (purge without a token, for example) depends on its address in the configuration.
    change(written, "127.0.0.1:0", listen)
    process = await serving(written, sandbox, sockets, names)
    assert await process.ended() == 2
    assert says in process.text
    assert "Traceback" not in process.text


def test_descriptors_for_another_process_are_not_touched() -> None:
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getppid()), "LISTEN_FDNAMES": "api:admin", "HOME": "/"}
    assert inherited_sockets(environ) == {}
    assert environ == {"HOME": "/"}


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    environ = {"LISTEN_FDS": "61", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ":".join(["api"] * 61)}
    held = os.open(os.devnull, os.O_RDONLY)
    try:
        with pytest.raises(ConfigurationError, match="inherited sockets: descriptor"):
            inherited_sockets(environ)
    finally:
        os.close(held)


# -- notifications


class Manager:
    """The side of systemd: the socket, and what came over it."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.sock, self.address = sock, address

    async def told(self) -> str:
        async with within(20):
            return (await asyncio.get_running_loop().sock_recv(self.sock, 4096)).decode()

    async def told_next(self) -> str:
        """The next message that is no sign of life."""
        while (text := await self.told()) == "WATCHDOG=1":
            pass
        return text


@pytest.fixture(params=["path", "abstract"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Manager]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@redash-gateway-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.setblocking(False)
        yield Manager(sock, name)


async def test_the_manager_is_told_how_far_the_process_is(written: Path, sandbox: Sandbox, manager: Manager) -> None:
    env = token_table(sandbox) | {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
    process = await Process.start("serve", "-c", str(written), cwd=written.parent, env=env)
    try:
        assert await manager.told() == "READY=1"
        await process.serving()
        assert [await manager.told() for _ in range(3)] == ["WATCHDOG=1"] * 3
        process.child.send_signal(signal.SIGHUP)
        first, second = (await manager.told_next()).split("\n")
        assert first == "RELOADING=1"
        assert second.startswith("MONOTONIC_USEC=")  # systemd 253 wants it
        assert await manager.told_next() == "READY=1"
        change(written, "[server]", "[sever]")
        process.child.send_signal(signal.SIGHUP)  # what was in force goes on
        assert (await manager.told_next()).startswith("RELOADING=1")
        assert await manager.told_next() == "READY=1"
        process.child.send_signal(signal.SIGTERM)
        assert await manager.told_next() == "STOPPING=1"
        assert await process.ended() == 0
    finally:
        await process.kill()


async def test_a_process_that_waits_for_the_store_is_not_ready(
    written: Path, sandbox: Sandbox, manager: Manager
) -> None:
    env = token_table(sandbox)
    first = await Process.start("serve", "-c", str(written), cwd=written.parent, env=env)
    try:
        await first.serving()
        env = env | {"NOTIFY_SOCKET": manager.address}
        second = await Process.start("serve", "-c", str(written), cwd=written.parent, env=env)
        try:
            await second.says("waiting until it has stopped")
            with pytest.raises(BlockingIOError):
                manager.sock.recv(4096)
            first.child.send_signal(signal.SIGTERM)
            assert await manager.told() == "READY=1"
        finally:
            await second.kill()
    finally:
        await first.kill()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nobody/is/here"}])
async def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    supervisor = Supervisor(environ)
    supervisor.ready()
    with supervisor.reloading():
        pass
    supervisor.stopping()
    supervisor.aclose()


async def test_the_watchdog_of_another_process_is_not_ours(manager: Manager) -> None:
    pid = str(os.getppid())
    supervisor = Supervisor({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": pid})
    supervisor.ready()
    supervisor.stopping()
    assert [await manager.told() for _ in range(2)] == ["READY=1", "STOPPING=1"]
    supervisor.aclose()


# -- the units


def test_systemd_accepts_the_units(tmp_path: Path, needs: Callable[[str], str]) -> None:
    text = {
        unit.name: unit.read_text().replace("/opt/redash-gateway/bin/redash-gateway", "/bin/true")
        for unit in sorted(UNITS.iterdir())
    }
    for name, content in text.items():
        (tmp_path / name).write_text(content)
    done = subprocess.run(
        [needs("systemd-analyze"), "verify", *sorted(str(tmp_path / name) for name in text)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    about_ours = [line for line in (done.stdout + done.stderr).splitlines() if "redash-gateway" in line]
    assert not about_ours
    assert done.returncode == 0, done.stderr


MOST_EXPOSED = 1.5
"""Of 10, as systemd counts it; 2 is where it stops saying "OK"."""


def test_systemd_finds_the_service_well_protected(needs: Callable[[str], str]) -> None:
    threshold = str(int(MOST_EXPOSED * 10))
    command = ["security", "--offline=true", f"--threshold={threshold}", str(UNITS / "redash-gateway.service")]
    done = subprocess.run(
        [needs("systemd-analyze"), "--no-pager", *command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_a_credential_of_any_name_reaches_the_gateway_and_a_crash_leaves_none() -> None:
    """systemd.exec(5): each file of a directory is a credential, whose name begins with that of the setting and `_`."""
    text = (UNITS / "redash-gateway.service").read_text()
    settings = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]\w+=", line))
    name, _, directory = settings["LoadCredential"].partition(":")
    (written,) = re.findall(rf"install -m 600 /dev/stdin {directory}/(\w+)", text)
    assert f'key_file = "/run/credentials/redash-gateway.service/{name}_{written}"' in text
    assert f"install -d -m 700 {directory}\n" in text
    assert settings["LimitCORE"] == "0"

"""`server.listen` with several addresses: all of them are served alone and together, handed over, and inherited."""

from __future__ import annotations

import asyncio
import grp
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from support.calls import TOKENS
from support.process import Process
from support.waiting import within
from support.world import World, configuration, token_table

from gateway.config import Listen
from gateway.sandbox import Sandbox

ONE = 'listen = "127.0.0.1:0"'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def several(text: str, *addresses: str, more: str = "") -> str:
    listed = ", ".join(f'"{address}"' for address in addresses)
    return text.replace(ONE, f"listen = [{listed}]\n{more}", 1)


async def ask(where: Listen, sent: bytes) -> bytes:
    """Send one request over a connection of its own, and read all that comes."""
    async with within(20):
        if where.unix:
            reader, writer = await asyncio.open_unix_connection(where.unix)
        else:
            reader, writer = await asyncio.open_connection(where.host, where.port)
        writer.write(sent)
        received = await reader.read()
        writer.close()
    return received


def hit(world: World) -> bytes:
    body = b'{"max_age": 86400}'
    path = f"/api/queries/{world.named['kb1']}/results"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {TOKENS['dashboard']}\r\n"
    return head.encode() + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def test_ipv4_ipv6_and_a_unix_socket_have_the_same_gateway(
    bare: World, tmp_path: Path, by_fast_path: list[bytes]
) -> None:
    path, group = tmp_path / "api.sock", grp.getgrgid(os.getegid()).gr_name
    bare.text = several(
        configuration(bare.sandbox, "memory:", {}),
        "127.0.0.1:0",
        "[::1]:0",
        f"unix:{path}",
        more=f'socket_mode = "0620"\nsocket_group = "{group}"',
    )
    await bare.resume()
    addresses = bare.runtime.api_addresses
    assert [address.host for address in addresses] == ["127.0.0.1", "::1", ""]
    assert 0 not in {address.port for address in addresses[:2]}
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o620
    assert grp.getgrgid(status.st_gid).gr_name == group
    sent = hit(bare)
    for _ in range(3):  # a response is cached from the second request on
        await ask(addresses[0], sent)
    for where in addresses:
        count = len(by_fast_path)
        assert (await ask(where, sent)).startswith(b"HTTP/1.1 200")
        assert len(by_fast_path) == count + 1, f"{where} has no fast path"


async def test_nothing_listens_if_one_of_them_cannot_be_had(bare: World) -> None:
    """Else callers would wait at an address of a gateway that does not come up."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = taken.getsockname()[1]
        bare.text = several(configuration(bare.sandbox, "memory:", {}), f"127.0.0.1:{port}", f"127.0.0.1:{used}")
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{used}"):
            await bare.resume()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    await bare.runtime.stop()
    del bare.runtime


class Processes:
    """Gateways in processes of their own, all with the same configuration."""

    def __init__(self, directory: Path, sandbox: Sandbox) -> None:
        self.directory, self.sandbox = directory, sandbox
        self.file = directory / "config.toml"
        self._started: list[Process] = []

    def write(self, *addresses: str, admin: str = "127.0.0.1:0") -> None:
        text = several(configuration(self.sandbox, "sqlite:gateway.db", {}), *addresses)
        self.file.write_text(text.replace(ONE, f'listen = "{admin}"', 1))

    async def start(self, *arguments: str, sockets: Sequence[socket.socket] = (), names: str = "") -> Process:
        env = token_table(self.sandbox) | {"LISTEN_FDNAMES": names}
        started = ["serve", "-c", str(self.file), *arguments]
        numbers = [one.fileno() for one in sockets]
        self._started.append(await Process.start(*started, cwd=self.directory, env=env, sockets=numbers))
        return self._started[-1]

    async def aclose(self) -> None:
        for process in self._started:
            await process.kill()


@pytest.fixture
async def processes(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Processes]:
    made = Processes(tmp_path, sandbox)
    yield made
    await made.aclose()


async def stop(process: Process) -> None:
    process.child.send_signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert "Traceback" not in process.text


async def test_all_are_handed_over_and_stay_through_a_reload(processes: Processes, tmp_path: Path) -> None:
    tcp, unix = Listen(host="127.0.0.1", port=free_port()), Listen(unix=str(tmp_path / "api.sock"))
    processes.write(str(tcp), str(unix), admin=f"127.0.0.1:{free_port()}")
    first = await processes.start()
    await first.says(f"serves {tcp}, {unix}, admin on")
    first.child.send_signal(signal.SIGHUP)
    await first.says("configuration loaded again$")
    second = await processes.start()
    await second.says("waiting until it has stopped")
    taken = [line for line in second.lines if "taking over the socket" in line]
    assert len(taken) == 3, "two for clients, one for operators"
    await stop(first)
    for where in (tcp, unix):
        assert (await ask(where, PING)).endswith(b"PONG.")
    await stop(second)


async def test_inherited_sockets_are_matched_and_the_rest_is_made(processes: Processes, tmp_path: Path) -> None:
    """systemd may have the public address, which takes a right that the service lacks, and nothing else."""
    unix = Listen(unix=str(tmp_path / "api.sock"))
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        inherited = [Listen(host="127.0.0.1", port=each.getsockname()[1]) for each in (one, two)]
        processes.write(str(unix), *map(str, inherited))
        process = await processes.start(sockets=[two, one], names="api:api")
        await process.says(f"serves {unix}, {inherited[0]}, {inherited[1]}, admin on")
        for where in (unix, *inherited):
            assert (await ask(where, PING)).endswith(b"PONG.")
        await stop(process)


async def test_an_inherited_socket_of_none_of_them_is_refused(processes: Processes) -> None:
    processes.write("127.0.0.1:1", "127.0.0.1:2")
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = await processes.start(sockets=[other], names="api")
        assert await process.ended() == 2
    assert "but server.listen is 127.0.0.1:1, 127.0.0.1:2" in process.text


async def test_the_option_may_be_given_several_times(processes: Processes, tmp_path: Path) -> None:
    unix = Listen(unix=str(tmp_path / "api.sock"))
    processes.write("127.0.0.1:1")
    process = await processes.start("--listen", "127.0.0.1:0", "--listen", str(unix))
    found = await process.says(rf"serves 127\.0\.0\.1:(\d+), {unix}, admin on")
    process.child.send_signal(signal.SIGHUP)
    await process.says("configuration loaded again$")
    assert "takes a restart" not in process.text
    for where in (Listen(host="127.0.0.1", port=int(found[1])), unix):
        assert (await ask(where, PING)).endswith(b"PONG.")
    await stop(process)

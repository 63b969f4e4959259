"""README's commands, word for word, in a directory that knows nothing of the project.

Only what a reader replaces, too, is replaced: addresses, keys, the token, the id of a query.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from support.documents import ROOT, blocks, recipe
from support.process import Process
from support.waiting import within

from gateway import __version__
from gateway.sandbox import Sandbox


class Terminal:
    """A shell in a directory, in which `redash-gateway` is this interpreter's."""

    def __init__(self, directory: Path, shell: str) -> None:
        self.directory = directory
        self.shell = shell
        self.variables: dict[str, str] = {}
        program = directory / "bin" / "redash-gateway"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gateway "$@"\n')
        program.chmod(0o755)

    async def start(self, text: str) -> Process:
        """Start what a reader pastes; a session of its own, so that a signal reaches the program behind the shell."""
        environment = {**os.environ, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}", **self.variables}
        child = await asyncio.create_subprocess_exec(
            self.shell,
            "-ec",
            text,
            cwd=self.directory,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        return Process(child)

    async def output(self, text: str, *, timeout: float = 30.0) -> str:
        """Paste, and wait for the end; all that was printed."""
        process = await self.start(text)
        assert await process.ended(timeout=timeout) == 0, process.text
        return process.text

    async def interrupt(self, process: Process) -> None:
        """Press Ctrl-C."""
        os.killpg(process.child.pid, signal.SIGINT)
        await process.ended()


@pytest.fixture
def terminal(tmp_path: Path, needs: Callable[[str], str]) -> Terminal:
    directory = tmp_path / "home"
    directory.mkdir()
    return Terminal(directory, needs("bash"))


def free_ports(number: int) -> list[int]:
    """Ports that nobody has now."""
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


async def test_five_minutes_to_a_redash_of_ones_own(
    terminal: Terminal, sandbox: Sandbox, needs: Callable[[str], str]
) -> None:
    needs("curl")
    port, admin_port = free_ports(2)
    printed = await terminal.output(recipe("token"))
    (token,) = re.findall(r"\brg_[\w-]{40,}", printed)
    (line,) = re.findall(r'(?m)^token_sha256 = \["[0-9a-f]{64}"\]$', printed)

    (block,) = [block.text for block in blocks() if (block.page, block.language) == ("README.md", "toml")]
    text = re.sub(r'token_sha256 = \["0+"\]', line, block.replace("https://redash.example.com", sandbox.url))
    assert line in text
    listen = f'[server]\nlisten = "127.0.0.1:{port}"\n[admin]\nlisten = "127.0.0.1:{admin_port}"\n'
    (terminal.directory / "config.toml").write_text(text + listen)

    found = await terminal.output(recipe("check").replace("KEY=...", f"KEY={sandbox.user_keys['analyst']}"))
    assert "online: Redash answers and accepts every credential" in found

    terminal.variables["REDASH_REPORTING_KEY"] = sandbox.user_keys["analyst"]
    serve, _, call = recipe("serve").partition("\n")
    process = await terminal.start(f"exec {serve}")
    await process.serving()
    call = call.replace("rg_...", token).replace("localhost:8080", f"localhost:{port}")
    for wanted in ("fwd=", "hit"):
        reply = await terminal.output(
            call.replace("/42/", f"/{sandbox.named['by_country']}/").replace("curl", "curl -si")
        )
        assert reply.startswith("HTTP/1.1 200 OK")
        assert wanted in re.findall(r"(?m)^Cache-Status: (.+)$", reply)[0]
    await terminal.interrupt(process)


def copy_of_the_checkout(directory: Path) -> None:
    """Put what the package is built from into a directory."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, directory)
    shutil.copytree(ROOT / "gateway", directory / "gateway", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_it_is_installed_on_a_server_as_operation_says(terminal: Terminal) -> None:
    copy_of_the_checkout(terminal.directory)
    terminal.variables["PYTHONPATH"] = ""
    place = str(terminal.directory / "opt")
    printed = await terminal.output(recipe("install").replace("/opt/redash-gateway", place), timeout=240)
    assert __version__ in printed


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_first_command_installs_and_starts_the_demo(terminal: Terminal) -> None:
    copy_of_the_checkout(terminal.directory)
    terminal.variables["PYTHONPATH"] = ""
    port, admin_port, sandbox_port = free_ports(3)
    ports = f"--port {port} --admin-port {admin_port} --sandbox-port {sandbox_port}"
    process = await terminal.start(recipe("demo").rstrip() + f" {ports}")
    await process.says(r"Ctrl-C stops everything", timeout=240)
    async with within(20), aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin_port}/") as page:
        assert "Redash Gateway" in await page.text()
    await terminal.interrupt(process)

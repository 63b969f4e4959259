"""The commands of README, access and operation, word for word, in a directory that knows nothing of the project.

Only what a reader replaces, too, is replaced: addresses, paths, keys, tokens, the id of a query.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
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
        self._started: list[Process] = []
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
        self._started.append(Process(child))
        return self._started[-1]

    async def output(self, text: str, *, timeout: float = 30.0) -> str:
        """Paste, and wait for the end; all that was printed."""
        process = await self.start(text)
        assert await process.ended(timeout=timeout) == 0, process.text
        return process.text

    async def close(self) -> None:
        """End what a failed test has left running, with what it started itself."""
        for process in self._started:
            if process.child.returncode is None:
                os.killpg(process.child.pid, signal.SIGKILL)
                await process.ended()

    async def interrupt(self, process: Process) -> None:
        """Press Ctrl-C."""
        os.killpg(process.child.pid, signal.SIGINT)
        await process.ended()


@pytest.fixture
async def terminal(tmp_path: Path, needs: Callable[[str], str]) -> AsyncIterator[Terminal]:
    directory = tmp_path / "home"
    directory.mkdir()
    made = Terminal(directory, needs("bash"))
    yield made
    await made.close()


def free_ports(number: int) -> list[int]:
    """Ports that nobody has now."""
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


# -- five minutes, and what follows ------------------------------------------------------------------------------------


class Installation:
    """A gateway that was configured as README says, before the sandbox as the company's Redash."""

    def __init__(self, terminal: Terminal, sandbox: Sandbox) -> None:
        self.terminal = terminal
        self.sandbox = sandbox
        self.port, self.admin_port = free_ports(2)
        self.config = terminal.directory / "config.toml"
        self.query = str(sandbox.named["by_country"])

    async def token(self) -> tuple[str, str]:
        """A new token and its hash."""
        return token_in(await self.terminal.output(recipe("token")))

    def configure(self, token_hash: str) -> None:
        """Write README's configuration, with addresses that are free here."""
        (text,) = [block.text for block in blocks() if (block.page, block.language) == ("README.md", "toml")]
        text = text.replace("https://redash.example.com", self.sandbox.url).replace("0" * 64, token_hash)
        listen = f'[server]\nlisten = "127.0.0.1:{self.port}"\n[admin]\nlisten = "127.0.0.1:{self.admin_port}"\n'
        self.config.write_text(text + listen)

    def change(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    async def serve(self) -> Process:
        process = await self.terminal.start("exec " + recipe("serve").partition("\n")[0])
        await process.serving()
        return process

    async def call(self, token: str) -> tuple[str, str]:
        """Paste README's request with a token: status line and `Cache-Status`."""
        text = recipe("serve").partition("\n")[2].replace("curl", "curl -si").replace("/42/", f"/{self.query}/")
        text = text.replace("rg_...", token).replace("localhost:8080", f"localhost:{self.port}")
        reply = await self.terminal.output(text)
        status = re.findall(r"(?m)^Cache-Status: (.+)$", reply)
        return reply.partition("\n")[0], status[0] if status else ""


def token_in(printed: str) -> tuple[str, str]:
    (token,) = re.findall(r"\brg_[\w-]{40,}", printed)
    (token_hash,) = re.findall(r'(?m)^token_sha256 = \["([0-9a-f]{64})"\]$', printed)
    return token, token_hash


@pytest.fixture
def installation(terminal: Terminal, sandbox: Sandbox, needs: Callable[[str], str]) -> Installation:
    needs("curl")
    return Installation(terminal, sandbox)


async def test_five_minutes_to_a_redash_of_ones_own(installation: Installation) -> None:
    terminal, key = installation.terminal, installation.sandbox.user_keys["analyst"]
    token, token_hash = await installation.token()
    installation.configure(token_hash)
    found = await terminal.output(recipe("check").replace("KEY=...", f"KEY={key}"))
    assert "online: Redash answers and accepts every credential" in found

    terminal.variables["REDASH_REPORTING_KEY"] = key
    process = await installation.serve()
    for wanted in ("fwd=", "hit"):
        line, status = await installation.call(token)
        assert line.startswith("HTTP/1.1 200 OK")
        assert wanted in status
    await terminal.interrupt(process)


async def test_tokens_and_keys_are_rotated_results_purged_and_an_old_database_replaced(
    installation: Installation,
) -> None:
    terminal, sandbox = installation.terminal, installation.sandbox
    old, old_hash = await installation.token()
    installation.configure(old_hash)
    operator, operator_hash = await installation.token()
    installation.change("[admin]\n", f'[admin]\ntoken_sha256 = "{operator_hash}"\n')
    terminal.variables["REDASH_GATEWAY_ADMIN_TOKEN"] = operator
    key_file = terminal.directory / "redash-reporting"
    key_file.write_text("x" * 40)  # a key that Redash no longer accepts
    installation.change('key_env = "REDASH_REPORTING_KEY"', f'key_file = "{key_file}"')
    process = await installation.serve()
    assert "502" in (await installation.call(old))[0]

    terminal.variables["NEW_KEY"] = sandbox.user_keys["analyst"]
    await terminal.output(recipe("rotate-key").replace("/run/secrets/redash-reporting", str(key_file)))
    assert "200" in (await installation.call(old))[0]

    make, add, remove = re.split(r"(?m)^#.*\n", recipe("rotate-token"))
    new, new_hash = token_in(await terminal.output(make))
    installation.change(f'"{old_hash}"', f'"{old_hash}", "{new_hash}"')
    await terminal.output(add)
    assert ["200" in (await installation.call(token))[0] for token in (old, new)] == [True, True]
    installation.change(f'"{old_hash}", ', "")
    await terminal.output(remove)
    assert "401" in (await installation.call(old))[0]

    assert (await installation.call(new))[1].startswith("redash-gateway; hit")
    await terminal.output(re.sub(r"\b42\b", installation.query, recipe("purge")))
    assert "fwd=uri-miss" in (await installation.call(new))[1]

    await terminal.interrupt(process)
    database = terminal.directory / "redash-gateway.db"
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("UPDATE meta SET value = 'of another version' WHERE name = 'schema'")
        db.commit()
    process = await installation.serve()
    await process.says("was written by another version")
    assert list(terminal.directory.glob("redash-gateway.db.old-*"))
    assert "200" in (await installation.call(new))[0]
    await terminal.interrupt(process)


# -- installing --------------------------------------------------------------------------------------------------------


def copy_of_the_checkout(terminal: Terminal) -> None:
    """Put what the package is built from into the directory, and let nothing else be found."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, terminal.directory)
    shutil.copytree(ROOT / "gateway", terminal.directory / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    terminal.variables["PYTHONPATH"] = ""


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_it_is_installed_and_upgraded_on_a_server_as_operation_says(
    terminal: Terminal, sandbox: Sandbox, needs: Callable[[str], str]
) -> None:
    copy_of_the_checkout(terminal)
    place, settings = str(terminal.directory / "opt"), terminal.directory / "config.toml"
    printed = await terminal.output(recipe("install").replace("/opt/redash-gateway", place), timeout=240)
    assert __version__ in printed

    Installation(terminal, sandbox).configure("ab" * 32)
    terminal.variables["REDASH_REPORTING_KEY"] = sandbox.user_keys["analyst"]
    text = (
        recipe("upgrade")
        .replace("/opt/redash-gateway", place)
        .replace("/etc/redash-gateway/config.toml", str(settings))
    )
    assert f"{settings}: ok" in await terminal.output(text, timeout=240)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_first_command_installs_and_starts_the_demo(terminal: Terminal) -> None:
    copy_of_the_checkout(terminal)
    port, admin_port, sandbox_port = free_ports(3)
    ports = f"--port {port} --admin-port {admin_port} --sandbox-port {sandbox_port}"
    process = await terminal.start(recipe("demo").rstrip() + f" {ports}")
    await process.says(r"Ctrl-C stops everything", timeout=240)
    async with within(20), aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin_port}/") as page:
        assert "Redash Gateway" in await page.text()
    await terminal.interrupt(process)

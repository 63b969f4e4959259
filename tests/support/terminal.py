"""A shell in which the commands of the docs are pasted, and what their output has."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import sys
from pathlib import Path

from support.process import Process


class Terminal:
    """A shell that begins in a directory. Its directory and what was exported stay from one paste to the next."""

    def __init__(self, directory: Path, shell: str) -> None:
        self.shell = shell
        self._directory = directory
        self._state = directory.with_name(f"{directory.name}.state")
        self._state.touch()
        self._started: list[Process] = []

    def export(self, **variables: str) -> None:
        """Set variables as `export` does."""
        with self._state.open("a") as file:
            file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())

    def use_this_gateway(self) -> None:
        """Let `redash-gateway` be the one of this interpreter."""
        program = self._directory.with_name("bin") / "redash-gateway"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gateway "$@"\n')
        program.chmod(0o755)
        self.export(PATH=f"{program.parent}:{os.environ['PATH']}")

    async def start(self, text: str) -> Process:
        """Start what a reader pastes; a session of its own, so that a signal reaches the program behind the shell."""
        child = await asyncio.create_subprocess_exec(
            self.shell,
            "-ec",
            f'. "{self._state}"\n{text}',
            cwd=self._directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._started.append(Process(child))
        return self._started[-1]

    async def output(self, text: str, *, timeout: float = 30.0) -> str:
        """Paste, and wait for the end; all that was printed."""
        kept = f'{{ export -p; printf "cd %q\\n" "$PWD"; }} > "{self._state}"'
        process = await self.start(f"{text.rstrip()}\n{kept}")
        assert await process.ended(timeout=timeout) == 0, process.text
        return process.text

    async def close(self) -> None:
        """End what a failed test has left running, with what it started itself."""
        for process in self._started:
            if process.child.returncode is None:
                os.killpg(process.child.pid, signal.SIGKILL)
                await process.ended()

    async def interrupt(self, process: Process) -> int:
        """Press Ctrl-C; the exit status."""
        os.killpg(process.child.pid, signal.SIGINT)
        return await process.ended()


def free_ports(number: int) -> list[int]:
    """Ports that nobody has now."""
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


def token_in(printed: str) -> tuple[str, str]:
    """The token and its hash in the output of `redash-gateway token`."""
    (token,) = re.findall(r"\brg_[\w-]{40,}", printed)
    (token_hash,) = re.findall(r'(?m)^token_sha256 = \["([0-9a-f]{64})"\]$', printed)
    return token, token_hash

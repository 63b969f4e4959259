"""The real command in a process of its own, and the files it needs from other programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.waiting import within

_AS_SYSTEMD = """
import fcntl, os, sys

end = sys.argv.index("--")
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1:end]]
for place, copy in enumerate(copies, start=3):
    os.dup2(copy, place)
    os.close(copy)
os.environ.update(LISTEN_FDS=str(len(copies)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[end + 1], sys.argv[end + 1:])
"""
"""Puts descriptors where sd_listen_fds(3) has them, then becomes the program behind `--`."""


class Process:
    """The real command in a process of its own; what it prints is kept line by line and can be waited for."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.lines: list[str] = []
        self._more = asyncio.Condition()
        pipes = [pipe for pipe in (child.stdout, child.stderr) if pipe is not None]
        self._readers = [asyncio.create_task(self._read(pipe)) for pipe in pipes]
        self._open = len(pipes)

    @classmethod
    async def start(
        cls,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        sockets: Sequence[int] = (),
        program: Sequence[str] = ("-m", "gateway"),
    ) -> Process:
        """Start `redash-gateway` with these arguments, as `python -m gateway` of this interpreter.

        `sockets`: descriptors that it gets as systemd passes them; their names are in `env` (LISTEN_FDNAMES).
        `program` is what the interpreter runs instead.
        """
        before = [sys.executable, "-c", _AS_SYSTEMD, *map(str, sockets), "--"] if sockets else []
        child = await asyncio.create_subprocess_exec(
            *before,
            sys.executable,
            *program,
            *arguments,
            cwd=cwd,
            env=_plain_environment() | dict(env or {}),
            pass_fds=sockets,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(child)

    @classmethod
    async def run(cls, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command to its end: exit status and all that it printed."""
        process = await cls.start(*arguments, cwd=cwd, env=env)
        return await process.ended(), process.text

    async def _read(self, pipe: asyncio.StreamReader) -> None:
        while line := await pipe.readline():
            async with self._more:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._more.notify_all()
        async with self._more:
            self._open -= 1
            self._more.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def says(self, pattern: str, *, timeout: float = 20.0) -> re.Match[str]:
        """Wait until it has printed this; raises with all it printed when it ends or the time is up."""
        found = None

        def looked() -> bool:
            nonlocal found
            found = re.search(pattern, self.text, re.MULTILINE)
            return found is not None or self._open == 0

        with contextlib.suppress(TimeoutError):
            async with within(timeout), self._more:
                await self._more.wait_for(looked)
        assert found is not None, f"it never said {pattern!r}:\n{self.text}"
        return found

    async def serving(self) -> tuple[str, str]:
        """Wait until it listens; the addresses of API and admin listener."""
        found = await self.says(r"serves ([\w.:]+), admin on ([\w.:]+)$")
        return f"http://{found[1]}", f"http://{found[2]}"

    async def ended(self, *, timeout: float = 30.0) -> int:
        """Wait for its end; the exit status."""
        async with within(timeout):
            await asyncio.gather(*self._readers)
            return await self.child.wait()

    async def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.child.kill()
        await self.ended()


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("REDASH_", "KEY_", "QUERY_KEY_"))}


def certificate(directory: Path, name: str, *, host: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate and its key, made with openssl."""
    cert, private = directory / f"{name}.pem", directory / f"{name}.key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            private,
            "-out",
            cert,
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{host},IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    return cert, private

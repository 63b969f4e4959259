"""Runs a job in a process of its own: it takes no time of the event loop, and its memory ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from gateway.body import Body
from gateway.errors import FileLost, GatewayError, ServiceUnavailable
from gateway.results.forms.job import Job
from gateway.results.forms.worker import ERRORS, REFUSED

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 256 * 1024
STALLED_SECONDS: Final = 120.0
SLOWEST_BYTES: Final = 4 << 20
"""A process that neither writes nor ends for so long is ended; and a second more for so many bytes of the result, which
it may have to read twice before it writes anything. It reads them five to ten times as fast.
"""

_LONGEST_COMPLAINT: Final = 64 * 1024
"""Of stderr: an error with 20 names of columns is shorter."""
_KEPT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR", "LANG")
"""No other variable is passed on: some hold Redash's keys."""
_FAILED: Final = "This form could not be made; request JSON, or try again later."


async def pieces_of(job: Job, body: Body) -> AsyncGenerator[bytes, None]:
    """Make a form in a process; yield its bytes as they come.

    Raises:
        GatewayError: as `Job.pieces`; ServiceUnavailable: the process failed; FileLost: the file was removed.
    """
    source = await asyncio.to_thread(_opened, body)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "gateway.results.forms.worker", str(source),
            pass_fds=(source,), env=_environment(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        log.warning("a process for a form of a result cannot be started: %s", error.strerror)
        raise ServiceUnavailable(_FAILED, retry_after=5) from None
    finally:
        os.close(source)
    try:
        async for piece in _read(process, job):
            yield piece
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _read(process: asyncio.subprocess.Process, job: Job) -> AsyncGenerator[bytes, None]:
    out, err, given = process.stdout, process.stderr, process.stdin
    assert out is not None and err is not None and given is not None  # noqa: S101, PT018 - they are pipes
    with contextlib.suppress(ConnectionError):
        given.write(msgspec.json.encode(job))
        given.close()
    complaint = asyncio.create_task(_end_of(err))
    patience = STALLED_SECONDS + job.size / SLOWEST_BYTES
    try:
        while piece := await asyncio.wait_for(out.read(PIECE_BYTES), patience):
            yield piece
        status = await asyncio.wait_for(process.wait(), patience)
        said = await asyncio.wait_for(complaint, patience)
    except TimeoutError:
        raise ServiceUnavailable(_FAILED, retry_after=60) from None
    finally:
        complaint.cancel()
    if status != 0:
        raise _error(status, said)


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    """Read to the end, so that the writer never has to wait; return the last part."""
    end = b""
    while piece := await stream.read(_LONGEST_COMPLAINT):
        end = (end + piece)[-_LONGEST_COMPLAINT:]
    return end


def _error(status: int, said: bytes) -> GatewayError:
    if status == REFUSED:
        with contextlib.suppress(msgspec.DecodeError, KeyError):  # a library may write there, too
            name, detail = msgspec.json.decode(said, type=tuple[str, str])
            return ERRORS[name](detail)
    # Its last line names the exception; what is before may show values of the result.
    last = said.decode("utf-8", "replace").strip().rpartition("\n")[2].partition(":")[0]
    log.error("a process for a form of a result failed (status %s, %s)", status, last[:100])
    return ServiceUnavailable(_FAILED, retry_after=60)


def _opened(body: Body) -> int:
    """Open the JSON as a file; of bytes in memory, one in memory."""
    try:
        if body.path is not None:
            return body.open()
        file = os.memfd_create("result")
        data = memoryview(body.load())
        while data:
            data = data[os.write(file, data) :]
    except OSError as error:
        raise FileLost from error
    return file


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = os.pathsep.join(filter(None, (_PACKAGE_PATH, kept.get("PYTHONPATH", ""))))
    return {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **_SPARING}


_SPARING: Final = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""So that memory which is free goes back to the system."""

_PACKAGE_PATH: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

"""What the sandbox sees of several gateways: which of them sent what, and what it was given."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from support.inside import redash_jobs, watch_sandbox

from gateway.sandbox import Sandbox, parameter

from .history import NEVER, History, Post, Result

VALUES: Final = ("A", "B", "C")
QUERIES: Final = {"quick": 0.0, "short": 0.3, "long": 1.5}
"""Seconds that they take, by name."""

_SHOWN: Final = re.compile(rb'^\{"query_result": \{"id": (\d+)')
_JOB: Final = re.compile(rb'^\{"job": \{"id": "([^"]+)"')
_VERSION: Final = re.compile(r"'(\w+)\.v(\d+)' as version, '(\w)' as x")
_TRIES: Final = 3


def sql(query: str, version: int) -> str:
    """The text of a query in some version. Its row says which it is, for which value."""
    return (
        f"select '{query}.v{version}' as version, '{{{{ x }}}}' as x, run_number() as run, "
        f"sleep({QUERIES[query]}) as slept"
    )


def add_queries(sandbox: Sandbox) -> dict[str, int]:
    """Add the queries of the history; their ids by name."""
    enum = parameter("x", "enum", VALUES[0], enumOptions="\n".join(VALUES))
    return {name: sandbox.add_query(name, sql(name, 0), parameters=[enum]) for name in QUERIES}


class Recorder:
    """Notes what the sandbox does, from now on."""

    def __init__(self, sandbox: Sandbox, history: History, now: Callable[[], float]) -> None:
        self.sandbox = sandbox
        self.pids: Callable[[], Iterable[int]] = tuple
        """The processes of the gateways, in order."""
        self._history = history
        self._now = now
        self._senders: dict[object, int] = {}  # by connection
        watch_sandbox(sandbox, self._arrived, self._sent)

    def _arrived(self, request: Any) -> None:
        request.at = self._now()
        request.gateway = self._senders.get(request.connection)
        if request.gateway is None and (sender := self._sender(request.port)) is not None:
            request.gateway = self._senders[request.connection] = sender  # it may be closed when the next one is read
        if request.method == "DELETE" and request.path.startswith("/api/jobs/"):
            self._history.deleted.setdefault(request.path.rpartition("/")[2], request.at)

    def _sent(self, request: Any, route: str, _: int, body: bytes) -> None:
        key = request.headers.get("Authorization", "").removeprefix("Key ")
        if (shown := _SHOWN.match(body)) is not None:
            self._history.given[key, int(shown[1])].append(self._now())
        if request.method != "POST" or route != "/api/queries/<query_id>/results":
            return
        found = _JOB.match(body)
        job = self.sandbox.jobs.get(found[1].decode()) if found is not None else None
        text, number = (job.sql, job.id) if job is not None else ("", "")
        query = self.sandbox.queries[int(request.params["query_id"])].name
        self._history.posts.append(Post(request.gateway, key, text, request.at, self._now(), number, query))

    def _sender(self, port: int) -> int | None:
        """Which gateway's process has this end of a connection."""
        ends = port, int(self.sandbox.url.rpartition(":")[2])
        for _ in range(_TRIES):  # the kernel's list is not read in one piece
            inodes = {f"socket:[{inode}]" for local, remote, inode in _connections() if (local, remote) == ends}
            owners = (number for number, pid in enumerate(self.pids()) if inodes & _descriptors(pid))
            if (owner := next(owners, None)) is not None:
                return owner
        return None

    def finish(self) -> None:
        """Add what is only known at the end: when runs ended, and what the results are."""
        for job in redash_jobs(self.sandbox):
            ended = job.ended_at / 1e6 if job.ended_at else NEVER
            self._history.ended[job.id] = min(ended, self._history.deleted.get(job.id, NEVER))
        for result in self.sandbox.database.results.values():
            if (found := _VERSION.search(result.query)) is not None:
                made = Result(found[1], int(found[2]), found[3], result.retrieved_at / 1e6)
                self._history.results[result.id] = made


def _connections() -> Iterator[tuple[int, int, str]]:
    """Local port, remote port and inode of each TCP connection of this machine."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        yield int(fields[1].rpartition(":")[2], 16), int(fields[2].rpartition(":")[2], 16), fields[9]


def _descriptors(pid: int) -> set[str]:
    found = set()
    directory = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(directory):
            try:
                found.add(os.readlink(f"{directory}/{name}"))
            except FileNotFoundError:  # closed meanwhile
                continue
    except FileNotFoundError:  # the process has ended
        return set()
    return found

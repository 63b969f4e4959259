"""What the sandbox sees of several gateways: which of them sent what, and what it was given."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Iterable
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

_SOCK_DIAG, _BY_FAMILY, _REQUEST, _HEADER, _INODE = 4, 20, 1, 16, 68
"""Numbers and offsets of linux/netlink.h and linux/inet_diag.h."""

_ANY_STATE: Final = 0xFFFFFFFF
_ANY_COOKIE: Final = (0xFFFFFFFF, 0xFFFFFFFF)


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
        self._senders: dict[object, int | None] = {}  # by connection
        watch_sandbox(sandbox, self._arrived, self._sent)

    def _arrived(self, request: Any) -> None:
        request.at = self._now()
        if request.connection not in self._senders:  # it may be closed when the next request is read
            self._senders[request.connection] = self._sender(request.port)
        request.gateway = self._senders[request.connection]
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
        link = f"socket:[{_inode(port, int(self.sandbox.url.rpartition(':')[2]))}]"
        return next((number for number, pid in enumerate(self.pids()) if link in _descriptors(pid)), None)

    def finish(self) -> None:
        """Add what is only known at the end: when runs ended, and what the results are."""
        for job in redash_jobs(self.sandbox):
            ended = job.ended_at / 1e6 if job.ended_at else NEVER
            self._history.ended[job.id] = min(ended, self._history.deleted.get(job.id, NEVER))
        for result in self.sandbox.database.results.values():
            if (found := _VERSION.search(result.query)) is not None:
                made = Result(found[1], int(found[2]), found[3], result.retrieved_at / 1e6)
                self._history.results[result.id] = made


def _inode(port: int, remote: int) -> int:
    """Ask the kernel for the socket that is connected from this port to the other, both of this machine; 0: none.

    Its list, /proc/net/tcp, takes 0.1 s where other programs have left thousands of connections. See sock_diag(7).
    """
    home = socket.inet_aton("127.0.0.1")
    ends = struct.pack("!HH16s16s", port, remote, home, home) + struct.pack("=III", 0, *_ANY_COOKIE)
    query = struct.pack("=BBxxI", socket.AF_INET, socket.IPPROTO_TCP, _ANY_STATE) + ends
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as kernel:
        kernel.send(struct.pack("=IHHII", _HEADER + len(query), _BY_FAMILY, _REQUEST, 0, 0) + query)
        reply = kernel.recv(4096)
    found = struct.unpack_from("=IH", reply)[1] == _BY_FAMILY
    return int(struct.unpack_from("=I", reply, _HEADER + _INODE)[0]) if found else 0


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

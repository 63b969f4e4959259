"""One connection to a listener: the fast path first, and aiohttp's handler from the first request on that needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from typing import Final, Protocol, cast

from gateway.http.addresses import UNKNOWN, peer_of
from gateway.http.connection_limit import TOO_MANY
from gateway.http.fast_path import SENT, SENT_LAST, FastPath
from gateway.http.handler import Handler
from gateway.http.request_key import END_OF_HEAD, HEAD_MISSING, LONGEST_REQUEST, MAX_HEAD_BYTES, WHOLE
from gateway.http.sending import limit_buffer

HEAD_SECONDS: Final = 15.0
"""The head of a request must be complete within this time after its first byte."""

CLOSING_SECONDS: Final = 5.0
"""A caller may take so long to read the end of a last response before it counts as idle."""

HOLD_SECONDS: Final = 1.0
"""A body that comes in a segment of its own follows its head at once; so long it is waited for here."""

FIRST_SECONDS: Final = 1.0
"""Time for a new connection's first request when the gateway stops: its caller does not repeat that one."""


class Owner(Protocol):
    """The server of a connection."""

    refused: Callable[[int, str], None]
    """Called with the status and the peer's address when something is refused, or ends, before it is a request."""

    def admit(self, connection: Connection) -> None:
        """Count a new connection; make room for it, or refuse it."""

    def remove(self, connection: Connection) -> None:
        """Count a connection no more."""

    def handler(self) -> Handler:
        """Return a new handler of aiohttp."""


class Connection(asyncio.Protocol):
    """Passes each request to the fast path first, and to aiohttp's handler what the fast path leaves.

    The fast path may write only between two requests, with nothing of the next one in aiohttp's parser. So message
    boundaries are tracked in every byte that aiohttp gets. Where they are uncertain, the connection is aiohttp's for
    the rest of its life.
    """

    __slots__ = (
        "_body_due", "_fast_path", "_handler", "_held", "_last_used", "_made", "_owner", "_partial_since", "_paused",
        "_peer", "_rounds", "_time", "_wanted", "transport",
    )  # fmt: skip

    def __init__(self, owner: Owner, fast_path: FastPath | None, time: Callable[[], float]) -> None:
        """`time` is that of the event loop. Without a fast path everything is aiohttp's."""
        self.transport: asyncio.Transport | None = None
        self._owner = owner
        self._fast_path = fast_path
        self._time = time
        self._handler: Handler | None = None
        self._held: bytearray | None = None  # the beginning of a request, which aiohttp has not seen
        self._rounds = 0  # of the event loop, for which a request is held because aiohttp is not idle yet
        self._wanted = 0  # the length of the request that is held, once its head is complete
        self._partial_since = 0.0  # since when an incomplete request waits for its rest; 0 without one
        self._body_due = 0  # bytes of a body that aiohttp waits for
        self._paused, self._peer = False, UNKNOWN
        self._last_used = self._made = time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is room for one more connection."""
        self.transport = cast(asyncio.Transport, transport)
        limit_buffer(self.transport)
        self._peer = peer_of(transport)
        self._last_used = self._made = self._time()
        self._owner.admit(self)

    def data_received(self, data: bytes) -> None:
        """Let the fast path respond; pass everything else on to aiohttp."""
        self._last_used = self._time()
        if self._fast_path is None:
            self._pass_untracked(data)
        elif self._body_due:
            self._body_due -= len(data)
            (self._pass if self._body_due >= 0 else self._pass_untracked)(data)
        elif self._handler is not None and not self._handler.waits():
            self._postpone(data)
        elif self._held is None:
            self._read(self._fast_path, data)
        else:
            self._gather(self._fast_path, self._held, data)

    def _read(self, fast_path: FastPath, data: bytes) -> None:
        """Deal with a request or the beginning of one; aiohttp is idle."""
        found = fast_path.respond(data, None if self._paused else self.transport, self._peer)
        if found == SENT:
            self._partial_since = 0.0
        elif found == SENT_LAST:
            self.close()
        elif found == HEAD_MISSING:
            self._hold(data, 0)
        elif found > 0 and len(data) + found <= LONGEST_REQUEST and not fast_path.request.expects:
            self._hold(data, len(data) + found)
        elif found >= WHOLE:
            self._begin(data, found)
        else:
            self._pass_untracked(data)

    def _hold(self, data: bytes, wanted: int) -> None:
        """Keep the beginning of a request until the rest has come: `wanted` bytes, 0 if its head is incomplete."""
        self._held, self._wanted = bytearray(data), wanted
        if not self._partial_since:
            self._partial_since = self._last_used

    def _postpone(self, data: bytes) -> None:
        """Keep what comes while aiohttp has a request, for a moment.

        The response to that one may have been sent, and only aiohttp's task has to run once more: a caller in another
        process can be as fast as that.
        """
        if self._held is not None:
            self._held += data
        else:
            self._held, self._rounds = bytearray(data), 4
            asyncio.get_running_loop().call_soon(self._try_again)

    def _try_again(self) -> None:
        held = self._held
        if not self._rounds or held is None:
            return
        self._rounds -= 1
        if not self._is_busy():
            self._held, self._rounds = None, 0
            self.data_received(bytes(held))
        elif self._rounds:
            asyncio.get_running_loop().call_soon(self._try_again)
        else:
            self._give_held()  # another request while the first is in progress

    def _give_held(self) -> None:
        held, self._held, self._rounds, self._wanted = self._held, None, 0, 0
        if held:
            self._pass_untracked(bytes(held))

    def _gather(self, fast_path: FastPath, held: bytearray, data: bytes) -> None:
        """Add to what is held; deal with it once that makes sense."""
        searched = max(0, len(held) - len(END_OF_HEAD) + 1)
        held += data
        has_head = held.find(END_OF_HEAD, searched) >= 0 or len(held) > MAX_HEAD_BYTES
        if self._rounds or len(held) < self._wanted or not (self._wanted or has_head):
            return
        self._held, self._wanted = None, 0
        if len(held) > MAX_HEAD_BYTES:
            self._pass_untracked(bytes(held))
        else:
            self._read(fast_path, bytes(held))

    def _begin(self, data: bytes, due: int) -> None:
        """Pass on to aiohttp a request, except the last `due` bytes of its body."""
        self._partial_since, self._body_due = 0.0, due
        handler = self._pass(data)
        if handler is not None and handler.waits():
            self._leave_to_aiohttp(handler)  # its parser sees no request where ours does

    def _pass(self, data: bytes) -> Handler | None:
        """Pass data on to aiohttp's handler, and return that; None where the connection is closing."""
        handler = self._handler
        if handler is None:
            if self.transport is None or self.transport.is_closing():
                return None
            handler = self._handler = self._owner.handler()
            handler.connection_made(self.transport)
            if self._paused:
                handler.pause_writing()
        handler.data_received(data)
        return handler

    def _pass_untracked(self, data: bytes) -> None:
        """Pass on to aiohttp what may be anything. From now on it gets all."""
        handler = self._pass(data)
        if handler is not None:
            self._leave_to_aiohttp(handler)

    def _leave_to_aiohttp(self, handler: Handler) -> None:
        self._fast_path, self._body_due = None, 0
        if not handler.waits():
            self._partial_since = 0.0
        elif not self._partial_since:
            self._partial_since = self._last_used

    def check(self, now: float, idle_seconds: float) -> None:
        """Close it, if it is idle for so long or a head incomplete for too long. Called about once a second."""
        if not self.is_open:
            if now - self._last_used >= idle_seconds:
                self.abort()  # the caller does not read what is left
        elif self._partial_since:
            if self._wanted and now - self._partial_since >= HOLD_SECONDS:
                self._release()
            elif now - self._partial_since >= HEAD_SECONDS:
                self._end_late_head()
        elif self._is_busy():
            self._last_used = now
        elif now - self._last_used >= idle_seconds:
            self.close()

    def _end_late_head(self) -> None:
        """Close it. If what has come is no request at all, aiohttp's parser finds that, and it gets a response."""
        self._give_held()
        if self._handler is None or self._handler.waits():
            self.close()
        self._partial_since = 0.0

    def _release(self) -> None:
        """Pass on to aiohttp a head that is held: its body is late, and aiohttp's side has the deadline for bodies."""
        held, wanted, self._held, self._wanted = bytes(self._held or b""), self._wanted, None, 0
        self._begin(held, wanted - len(held))

    def _is_busy(self) -> bool:
        return self._handler is not None and not self._handler.waits()

    def _is_new(self) -> bool:
        """Whether its first request is still to come."""
        return self.is_open and self._last_used == self._made and self._time() - self._made < FIRST_SECONDS

    @property
    def is_open(self) -> bool:
        """Whether it is not closing."""
        return self.transport is not None and not self.transport.is_closing()

    def idle_seconds(self) -> float:
        """Return for how long it has had no request; negative while it has one, and once it is closing for a while."""
        unused = self._time() - self._last_used
        if not self.is_open:
            return unused - CLOSING_SECONDS
        return -1.0 if self._partial_since or self._rounds or self._is_busy() else unused

    def abort(self) -> None:
        """Close it at once, whatever is still to be sent."""
        self.close()
        if self.transport is not None:
            self.transport.abort()

    def refuse(self) -> None:
        """Respond that there are too many connections, and close it."""
        if self.transport is not None:
            self.transport.write(TOO_MANY)
        self.close()
        self._owner.refused(503, self._peer)

    def begin_to_close(self, sending: Container[object]) -> bool:
        """Close it, if idle; returns whether a request waits (not yet `sending` a response) or is still to come."""
        if self._wanted:
            self._release()
        waits = bool(self._partial_since or self._rounds) or self._is_new()
        if waits or self._is_busy():
            return waits or self._handler not in sending
        self.close()
        return False

    def close(self) -> None:
        """Close it after what was written."""
        self._fast_path, self._held = None, None
        self._rounds, self._wanted, self._partial_since = 0, 0, 0.0
        if self._handler is not None:
            self._handler.force_close()
        if self.transport is not None:
            self.transport.close()

    def pause_writing(self) -> None:
        """See the base class."""
        self._paused = True
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """See the base class."""
        self._paused = False
        if self._handler is not None:
            self._handler.resume_writing()

    def eof_received(self) -> bool | None:
        """Let a caller that will send no more have the responses to what it has sent whole; then close."""
        if self._rounds:
            self._give_held()
        return self._handler.respond_after_eof() if self._handler is not None else None

    def connection_lost(self, exc: BaseException | None) -> None:
        """End; a request whose head is held here ends with the connection and is recorded."""
        if self._wanted:
            self._owner.refused(499, self._peer)
        self._held, self._wanted, self._rounds = None, 0, 0
        self._owner.remove(self)
        if self._handler is not None:
            self._handler.connection_lost(exc)

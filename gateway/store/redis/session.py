"""The connections to Redis while it is reachable: for commands, for large transfers, and for announcements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from gateway.store.redis.failures import UnavailableError
from gateway.store.redis.silence import SilenceWatch
from gateway.store.redis.wire import Command, Wire


class Session:
    """Three connections that live and end together. `on_lost` is called once, with the reason."""

    def __init__(
        self,
        connections: Sequence[AbstractConnection],
        channel: str,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[Session, str], None],
    ) -> None:
        commands, bulk, self._announcements = connections
        self.epoch = ""
        self._on_message = on_message
        self._on_lost = on_lost
        self._ended = False
        self._commands, self._bulk = Wire(commands, self.end), Wire(bulk, self.end)
        self._watch = SilenceWatch([self._commands, self._bulk], lambda: self.end("it does not answer"))
        self._channel = channel
        self._subscribed = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    async def ask(self, command: Command) -> Any:
        """Return the reply. Raises what `failures` has."""
        (reply,) = self._commands.send([command])
        self._watch.begin()
        return await reply

    async def transfer(self, commands: Sequence[Command]) -> list[Any]:
        """Send several commands that carry much, beside the others; return all replies. Raises as `ask`."""
        replies = self._bulk.send(commands)
        self._watch.begin()
        found = await asyncio.gather(*replies, return_exceptions=True)
        for reply in found:
            if isinstance(reply, BaseException):
                raise reply
        return found

    async def subscribe(self) -> None:
        """Begin to listen; what is announced from now on will be heard. Raises UnavailableError."""
        try:
            await self._announcements.send_command("SUBSCRIBE", self._channel, check_health=False)
            await self._announcements.read_response(disable_decoding=True)
        except (exceptions.RedisError, OSError) as error:
            raise UnavailableError(str(error)) from None
        self._subscribed.set()

    async def _listen(self) -> None:
        await self._subscribed.wait()
        try:
            while True:
                message = await self._announcements.read_response(disable_decoding=True)
                self._on_message(message[2])
        except (exceptions.RedisError, OSError) as error:
            self.end(str(error))

    def end(self, reason: str) -> None:
        """Use the connections no more: everybody who waits goes on without Redis. `aclose` must follow."""
        if self._ended:
            return
        self._ended = True
        self._watch.close()
        self._listening.cancel()
        self._commands.break_off(reason)
        self._bulk.break_off(reason)
        self._on_lost(self, reason)

    async def aclose(self) -> None:
        """Close the connections."""
        self.end("closed")
        await asyncio.wait({self._listening})
        await self._announcements.disconnect(nowait=True)
        await self._commands.aclose()
        await self._bulk.aclose()

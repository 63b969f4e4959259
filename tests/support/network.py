"""The program of `redis_server.Network`: passes the bytes of one port on to another."""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def _pass_on(port: int, target: int) -> None:
    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pour(reader, back), _pour(there, writer))

    server = await asyncio.start_server(accepted, "127.0.0.1", port)
    await server.serve_forever()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(262_144):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(_pass_on(int(sys.argv[1]), int(sys.argv[2])))

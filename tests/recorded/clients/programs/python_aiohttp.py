"""A session of aiohttp."""

import asyncio
import json
import os

import aiohttp


async def main() -> None:
    body = json.loads(os.environ["BODY"]) if os.environ["METHOD"] == "POST" else None
    headers = {"Authorization": f"Key {os.environ['TOKEN']}"}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
        for _ in range(int(os.environ["TIMES"])):
            async with session.request(os.environ["METHOD"], os.environ["URL"], json=body) as response:
                await response.read()


asyncio.run(main())
print(aiohttp.__version__)

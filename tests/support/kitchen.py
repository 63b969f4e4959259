"""Where the recipes of the docs are run: a gateway with the query that they name."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from support.calls import TOKENS
from support.process import Process
from support.world import World


class Kitchen:
    """A gateway with the query of the recipes, and how they are run."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.directory = directory
        self.query = world.named["in_country"]

    def filled(self, text: str) -> str:
        """Put the test's address, query and token in place of those of the page."""
        text = text.replace("http://localhost:8080", self.world.url).replace("rg_...", TOKENS["dashboard"])
        return re.sub(r"\b42\b", str(self.query), text)

    def written(self, text: str, name: str) -> Path:
        path = self.directory / name
        path.write_text(self.filled(text))
        return path

    async def run(self, *command: str) -> str:
        """Run a command to its end; all that it printed."""
        environment = {**os.environ, "GATEWAY_TOKEN": TOKENS["dashboard"], "no_proxy": "*"}
        child = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.directory,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        process = Process(child)
        assert await process.ended(timeout=60) == 0, process.text
        return process.text

    async def cities(self) -> dict[str, int]:
        """What the recipes should find."""
        rows = await self.world.rows("in_country", parameters={"country": "DE"}, max_age=600)
        return {row["city"]: row["orders"] for row in rows}

    async def shows_all_rows(self, text: str) -> None:
        wanted = await self.cities()
        assert len(wanted) > 1
        assert [(city, orders) for city, orders in wanted.items() if city not in text or str(orders) not in text] == []

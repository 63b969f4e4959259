"""The commands of README, word for word, in a directory that knows nothing of the project.

Only what a reader replaces, too, is replaced: addresses, keys, tokens, the id of a query.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from support.documents import blocks, copy_of_the_checkout, recipe
from support.process import Process
from support.terminal import Terminal, free_ports, token_in
from support.waiting import within

from gateway.sandbox import Sandbox


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
async def terminal(home: Path, needs: Callable[[str], str]) -> AsyncIterator[Terminal]:
    made = Terminal(home, needs("bash"))
    yield made
    await made.close()


# -- five minutes ----------------------------------------------------------------------------------------------------


class Installation:
    """A gateway that was configured as README says, before the sandbox as the company's Redash."""

    def __init__(self, terminal: Terminal, home: Path, sandbox: Sandbox) -> None:
        terminal.use_this_gateway()
        self.terminal = terminal
        self.sandbox = sandbox
        self.port, self.admin_port = free_ports(2)
        self.config = home / "config.toml"
        self.query = str(sandbox.named["by_country"])

    async def token(self) -> tuple[str, str]:
        """A new token and its hash."""
        return token_in(await self.terminal.output(recipe("token")))

    def configure(self, token_hash: str) -> None:
        """Write README's configuration, with addresses that are free here."""
        (text,) = [block.text for block in blocks() if (block.page, block.language) == ("README.md", "toml")]
        text = text.replace("https://redash.example.com", self.sandbox.url).replace("0" * 64, token_hash)
        listen = f'[server]\nlisten = "127.0.0.1:{self.port}"\n[admin]\nlisten = "127.0.0.1:{self.admin_port}"\n'
        self.config.write_text(text + listen)

    async def serve(self) -> Process:
        process = await self.terminal.start("exec " + recipe("serve").partition("\n")[0])
        await process.serving()
        return process

    async def call(self, token: str) -> tuple[str, str]:
        """Paste README's request with a token: status line and `Cache-Status`."""
        text = recipe("serve").partition("\n")[2].replace("curl", "curl -si").replace("/42/", f"/{self.query}/")
        text = text.replace("rg_...", token).replace("localhost:8080", f"localhost:{self.port}")
        reply = await self.terminal.output(text)
        status = re.findall(r"(?m)^Cache-Status: (.+)$", reply)
        return reply.partition("\n")[0], status[0] if status else ""


@pytest.fixture
def installation(terminal: Terminal, home: Path, sandbox: Sandbox, needs: Callable[[str], str]) -> Installation:
    needs("curl")
    return Installation(terminal, home, sandbox)


async def test_five_minutes_to_a_redash_of_ones_own(installation: Installation) -> None:
    terminal, key = installation.terminal, installation.sandbox.user_keys["analyst"]
    token, token_hash = await installation.token()
    installation.configure(token_hash)
    found = await terminal.output(recipe("check").replace("KEY=...", f"KEY={key}"))
    assert "online: Redash answers and accepts every credential" in found

    process = await installation.serve()
    for wanted in ("fwd=", "hit"):
        line, status = await installation.call(token)
        assert line.startswith("HTTP/1.1 200 OK")
        assert wanted in status
    await terminal.interrupt(process)


# -- the demo ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_first_command_installs_and_starts_the_demo(terminal: Terminal, home: Path) -> None:
    copy_of_the_checkout(home)
    terminal.export(PYTHONPATH="")
    process = await terminal.start(recipe("demo").rstrip() + " --port 0 --admin-port 0 --sandbox-port 0")
    await process.says(r"Ctrl-C stops everything", timeout=240)
    console = (await process.says(r"^ *console +(http://\S+)"))[1]
    async with within(20), aiohttp.ClientSession() as session, session.get(console) as page:
        assert "Redash Gateway" in await page.text()
    await terminal.interrupt(process)

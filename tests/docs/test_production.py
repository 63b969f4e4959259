"""The page "From nothing to production", word for word, in fresh directories, with the sandbox as Redash.

Only what a reader replaces, too, is replaced: addresses, paths, keys, tokens, the id of a query.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest
from support.browser import tab, web_server
from support.documents import ROOT, blocks, copy_of_the_checkout, recipe
from support.libraries import library
from support.process import Process
from support.terminal import Terminal, free_ports, token_in

from gateway import __version__
from gateway.cli import template
from gateway.sandbox import Sandbox

OLD_STORE: Final = ROOT / "tests" / "recorded" / "stores" / "entry-4.sql"
"""What the version before wrote, as SQL: two results and the definitions of their queries."""


class Server:
    """A server on which the page is followed; `operator` and `client` are two terminals."""

    def __init__(self, directory: Path, sandbox: Sandbox, shell: str, origin: str) -> None:
        self.sandbox = sandbox
        self.checkout, self.elsewhere = directory / "checkout", directory / "elsewhere"
        self.settings = directory / "etc" / "config.toml"
        self.cache = directory / "var" / "cache.db"
        for made in (self.checkout, self.elsewhere):
            made.mkdir()
        self.operator, self.client = Terminal(self.checkout, shell), Terminal(self.elsewhere, shell)
        self._replaced = {
            "/opt/redash-gateway": str(directory / "opt"),
            "/etc/redash-gateway": str(directory / "etc"),
            "/var/lib/redash-gateway": str(directory / "var"),
            "/etc/systemd/system": str(directory / "units"),
            "https://redash.example.com": sandbox.url,
            "https://intranet.example.com": origin,
        }
        for terminal in (self.operator, self.client):
            terminal.export(PYTHONPATH="", no_proxy="*")

    def take_ports(self) -> None:
        """Choose addresses that are free; as late as possible, because others look for free ones, too."""
        port, admin_port = free_ports(2)
        self._replaced |= {
            "0.0.0.0:8080": f"127.0.0.1:{port}",
            "localhost:8080": f"localhost:{port}",
            "127.0.0.1:8081": f"127.0.0.1:{admin_port}",
        }

    def filled(self, text: str, query: str = "by_country") -> str:
        """Put the addresses, the paths and a query of this server in place of those of the page."""
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        return re.sub(r"\b42\b", str(self.sandbox.named[query]), text)

    async def paste(self, text: str, *, timeout: float = 30.0) -> str:
        return await self.operator.output(self.filled(text), timeout=timeout)

    async def serve(self) -> Process:
        process = await self.operator.start("exec " + self.filled(recipe("production-serve")))
        await process.serving()
        return process

    async def call(self, token: str) -> tuple[str, str]:
        """Paste the request of the page with a token: its status line and what it says of the cache."""
        self.operator.export(GATEWAY_TOKEN=token)
        reply = await self.paste(recipe("production-call"))
        found = re.findall(r"(?m)^Cache-Status: redash-gateway; (.+)$", reply)
        return reply.partition("\n")[0], found[0] if found else ""

    def edit(self, block: str) -> None:
        """Give the keys of a block the values that it has, in the file that `init` has written."""
        text, table = self.settings.read_text(), ""
        for line in self.filled(block).splitlines():
            table = line if line.startswith("[") else table
            if key := re.match(r"\w+ = ", line):
                pattern = rf"(?ms)^({re.escape(table)}\n(?:(?!^\[).)*?)^#?{key[0]}.*?$"
                text, count = re.subn(pattern, lambda found, line=line: found[1] + line, text, count=1)
                assert count == 1, line
        self.settings.write_text(text)

    def change(self, old: str, new: str) -> None:
        text = self.settings.read_text()
        assert old in text
        self.settings.write_text(text.replace(old, new))


@pytest.fixture
async def server(tmp_path: Path, sandbox: Sandbox, needs: Callable[[str], str]) -> AsyncIterator[Server]:
    needs("curl")
    site = tmp_path / "site"
    site.mkdir()
    with web_server(site) as origin:
        made = Server(tmp_path, sandbox, needs("bash"), origin)
        yield made
        await made.operator.close()
        await made.client.close()


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_from_nothing_to_production(server: Server, tmp_path: Path, needs: Callable[[str], str]) -> None:
    old, old_hash = await install_and_configure(server)
    process = await server.serve()
    assert [(await server.call(old))[1].partition(";")[0] for _ in range(2)] == ["fwd=uri-miss", "hit"]
    await clients_are_moved_over(server, old, tmp_path / "site", needs("chromium"))
    new = await a_token_is_replaced(server, old, old_hash)
    await the_key_is_replaced(server, new)
    await new_data_is_loaded(server, new)
    assert await server.operator.interrupt(process) == 0
    await a_new_version_comes_out(server, new)


async def install_and_configure(server: Server) -> tuple[str, str]:
    """Steps 1 to 4: the token of the first client, and its hash."""
    copy_of_the_checkout(server.checkout)
    assert __version__ in await server.paste(recipe("install"), timeout=200)
    extras = await server.paste(recipe("install-extras").replace("install", "install --dry-run"), timeout=200)
    assert {"redis", "pyarrow"} <= {name.rpartition("-")[0] for name in extras.rpartition("Would install")[2].split()}

    server.operator.export(REDASH_KEY=server.sandbox.user_keys["analyst"])
    listed = await server.paste(recipe("production-look"))
    assert "# Key of " in listed
    pasted = re.search(r"(?ms)^\[clients\..*?^$", listed)
    assert pasted is not None
    assert "shown only now: " in listed, "the tokens of these clients"

    printed = await server.paste(recipe("production-init"))
    token, admin, admin_hash = re.findall(r"rg_[\w-]{43}|[0-9a-f]{64}", printed)
    server.take_ports()
    (block,) = [block.text for block in blocks() if (block.page, block.language) == ("production.md", "toml")]
    server.edit(block.replace("1" * 64, admin_hash))
    (token_hash,) = re.findall(r'(?m)^token_sha256 = \["(\w+)"\]$', server.settings.read_text())
    with server.settings.open("a") as file:
        file.write(pasted[0])
    server.operator.export(REDASH_GATEWAY_ADMIN_TOKEN=admin)

    assert "online: Redash answers and accepts every credential" in await server.paste(recipe("production-check"))
    return token, token_hash


async def clients_are_moved_over(server: Server, token: str, site: Path, chromium: str) -> None:
    """Step 7: a script with redash-toolbelt, and a page of another origin in a browser."""
    library("redash_toolbelt")
    server.client.export(GATEWAY_TOKEN=token)
    script = server.elsewhere / "orders.py"
    script.write_text(server.filled(recipe("toolbelt"), "in_country"))
    assert "Berlin" in await server.client.output(f"{shlex.quote(sys.executable)} orders.py")

    page = server.filled(recipe("fetch"), "in_country").replace("rg_...", token)
    (site / "index.html").write_text(f"<!doctype html><title>orders</title>{page}")
    async with tab(chromium) as shown:
        await shown.goto(server.filled("https://intranet.example.com/index.html"))
        await shown.get_by_text("Berlin").wait_for(timeout=20_000)


async def a_token_is_replaced(server: Server, old: str, old_hash: str) -> str:
    """The new token; the old one is refused."""
    make, add, remove = re.split(r"(?m)^#.*\n", recipe("rotate-token"))
    new, new_hash = token_in(await server.paste(make))
    server.change(f'"{old_hash}"', f'"{old_hash}", "{new_hash}"')
    await server.paste(add)
    assert ["200" in (await server.call(token))[0] for token in (old, new)] == [True, True]
    server.change(f'"{old_hash}", ', "")
    await server.paste(remove)
    assert "401" in (await server.call(old))[0]
    return new


async def the_key_is_replaced(server: Server, token: str) -> None:
    """Redash has a new key for the user, and no longer accepts the old one."""
    (user,) = (user for user in server.sandbox.database.users.values() if user.name.endswith("Analyst"))
    user.api_key = server.sandbox.database.new_key()
    server.operator.export(NEW_KEY=user.api_key)
    await server.paste(recipe("rotate-key"))
    await server.paste(recipe("purge"))  # so that the next request needs the key
    line, cache = await server.call(token)
    assert "200" in line
    assert cache.startswith("fwd=")


async def new_data_is_loaded(server: Server, token: str) -> None:
    assert (await server.call(token))[1].startswith("hit")
    assert "purged" in await server.paste(recipe("purge"))
    assert (await server.call(token))[1].startswith("fwd=uri-miss")


async def a_new_version_comes_out(server: Server, token: str) -> None:
    """The cache of the version before is put aside; its rows are not read."""
    for file in server.cache.parent.glob("cache.db*"):
        if file.is_file():
            file.unlink()
    with sqlite3.connect(server.cache) as db:
        db.executescript(OLD_STORE.read_text())
    db.close()
    await server.paste(f"cd {shlex.quote(str(server.checkout))}")
    assert "config.toml: ok" in await server.paste(recipe("upgrade"), timeout=200)
    await server.paste("cd /etc/redash-gateway")
    process = await server.serve()
    await process.says("was written by another version")
    assert list(server.cache.parent.glob("cache.db.old-*"))
    assert (await server.call(token))[1].startswith("fwd=uri-miss")
    assert await server.operator.interrupt(process) == 0


async def test_the_pasted_commands_of_step_6_fit_the_units_to_the_configuration(
    server: Server, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    """Whoever pastes only the blocks has a service: same addresses on both sides, and the key where systemd puts it."""
    shutil.copytree(ROOT / "deploy" / "systemd", server.checkout / "deploy" / "systemd")
    units = tmp_path / "units"
    for made in (units, server.settings.parent):
        made.mkdir()
    server.settings.write_text(written_by_init("https://redash.example.com", "reporting"))
    (block,) = [block.text for block in blocks() if (block.page, block.language) == ("production.md", "toml")]
    server.edit(block)
    await server.paste(recipe("production-units"))

    settings = tomllib.loads(server.settings.read_text())
    for table, name in (("server", "redash-gateway"), ("admin", "redash-gateway-admin")):
        listens = re.findall(r"(?m)^ListenStream=(.+)$", (units / f"{name}.socket").read_text())
        assert listens == [settings[table]["listen"]]
    service = (units / "redash-gateway.service").read_text()
    (credential,) = re.findall(r"(?m)^LoadCredential=(\w+):", service)
    key_file = settings["credentials"]["reporting"]["key_file"]
    assert key_file == f"/run/credentials/redash-gateway.service/{credential}_reporting"

    (units / "redash-gateway.service").write_text(re.sub(r"(?m)^(Exec\w+=)/opt\S+", r"\1/bin/true", service))
    verify = [needs("systemd-analyze"), "verify", *sorted(map(str, units.iterdir()))]
    done = subprocess.run(verify, check=False, capture_output=True, text=True)  # noqa: ASYNC221 - nothing else runs
    assert (done.returncode, "redash-gateway" in done.stdout + done.stderr) == (0, False), done.stderr


def written_by_init(url: str, key: str) -> str:
    source = template.Source("key_file", f"/etc/redash-gateway/keys/{key}")
    return template.configuration(url, source, "127.0.0.1:8080", "sales-dashboard", "0" * 64)

"""The proxies of `docs/proxies.md`, as they stand there, before a gateway: only addresses and files are the test's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml
from redash_toolbelt import Redash
from support.calls import TOKENS
from support.documents import not_run, recipe
from support.inside import connections
from support.large import latest, whole
from support.redis_server import free_port
from support.world import World, configuration

MOST_WAIT_SECONDS = 50
IDLE_SECONDS = 75
"""`server.max_wait` and `server.idle_timeout` unless the configuration says otherwise."""

LATEST_ROUTE = "/api/queries/<query_id>/results.<filetype>"
ENOUGH = 1_000_000
"""Of a result of 5 MB, of which Redash sends half at first."""


def nginx(port: int, api: str, directory: Path) -> str:
    text = recipe("nginx").replace("127.0.0.1:8080", api).replace("listen 80;", f"listen 127.0.0.1:{port};")
    text = text.replace("/var/log/nginx", str(directory))
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    start = f"daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log {directory}/error.log;\nevents {{}}\n"
    return f"{start}http {{\n{temporary}{text}}}\n"


def haproxy(port: int, api: str, admin: int) -> str:
    text = recipe("haproxy").replace("127.0.0.1:8080", api.replace("unix:", "unix@"))
    text = text.replace("bind :80 ", f"bind 127.0.0.1:{port} ").replace("port 8081", f"addr 127.0.0.1 port {admin}")
    return text.replace("inter 1s", "inter 100ms")


def caddy(port: int, api: str, admin: int, directory: Path) -> str:
    text = recipe("caddy").replace("127.0.0.1:8080", api.replace("unix:", "unix/"))
    text = text.replace("tools.example {", f"http://tools.example:{port} {{", 1)
    text = text.replace("health_port 8081", f"health_port {admin}")
    return f"{{\n    admin off\n    storage file_system {directory}\n}}\n{text}"


def command(name: str, program: str, port: int, world: World, directory: Path) -> list[str]:
    """Write the configuration of the page, and return what starts the program with it."""
    address, admin = world.runtime.api_addresses[0], world.runtime.admin_address.port
    api, file = str(address), directory / name
    made = {
        "nginx": lambda: nginx(port, api, directory),
        "haproxy": lambda: haproxy(port, api, admin),
        "caddy": lambda: caddy(port, api, admin, directory),
    }
    file.write_text(made[name]())
    return {
        "nginx": [program, "-p", str(directory), "-c", str(file)],
        "haproxy": [program, "-db", "-f", str(file)],
        "caddy": [program, "run", "--adapter", "caddyfile", "--config", str(file)],
    }[name]


@asynccontextmanager
async def running(words: list[str], directory: Path) -> AsyncIterator[None]:
    with (directory / "output").open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *words, cwd=directory, env={"HOME": str(directory)}, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        child.kill()
        await child.wait()


async def answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, headers={"Host": "tools.example"}) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize(
    ("name", "place"), [("nginx", "tcp"), ("nginx", "unix"), ("haproxy", "unix"), ("caddy", "tcp")]
)
async def test_a_proxy_as_the_page_has_it(
    name: str, place: str, bare: World, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    program = {"nginx": lambda: needs("nginx"), "haproxy": lambda: needs("haproxy"), "caddy": lambda: needs("caddy")}
    listen = "127.0.0.1:0" if place == "tcp" else f"unix:{tmp_path}/api.sock"
    bare.text = configuration(
        bare.sandbox, "memory:", {"server": 'path_prefix = "/redash"\nhosts = ["tools.example", "127.0.0.1"]'}
    ).replace('listen = "127.0.0.1:0"', f'listen = "{listen}"', 1)
    await bare.resume()
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    words = command(name, program[name](), port, bare, tmp_path)
    async with running(words, tmp_path), aiohttp.ClientSession() as session:
        async with asyncio.timeout(20):
            while not await answers(session, f"{base}/redash/ping"):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        await hits_go_over_kept_connections(bare, session, base)
        await large_results_come_while_redash_sends_them(bare, session, base)
        if name != "caddy":  # which serves the name of the page alone
            found = await asyncio.to_thread(Redash(f"{base}/redash", TOKENS["dashboard"]).queries)
            assert found["results"]
        async with session.get(f"{base}/api/session", headers={"Host": "tools.example"}) as response:
            assert "Cache-Status" not in response.headers, "not the gateway's"
    assert not files_with(TOKENS["second"], tmp_path)


def files_with(text: str, directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text in path.read_text("latin-1")]


def sent(token: str) -> dict[str, str]:
    return {"Host": "tools.example", "Authorization": f"Key {TOKENS[token]}"}


async def hits_go_over_kept_connections(world: World, session: aiohttp.ClientSession, base: str) -> None:
    url = f"{base}/redash/api/queries/{world.named['by_country']}/results"
    kept: set[int] = set()
    for number in range(12):
        async with session.post(
            url, json={"max_age": 86_400}, headers=sent("dashboard") | {"Prefer": "wait=20"}
        ) as got:
            assert got.status == 200, await got.text()
            assert (await got.json())["query_result"]["data"]["rows"]
            assert number == 0 or "; hit" in got.headers["Cache-Status"]
        kept |= {id(one) for one in connections(world.runtime)}
    assert len(kept) <= 2, "a new connection for each request"


async def large_results_come_while_redash_sends_them(world: World, session: aiohttp.ClientSession, base: str) -> None:
    """With the token in the URL, too: no log of the proxy may have it."""
    url = f"{base}/redash{latest(world)}?api_key={TOKENS['second']}"
    stall = world.sandbox.faults.add("stall", route=LATEST_ROUTE, count=1)
    async with asyncio.timeout(20), session.get(url, headers={"Host": "tools.example"}) as got:
        begun = await got.content.readexactly(ENOUGH)  # the rest is not there yet
        stall.release()
        assert begun + await got.read() == whole(world)


def test_all_wait_longer_than_the_gateway_and_close_before_it() -> None:
    (traefik,) = not_run("proxies.md", "yaml")
    transport = yaml.safe_load(traefik)["http"]["serversTransports"]["redash-gateway"]["forwardingTimeouts"]
    assert set(transport) == {"responseHeaderTimeout", "idleConnTimeout"}
    for text in (recipe("nginx"), recipe("haproxy"), recipe("caddy"), traefik):
        for line in text.splitlines():
            if "above server.max_wait" in line:
                assert int(re.search(r"(\d+)s", line)[1]) > MOST_WAIT_SECONDS  # type: ignore[index]
            if "below server.idle_timeout" in line:
                assert int(re.findall(r"(\d+)s\b", line)[-1]) < IDLE_SECONDS
        assert "above server.max_wait" in text
        assert "below server.idle_timeout" in text

"""The real commands, as processes, against a sandbox: what an operator does and sees."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from support.calls import ADMIN_TOKEN, TOKENS
from support.http import Reply
from support.process import Process
from support.redis_server import RedisServer
from support.world import token_table

from gateway import config
from gateway.sandbox import Sandbox

OPERATOR = {"REDASH_GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN}
Serve = Callable[..., contextlib.AbstractAsyncContextManager["Served"]]


class Served:
    """A running `redash-gateway serve` and a caller of it."""

    def __init__(self, process: Process, url: str, admin: str, session: aiohttp.ClientSession, path: Path) -> None:
        self.process, self.url, self.admin, self.session, self.path = process, url, admin, session, path

    async def call(
        self, method: str, path: str, body: object = None, *, token: str = TOKENS["dashboard"], **fields: str
    ) -> Reply:
        headers = {"Authorization": f"Key {token}", **{n.replace("_", "-"): v for n, v in fields.items()}}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.url + path, data=data, headers=headers) as response:
            return Reply(response.status, response.headers.copy(), await response.read())

    async def metric(self, name: str) -> float:
        async with self.session.get(f"{self.admin}/metrics") as response:
            found = re.search(rf"^{name} (\S+)$", await response.text(), re.MULTILINE)
        assert found is not None
        return float(found[1])


@pytest.fixture
def serve(written: Path, sandbox: Sandbox) -> Serve:
    """Start the command with the written file; it is killed at the end if it still runs."""

    @contextlib.asynccontextmanager
    async def served(**env: str) -> AsyncIterator[Served]:
        process = await Process.start("serve", "-c", str(written), cwd=written.parent, env=token_table(sandbox) | env)
        try:
            url, admin = await process.serving()
            async with aiohttp.ClientSession() as session:
                yield Served(process, url, admin, session, written)
        finally:
            await process.kill()

    return served


async def command(*arguments: str, cwd: Path, **env: str) -> tuple[int, str]:
    return await Process.run(*arguments, cwd=cwd, env=env)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -- serve


async def test_serve_responds_and_exits_with_zero_on_sigterm(serve: Serve, sandbox: Sandbox) -> None:
    async with serve() as gateway:
        reply = await gateway.call("POST", f"/api/queries/{sandbox.named['by_country']}/results", {"max_age": 3600})
        assert reply.rows
        gateway.process.child.send_signal(signal.SIGTERM)
        assert await gateway.process.ended(timeout=5) == 0  # an idle connection is not an open request
        assert "Traceback" not in gateway.process.text


async def test_sigint_ends_it_too(serve: Serve) -> None:
    async with serve() as gateway:
        gateway.process.child.send_signal(signal.SIGINT)
        assert await gateway.process.ended(timeout=5) == 0
        assert "Traceback" not in gateway.process.text


async def test_a_waiting_caller_gets_its_job_when_draining_begins(serve: Serve, sandbox: Sandbox) -> None:
    # The job outlives the process, so no caller needs to wait: the next process follows the run.
    async with sandbox.hold(), serve() as gateway:
        path = f"/api/queries/{sandbox.named['slow_seconds']}/results"
        body = {"max_age": 0, "parameters": {"seconds": 0}}
        held = asyncio.create_task(gateway.call("POST", path, body, Prefer="wait=20"))
        await sandbox.wait_executions(1)
        gateway.process.child.send_signal(signal.SIGTERM)
        reply = await held
        assert reply.job["status"] in (1, 2)
        assert int(reply.headers["Retry-After"]) >= 1
        assert await gateway.process.ended(timeout=5) == 0


async def refuses_connections(url: str) -> None:
    """Wait until it no longer listens; open connections are not affected."""
    parts = urlsplit(url)
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            except ConnectionError:
                return
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_open_requests_are_completed_while_it_drains(serve: Serve, sandbox: Sandbox) -> None:
    async with serve() as gateway:
        fault = sandbox.faults.add("hang", route="/api/queries")
        slow = asyncio.create_task(gateway.call("GET", "/api/queries"))
        await sandbox.wait_until(lambda: sandbox.counters.by_route["GET /api/queries"] == 1)
        gateway.process.child.send_signal(signal.SIGTERM)
        await refuses_connections(gateway.url)
        fault.clear()
        assert (await slow).json["results"]
        assert await gateway.process.ended(timeout=5) == 0


async def test_idle_connections_are_not_served_any_more_while_it_drains(serve: Serve, sandbox: Sandbox) -> None:
    # A client that keeps a connection open must move to the successor: either the connection is closed when draining
    # begins, or the next response has `Connection: close` (RFC 9112 9.6). Otherwise its requests continue until they
    # are cut off in the middle.
    async with serve() as gateway:
        reader, writer = await asyncio.open_connection(urlsplit(gateway.url).hostname, urlsplit(gateway.url).port)
        ping = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write(ping)
        assert (await reader.readuntil(b"PONG.")).startswith(b"HTTP/1.1 200")
        fault = sandbox.faults.add("hang", route="/api/queries")
        slow = asyncio.create_task(gateway.call("GET", "/api/queries"))
        await sandbox.wait_until(lambda: sandbox.counters.by_route["GET /api/queries"] == 1)
        gateway.process.child.send_signal(signal.SIGTERM)
        await refuses_connections(gateway.url)
        received = b""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(ping)
            received = await reader.readuntil(b"\r\n\r\n")
        fault.clear()
        await slow
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert received == b"" or b"connection: close" in received.lower()


async def test_draining_ends_with_drain_timeout(serve: Serve, sandbox: Sandbox) -> None:
    # Requests for which Redash takes longer are cut off (drain_timeout is 2 s here).
    async with serve() as gateway:
        sandbox.faults.add("hang", route="/api/queries")
        held = asyncio.create_task(gateway.call("GET", "/api/queries"))
        await sandbox.wait_until(lambda: sandbox.counters.by_route["GET /api/queries"] == 1)
        gateway.process.child.send_signal(signal.SIGTERM)
        assert await gateway.process.ended(timeout=10) == 0
        with contextlib.suppress(aiohttp.ClientError):
            assert (await held).status == 503
        assert "Traceback" not in gateway.process.text


async def test_a_file_with_mistakes_exits_with_two_and_lists_them_all(written: Path, sandbox: Sandbox) -> None:
    change(written, "[admin]", 'max_wiat = "5s"\n[admin]')
    change(written, 'key_env = "KEY_ADMIN"', 'key_env = "NO_SUCH_KEY"')
    status, text = await command("serve", "-c", str(written), cwd=written.parent, **token_table(sandbox))
    assert status == 2
    assert "max_wiat" in text
    assert "NO_SUCH_KEY" in text
    assert "Traceback" not in text


async def test_an_address_in_use_exits_with_one_and_a_reason(written: Path, sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        change(written, '[server]\nlisten = "127.0.0.1:0"', f'[server]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"')
        status, text = await command("serve", "-c", str(written), cwd=written.parent, **token_table(sandbox))
    assert status == 1
    assert "in use" in text
    assert "Traceback" not in text


async def test_an_address_on_the_command_line_wins_also_after_a_reload(
    written: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    change(written, '[server]\nlisten = "127.0.0.1:0"', '[server]\nlisten = "no-such-host.invalid:80"')
    listen = ("--listen", "127.0.0.1:0")
    process = await Process.start("serve", "-c", str(written), *listen, cwd=tmp_path, env=token_table(sandbox))
    try:
        _, admin = await process.serving()
        status, text = await command("reload", "--admin", admin, cwd=tmp_path, **OPERATOR)
        assert (status, "restart" in text) == (0, False), text
    finally:
        await process.kill()


@pytest.mark.long  # drain_timeout and ten seconds more
async def test_a_second_process_on_the_same_file_exits_with_a_reason(
    serve: Serve, written: Path, sandbox: Sandbox
) -> None:
    async with serve():
        status, text = await command("serve", "-c", str(written), cwd=written.parent, **token_table(sandbox))
    assert status == 1
    assert "gateway.db" in text
    assert "Traceback" not in text


async def test_a_second_signal_cuts_open_requests_off(serve: Serve, written: Path, sandbox: Sandbox) -> None:
    change(written, 'drain_timeout = "2s"', 'drain_timeout = "10m"')
    async with serve() as gateway:
        sandbox.faults.add("hang", route="/api/queries")
        held = asyncio.create_task(gateway.call("GET", "/api/queries"))
        await sandbox.wait_until(lambda: sandbox.counters.by_route["GET /api/queries"] == 1)
        gateway.process.child.send_signal(signal.SIGTERM)
        await refuses_connections(gateway.url)
        gateway.process.child.send_signal(signal.SIGTERM)
        assert await gateway.process.ended(timeout=10) == 0
        with pytest.raises(aiohttp.ClientError):
            await held
        assert "Traceback" not in gateway.process.text


async def test_a_post_that_redash_does_not_answer_does_not_hold_the_stop(
    serve: Serve, written: Path, sandbox: Sandbox
) -> None:
    # Its caller gets a job id: the next process sends the POST again.
    change(written, 'drain_timeout = "2s"', 'drain_timeout = "10m"')
    path, route = f"/api/queries/{sandbox.named['slow_seconds']}/results", "/api/queries/<query_id>/results"
    async with serve() as gateway:
        sandbox.faults.add("hang", route=route)
        body = {"max_age": 0, "parameters": {"seconds": 0}}
        held = asyncio.create_task(gateway.call("POST", path, body, Prefer="wait=40"))
        await sandbox.wait_until(lambda: sandbox.counters.by_route[f"POST {route}"] == 1)
        gateway.process.child.send_signal(signal.SIGTERM)
        job = (await held).job
        assert job["status"] == 1
        assert await gateway.process.ended(timeout=10) == 0
    sandbox.faults.clear()
    async with serve() as gateway:
        job = (await gateway.call("GET", f"/api/jobs/{job['id']}", Prefer="wait=40")).job
        assert (job["status"], job["error"]) == (3, "")


# -- reload


async def test_sighup_loads_a_changed_file(serve: Serve) -> None:
    async with serve() as gateway:
        assert (await gateway.call("GET", "/api/session", token="rg_new_token")).status == 401
        old = config.token_hash(TOKENS["dashboard"])
        change(gateway.path, old, config.token_hash("rg_new_token"))
        gateway.process.child.send_signal(signal.SIGHUP)
        await gateway.process.says("configuration loaded again")
        assert (await gateway.call("GET", "/api/session", token="rg_new_token")).status == 200
        assert (await gateway.call("GET", "/api/session")).status == 401
        assert await gateway.metric("redash_gateway_config_last_reload_successful") == 1


@pytest.mark.parametrize("damage", ["mistake", "no TOML", "gone"])
async def test_sighup_with_a_broken_file_changes_nothing_and_logs_it(serve: Serve, damage: str) -> None:
    async with serve() as gateway:
        if damage == "gone":
            gateway.path.unlink()
        elif damage == "mistake":
            change(gateway.path, "[admin]", 'max_wiat = "5s"\n[admin]')
        else:
            gateway.path.write_text("[server\nlisten=")
        gateway.process.child.send_signal(signal.SIGHUP)
        await gateway.process.says(r"error events: reload: .*config\.toml")
        assert (await gateway.call("GET", "/api/session")).status == 200
        assert await gateway.metric("redash_gateway_config_last_reload_successful") == 0


async def test_reload_lists_what_needs_a_restart(serve: Serve) -> None:
    async with serve() as gateway:
        change(gateway.path, "sqlite:gateway.db", "sqlite:other.db")
        status, text = await command("reload", "--admin", gateway.admin, cwd=gateway.path.parent, **OPERATOR)
        assert status == 0
        assert "cache.store" in text
        assert "restart" in text


async def test_reload_of_a_broken_file_fails_with_its_mistakes(serve: Serve) -> None:
    async with serve() as gateway:
        change(gateway.path, "[admin]", 'max_wiat = "5s"\n[admin]')
        status, text = await command("reload", "--admin", gateway.admin, cwd=gateway.path.parent, **OPERATOR)
        assert status == 1
        assert "max_wiat" in text
        assert (await gateway.call("GET", "/api/session")).status == 200


async def test_a_changed_key_is_loaded_on_reload(serve: Serve, sandbox: Sandbox, tmp_path: Path) -> None:
    # Rotation of the key in Redash: the file with the key is read again; secrets are included in a reload.
    secret = tmp_path / "key"
    secret.write_text("x" * 40)
    change(tmp_path / "config.toml", 'key_env = "KEY_ANALYST"', f'key_file = "{secret}"')
    async with serve() as gateway:
        assert (await gateway.call("GET", "/api/session")).status == 502
        secret.write_text(sandbox.user_keys["analyst"] + "\n")
        gateway.process.child.send_signal(signal.SIGHUP)
        await gateway.process.says("configuration loaded again")
        assert (await gateway.call("GET", "/api/session")).status == 200
        assert sandbox.user_keys["analyst"] not in gateway.process.text


# -- status, purge


async def test_status_shows_the_state(serve: Serve, sandbox: Sandbox) -> None:
    async with serve() as gateway:
        path = f"/api/queries/{sandbox.named['by_country']}/results"
        for _ in range(2):
            await gateway.call("POST", path, {"max_age": 3600})
        status, text = await command("status", "--admin", gateway.admin, cwd=gateway.path.parent)
        assert status == 0
        assert re.search(r"^ready +true$", text, re.MULTILINE)
        status, text = await command("status", "--json", "--admin", gateway.admin, cwd=gateway.path.parent)
        assert status == 0
        totals = {row["outcome"]: row["total"] for row in json.loads(text)["outcomes"]}
        assert (totals["hit"], totals["miss"]) == (1, 1)


@pytest.mark.parametrize(
    "what", [("--query", "{query}"), ("--dashboard", "{board}"), ("--scope", "analyst"), ("--all",)]
)
async def test_purge_deletes_results(serve: Serve, sandbox: Sandbox, what: tuple[str, ...]) -> None:
    names = {"query": sandbox.named["by_country"], "board": 1}
    path = f"/api/queries/{sandbox.named['by_country']}/results"
    async with serve() as gateway:
        for _ in range(2):
            reply = await gateway.call("POST", path, {"max_age": 3600})
        assert "hit" in reply.cache
        arguments = [part.format(**names) for part in what]
        status, text = await command("purge", *arguments, "--admin", gateway.admin, cwd=gateway.path.parent, **OPERATOR)
        assert status == 0, text
        assert re.search(r"purged +[1-9]", text)
        assert "hit" not in (await gateway.call("POST", path, {"max_age": 3600})).cache


async def test_purge_and_reload_need_the_admin_token(serve: Serve, written: Path) -> None:
    async with serve() as gateway:
        for arguments in (("purge", "--all"), ("reload",)):
            status, text = await command(*arguments, "--admin", gateway.admin, cwd=written.parent)
            assert (status, "401" in text) == (1, True)
            assert "REDASH_GATEWAY_ADMIN_TOKEN" in text
            status, text = await command(*arguments, "--admin", gateway.admin, cwd=written.parent, **OPERATOR)
            assert status == 0, text
            assert ADMIN_TOKEN not in gateway.process.text


@pytest.mark.parametrize("name", ["status", "reload", "purge"])
async def test_without_a_gateway_they_fail_with_a_reason(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"http://127.0.0.1:{free.getsockname()[1]}"
    more = ("--all",) if name == "purge" else ()
    status, text = await command(name, *more, "--admin", where, cwd=tmp_path)
    assert status == 1
    assert "nothing listens" in text
    assert "Traceback" not in text


# -- check


def name_store(file: Path, store: str) -> None:
    file.write_text(file.read_text().replace("sqlite:gateway.db", store))


async def test_check_and_serve_refuse_a_missing_directory_of_the_store(written: Path, sandbox: Sandbox) -> None:
    name_store(written, "sqlite:nowhere/gateway.db")
    for name in ("check", "serve"):
        status, text = await command(name, "-c", str(written), cwd=written.parent, **token_table(sandbox))
        assert status == 2
        assert re.search(r"config\.toml: cache\.store: the directory \S+/nowhere is missing; make it", text)
    (written.parent / "nowhere").mkdir()
    status, _ = await command("check", "-c", str(written), cwd=written.parent, **token_table(sandbox))
    assert status == 0


async def test_check_online_tries_every_credential(written: Path, sandbox: Sandbox) -> None:
    keys = token_table(sandbox)
    status, text = await command("check", "--online", "-c", str(written), cwd=written.parent, **keys)
    assert status == 0, text
    assert "accepts every credential" in text
    assert "Redash 26.08.0-dev takes SQL that differs in white space for the same. The gateway checks" in text
    keys_used = {request.headers["Authorization"].removeprefix("Key ") for request in sandbox.log}
    narrow = sandbox.query_key(sandbox.named["in_country"])
    assert keys_used == {keys["KEY_ANALYST"], keys["KEY_ADMIN"], narrow}
    assert sandbox.counters.jobs == 0
    assert not [key for key in keys_used if key in text]


def _with_upstream(path: Path, url: str, version: str) -> None:
    upstream = f'[upstream]\nversion = "{version}"\nurl = "{url}"'
    path.write_text(re.sub(r'\[upstream\]\n(version = .*\n)?url = ".*"', upstream, path.read_text()))


async def test_check_online_says_what_the_version_of_redash_means(written: Path) -> None:
    async with Sandbox(redash="10") as old:
        _with_upstream(written, old.url, "25.8")
        status, text = await command("check", "--online", "-c", str(written), cwd=written.parent, **token_table(old))
        assert status == 1
        assert 'upstream.version: is "25.8", but Redash says 10.1.0' in text
        _with_upstream(written, old.url, "auto")
        status, text = await command("check", "--online", "-c", str(written), cwd=written.parent, **token_table(old))
    assert status == 0, text
    assert "Redash 10.1.0 takes SQL that differs in white space or letter case for the same." in text


async def test_check_online_names_the_credentials_that_redash_rejects(written: Path, sandbox: Sandbox) -> None:
    narrow = f"QUERY_KEY_{sandbox.named['in_country']}"
    keys = token_table(sandbox) | {"KEY_ADMIN": "w" * 40, narrow: "q" * 40}
    status, text = await command("check", "--online", "-c", str(written), cwd=written.parent, **keys)
    assert status == 1
    assert "credentials.admin" in text
    assert "credentials.narrow" in text
    assert "credentials.analyst" not in text
    assert "w" * 40 not in text
    assert "Traceback" not in text


async def test_check_online_reports_an_unreachable_redash(written: Path, sandbox: Sandbox) -> None:
    keys = token_table(sandbox)
    await sandbox.disconnect()
    status, text = await command("check", "--online", "-c", str(written), cwd=written.parent, **keys)
    assert status == 1
    (line,) = [line for line in text.splitlines() if "cannot be reached" in line]  # not in a log beside it, too
    assert line.startswith(f"{written}: upstream.url: ")
    assert "unknown version" not in text
    await sandbox.reconnect()


@pytest.fixture
async def redis(tmp_path: Path, needs: Callable[[str], str]) -> AsyncIterator[Callable[..., Awaitable[RedisServer]]]:
    needs("redis-server")
    made: list[RedisServer] = []

    async def start(*settings: str) -> RedisServer:
        made.append(RedisServer(tmp_path / "redis", *settings))
        await made[-1].start()
        return made[-1]

    yield start
    for server in made:
        await server.kill()


async def test_check_online_tries_redis(
    written: Path, sandbox: Sandbox, redis: Callable[..., Awaitable[RedisServer]]
) -> None:
    server = await redis("--maxmemory", "1gb", "--requirepass", "secret-word")
    name_store(written, server.url)
    change(written, "[admin]", '[redis]\npassword_env = "REDIS_PASSWORD"\n[admin]')
    env = token_table(sandbox) | {"REDIS_PASSWORD": "secret-word"}
    status, text = await command("check", "--online", "-c", str(written), cwd=written.parent, **env)
    assert status == 1
    assert "cache.store: its maxmemory is 1074 MB, too little for cache.disk = 4000 MB, a quarter more" in text
    change(written, "[cache]", '[cache]\ndisk = "800MB"')
    status, text = await command("check", "--online", "-c", str(written), cwd=written.parent, **env)
    assert status == 0, text
    assert f"cache.store: redis://127.0.0.1:{server.port}/0 is Redis 7" in text
    assert "secret-word" not in text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["--cluster-enabled", "yes"], "is a Redis Cluster; name a single server, or Sentinels"),
        (["--requirepass", "secret-word"], "Authentication required"),
    ],
)
async def test_serve_ends_where_check_online_finds_that_redis_cannot_be_used(
    settings: list[str], told: str, written: Path, sandbox: Sandbox, redis: Callable[..., Awaitable[RedisServer]]
) -> None:
    name_store(written, (await redis(*settings)).url)
    env = token_table(sandbox)
    for arguments in (("serve",), ("check", "--online")):
        status, text = await command(*arguments, "-c", str(written), cwd=written.parent, **env)
        assert status == 1, text
        assert told in text
        assert "Traceback" not in text


@pytest.mark.parametrize("arguments", [("serve",), ("check",)])
async def test_a_redis_without_the_extra_is_a_mistake(
    arguments: tuple[str, ...], written: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    (site := tmp_path / "site").mkdir()
    (site / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = staticmethod(lambda name, *more: None if name == 'redis' else find(name, *more))\n"
    )
    name_store(written, "redis://127.0.0.1:1")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    env = token_table(sandbox) | {"PYTHONPATH": path}
    status, text = await command(*arguments, "-c", str(written), cwd=written.parent, **env)
    assert status == 2, text
    assert "cache.store: a Redis needs the extra 'redis': pip install '.[redis]' in a checkout" in text


async def test_check_lists_mistakes_exits_with_two_and_sends_nothing(written: Path, sandbox: Sandbox) -> None:
    change(written, "[admin]", 'max_wiat = "5s"\n[admin]')
    status, text = await command("check", "--online", "-c", str(written), cwd=written.parent, **token_table(sandbox))
    assert status == 2
    assert "max_wiat" in text
    assert sandbox.counters.requests == 0


async def test_a_new_token_gives_access_to_the_gateway(serve: Serve, tmp_path: Path) -> None:
    status, text = await command("token", cwd=tmp_path)
    assert status == 0
    token, line = text.split("\n")[0], re.search(r'^token_sha256 = \["([0-9a-f]{64})"\]$', text, re.MULTILINE)
    assert line is not None
    change(tmp_path / "config.toml", config.token_hash(TOKENS["second"]), line[1])
    async with serve() as gateway:
        assert (await gateway.call("GET", "/api/session", token=token)).status == 200


# -- demo


async def test_the_commands_that_demo_prints_have_the_promised_effect(
    tmp_path: Path, needs: Callable[[str], str]
) -> None:
    bash = needs("bash")
    needs("curl")
    process = await Process.start("demo", "--port", "0", "--admin-port", "0", "--sandbox-port", "0", cwd=tmp_path)
    try:
        await process.says("Ctrl-C stops everything", timeout=60)
        assert re.search(r"with the gateway +█{10} +[\d.]+ s +6 executions", process.text)
        lines = [line.strip() for line in process.lines if line.startswith(("  curl ", "  seq "))]
        outputs = []
        for line in lines:
            child = await asyncio.create_subprocess_exec(
                bash, "-c", line, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            out, _ = await child.communicate()
            outputs.append(out.decode())
        miss, hit, _, counters, metrics = outputs
        assert miss.startswith("HTTP/1.1 200 OK")
        assert re.search(r"Cache-Status: redash-gateway; fwd=(uri-miss|stale)", miss)
        assert '"query_result"' in miss
        assert re.search(r"Cache-Status: redash-gateway; hit; ttl=\d+", hit)
        assert re.search(r"^Age: \d+\r?$", hit, re.MULTILINE)
        slow = re.search(r"/api/queries/(\d+)/results$", lines[2])
        assert slow is not None
        counted = json.loads(counters)
        assert counted["posts"][slow[1]] == counted["started_by_query"][slow[1]] == 1
        assert re.search(r'redash_gateway_requests_total\{.*cache="hit".*\} [1-9]', metrics)
        assert re.search(r'redash_gateway_requests_total\{.*cache="collapsed".*\} 49', metrics)
        process.child.send_signal(signal.SIGINT)
        assert await process.ended(timeout=10) == 0
        assert "Traceback" not in process.text
    finally:
        await process.kill()
    assert os.listdir(tmp_path) == []  # nothing is left


@pytest.mark.parametrize("option", ["--port", "--admin-port", "--sandbox-port"])
async def test_demo_on_a_port_in_use_names_the_option_that_changes_it(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, text = await command("demo", "--once", option, port, cwd=tmp_path)
    assert status == 1
    expected = f"port {port} cannot be had (Address already in use); choose another one with {option} N, or any with 0"
    assert text == f"redash-gateway demo: {expected}"


async def test_demo_once_ends_with_a_verdict(tmp_path: Path) -> None:
    status, text = await command("demo", "--once", cwd=tmp_path)
    assert status == 0, text
    assert re.search(r"without the gateway +█{10} +[\d.]+ s +60 executions", text)
    assert "Verdict: OK: the same rows, " in text
    assert "90 % of the executions avoided" in text
    assert "Ctrl-C" not in text
    assert os.listdir(tmp_path) == []

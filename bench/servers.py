"""The servers of the bench: each started on a free port of the loopback, each with the CPU time of its processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = "rg_bench_0123456789abcdef0123456789abcdef"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """One running server."""

    name: str
    url: str
    pid: int
    headers: dict[str, str] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """CPU time of the process and all its descendants, so far."""
        return sum(_cpu(pid) for pid in _family(self.pid))

    def resident_bytes(self) -> int:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _family(int(child))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(
    command: list[str], directory: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    log = (directory / f"{Path(command[0]).name}-{len(list(directory.iterdir()))}.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})}, cwd=directory)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait(url: str, headers: dict[str, str] | None = None, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=2).read()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@contextmanager
def redash(directory: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The sandbox as upstream of all; yields URL and user keys."""
    port = free_port()
    code = "import asyncio, sys; from gateway.sandbox import serve; "
    code += "asyncio.run(serve('127.0.0.1', int(sys.argv[1]), orders=2000))"
    with _process([sys.executable, "-c", code, str(port)], directory):
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/ping")
        with urllib.request.urlopen(f"{url}/sandbox/keys") as answer:
            keys = json.load(answer)
        yield url, {name.split()[-1].lower(): key for name, key in keys["users"].items()}


_UNTOLD = """
import sys
from gateway.cli import main
from gateway.telling import Telling
Telling.request = lambda *_: None  # neither metrics nor log nor status page hear of a request
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def gateway(
    directory: Path, upstream: str, key: str, *, access_log: bool = False, lane: bool = True, told: bool = True
) -> Iterator[Server]:
    """The gateway itself, as an operator starts it."""
    port, admin = free_port(), free_port()
    config = directory / f"gateway-{port}.toml"
    config.write_text(
        textwrap.dedent(f"""
        [server]
        listen = "127.0.0.1:{port}"
        [admin]
        listen = "127.0.0.1:{admin}"
        [upstream]
        url = "{upstream}"
        [credentials.bench]
        kind = "user"
        key_env = "BENCH_KEY"
        [clients.bench]
        token_sha256 = ["{hashlib.sha256(TOKEN.encode()).hexdigest()}"]
        credentials = ["bench"]
        can = ["read", "execute", "adhoc"]
        {"" if lane else 'rate = "1000000/s"'}
        [cache]
        store = "sqlite:gateway-{port}.db"
        definition_check = "1h"
        [log]
        access = {"true" if access_log else "false"}
        """)
    )
    command = [sys.executable, *(("-m", "gateway") if told else ("-c", _UNTOLD)), "serve", "-c", str(config)]
    with _process(command, directory, {"BENCH_KEY": key}) as process:
        _wait(f"http://127.0.0.1:{admin}/readyz")
        name = (
            "gateway"
            + ("" if lane else ", ordinary way")
            + (", access log" if access_log else "")
            + ("" if told else ", nothing told")
        )
        yield Server(name, f"http://127.0.0.1:{port}", process.pid, {"Authorization": f"Key {TOKEN}"})


@contextmanager
def nginx(directory: Path, upstream: str, key: str) -> Iterator[Server | None]:
    """nginx with proxy_cache, one worker, sendfile; GET and POST (with the body in the key) are cached."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    home = directory / "nginx"
    home.mkdir()
    (home / "nginx.conf").write_text(
        f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
        events {{ worker_connections 4096; }}
        http {{
          access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000; client_body_buffer_size 64k;
          client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
          uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
          proxy_cache_path {home}/cache keys_zone=bench:10m max_size=1g;
          server {{
            listen 127.0.0.1:{port} backlog=4096;
            location / {{
              proxy_pass {upstream}; proxy_cache bench; proxy_cache_methods GET HEAD POST;
              proxy_cache_key "$request_method$request_uri$request_body"; proxy_cache_valid 200 1h;
              proxy_ignore_headers Set-Cookie Cache-Control Expires Vary; proxy_hide_header Set-Cookie;
              proxy_set_header Authorization "Key {key}"; proxy_set_header Accept-Encoding "";
              add_header Age 0;
            }}
          }}
        }}"""
    )
    with _process([program, "-c", str(home / "nginx.conf"), "-p", str(home)], directory) as process:
        _wait(f"http://127.0.0.1:{port}/ping")
        yield Server("nginx proxy_cache", f"http://127.0.0.1:{port}", process.pid)


@contextmanager
def varnish(directory: Path, upstream: str, key: str) -> Iterator[Server | None]:
    """Varnish; GET only, as it does not cache POST."""
    program = shutil.which("varnishd") or shutil.which("varnishd", path="/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    host, _, up_port = upstream.removeprefix("http://").partition(":")
    vcl = directory / "bench.vcl"
    vcl.write_text(
        f"""vcl 4.1;
        backend default {{ .host = "{host}"; .port = "{up_port}"; }}
        sub vcl_recv {{ set req.http.Authorization = "Key {key}"; unset req.http.Cookie; return (hash); }}
        sub vcl_backend_response {{
          unset beresp.http.Set-Cookie; unset beresp.http.Vary; unset beresp.http.Cache-Control; set beresp.ttl = 1h;
        }}"""
    )
    command = [program, "-F", "-n", str(directory / "varnish"), "-a", f"127.0.0.1:{port}", "-f", str(vcl)]
    with _process([*command, "-s", "malloc,256m", "-p", "thread_pools=1"], directory) as process:
        _wait(f"http://127.0.0.1:{port}/ping")
        yield Server("Varnish", f"http://127.0.0.1:{port}", process.pid)


_BARE = """
import asyncio, sys
from aiohttp import web
SIZES = {"1": b"x" * 1000, "2": b"x" * 100_000, "3": b"x" * 5_000_000}
async def main():
    async def handle(request):
        await request.read()
        return web.Response(body=SIZES[request.path.rsplit("/", 1)[1]], content_type="application/json")
    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]), backlog=4096).start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


@contextmanager
def bare(directory: Path) -> Iterator[Server]:
    """An aiohttp handler that returns bytes from memory and does nothing else: what Python can do at the most."""
    port = free_port()
    with _process([sys.executable, "-c", _BARE, str(port)], directory) as process:
        _wait(f"http://127.0.0.1:{port}/1")
        yield Server("bare aiohttp", f"http://127.0.0.1:{port}", process.pid)


def start(stack: ExitStack, directory: Path) -> tuple[dict[str, Server], str, str]:
    """Start everything that is installed; returns the servers by name, the upstream's URL and the key."""
    upstream, keys = stack.enter_context(redash(directory))
    key = keys["analyst"]
    made = [
        stack.enter_context(gateway(directory, upstream, key)),
        stack.enter_context(gateway(directory, upstream, key, lane=False)),
        stack.enter_context(gateway(directory, upstream, key, lane=False, access_log=True)),
        stack.enter_context(gateway(directory, upstream, key, lane=False, told=False)),
        stack.enter_context(gateway(directory, upstream, key, access_log=True)),
        stack.enter_context(nginx(directory, upstream, key)),
        stack.enter_context(varnish(directory, upstream, key)),
        stack.enter_context(bare(directory)),
    ]
    return {server.name: server for server in made if server is not None}, upstream, key

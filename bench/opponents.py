"""The servers that the gateway is compared with: nginx, Varnish and a bare aiohttp handler, at its best settings.

Each has the sandbox's key and serves from its own cache; none checks tokens, ages or permissions.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.processes import free_port, running
from bench.servers import Server


def program(name: str) -> str | None:
    """Return the path of a program, None if it is not installed."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


# Found by experiment: `tcp_nopush on` delays responses of 100 KB by 40 ms (delayed ACK); `open_file_cache` makes a hit
# about a fifth cheaper; plain reads are cheaper than `sendfile` at 1 KB, equal at 100 KB, three times as dear at 5 MB.
_NGINX = """
{user}
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off; server_tokens off; keepalive_requests 10000000; client_body_buffer_size 64k;
  sendfile on; tcp_nopush off; tcp_nodelay on; output_buffers 1 256k;
  open_file_cache max=1000 inactive=1h; open_file_cache_valid 1h;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  proxy_cache_path {home}/cache keys_zone=bench:10m max_size=1g;
  gzip_types application/json text/csv; gzip_min_length 1000; gzip_proxied any; gzip_comp_level 1;
  proxy_http_version 1.1; proxy_cache bench; proxy_cache_methods GET HEAD POST; proxy_cache_valid 200 1h;
  proxy_cache_key "$request_method$request_uri$request_body";
  proxy_ignore_headers Set-Cookie Cache-Control Expires Vary; proxy_hide_header Set-Cookie;
  proxy_set_header Authorization "Key {key}"; proxy_set_header Accept-Encoding "";
  server {{
    listen 127.0.0.1:{ports[0]} backlog=4096;
    location / {{ proxy_pass {upstream}; gzip on; add_header Age 0; add_header X-Cache $upstream_cache_status; }}
  }}
  server {{
    listen 127.0.0.1:{ports[1]} backlog=4096;
    sendfile off;
    location / {{ proxy_pass {upstream}; add_header Age 0; add_header X-Cache $upstream_cache_status; }}
  }}
  server {{  # caches what the first one has compressed
    listen 127.0.0.1:{ports[2]} backlog=4096;
    proxy_cache_key "$request_method$request_uri$request_body$http_accept_encoding";
    proxy_set_header Accept-Encoding $http_accept_encoding;
    location / {{
      proxy_pass http://127.0.0.1:{ports[0]}; add_header Age 0; add_header X-Cache $upstream_cache_status;
    }}
  }}
}}"""


@contextmanager
def nginx(directory: Path, upstream: str, key: str) -> Iterator[list[Server]]:
    """nginx with proxy_cache and one worker; GET and POST (with the body in the key) are cached."""
    where = program("nginx")
    if where is None:
        yield []
        return
    ports = [free_port() for _ in range(3)]
    home = directory / "nginx"
    home.mkdir()
    file = home / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    file.write_text(_NGINX.format(user=user, home=home, key=key, upstream=upstream, ports=ports))
    with running([where, "-c", str(file), "-p", str(home)], directory) as process:
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        process.wait_for(f"{urls[0]}/ping")
        yield [
            Server("nginx proxy_cache", urls[0], process),
            Server("nginx, sendfile off", urls[1], process, encodings=("plain",)),
            Server("nginx, gzip cached", urls[2], process, encodings=("gzip",)),
        ]


# Varnish always requests gzip from its backend, whatever its client accepts; so the form has its own header.
_VARNISH = """vcl 4.1;
backend default {{ .host = "{host}"; .port = "{port}"; }}
sub vcl_recv {{
  set req.http.Authorization = "Key {key}";
  set req.http.X-Form = "plain";
  if (req.http.Accept-Encoding ~ "gzip") {{ set req.http.X-Form = "gzip"; }}
  unset req.http.Cookie;
  return (hash);
}}
sub vcl_hash {{ hash_data(req.http.X-Form); }}
sub vcl_backend_fetch {{ unset bereq.http.Accept-Encoding; }}
sub vcl_backend_response {{
  unset beresp.http.Set-Cookie; unset beresp.http.Vary; unset beresp.http.Cache-Control; set beresp.ttl = 1h;
  if (bereq.http.X-Form == "gzip") {{ set beresp.do_gzip = true; }}
}}"""


@contextmanager
def varnish(directory: Path, upstream: str, key: str) -> Iterator[list[Server]]:
    """Varnish with both forms stored; GET only, as it does not cache POST."""
    where = program("varnishd")
    if where is None:
        yield []
        return
    port = free_port()
    host, _, up_port = upstream.removeprefix("http://").partition(":")
    vcl = directory / "bench.vcl"
    vcl.write_text(_VARNISH.format(host=host, port=up_port, key=key))
    command = [where, "-F", "-n", str(directory / "varnish"), "-a", f"127.0.0.1:{port}", "-f", str(vcl)]
    with running([*command, "-s", "malloc,256m", "-p", "thread_pools=1"], directory) as process:
        process.wait_for(f"http://127.0.0.1:{port}/ping")
        yield [Server("Varnish", f"http://127.0.0.1:{port}", process, methods=("GET",))]


_BARE = """
import asyncio, gzip, pathlib, sys
from aiohttp import web
PLAIN = {path.name: path.read_bytes() for path in pathlib.Path(sys.argv[2]).iterdir()}
GZIP = {name: gzip.compress(data, 6) for name, data in PLAIN.items()}
async def main():
    async def handle(request):
        await request.read()
        name = request.path[1:]
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers = {"Content-Encoding": "gzip"}
            return web.Response(body=GZIP[name], content_type="application/json", headers=headers)
        return web.Response(body=PLAIN[name], content_type="application/json")
    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]), backlog=4096).start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


@contextmanager
def bare(directory: Path, bodies: Path) -> Iterator[list[Server]]:
    """An aiohttp handler that returns bytes from memory and does nothing else: the upper limit for Python.

    `bodies` is a directory of response bodies, named by their sizes.
    """
    port = free_port()
    with running([sys.executable, "-c", _BARE, str(port), str(bodies)], directory) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_for(f"{url}/{next(bodies.iterdir()).name}")
        yield [Server("bare aiohttp", url, process, own_paths=True)]


_PROXY = """
import asyncio, sys
import aiohttp
from aiohttp import web
async def main():
    async with aiohttp.ClientSession() as session:
        async def handle(request):
            data = await request.read()
            async with session.request(request.method, sys.argv[2] + request.path, data=data) as response:
                body = await response.read()
                return web.Response(status=response.status, body=body, content_type="application/json")
        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
        await asyncio.Event().wait()
asyncio.run(main())
"""


@contextmanager
def bare_proxy(directory: Path, upstream: str) -> Iterator[str]:
    """An aiohttp handler that forwards everything with aiohttp's client and does nothing else; yields its URL."""
    port = free_port()
    with running([sys.executable, "-c", _PROXY, str(port), upstream], directory) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_for(f"{url}/bench/counts")
        yield url

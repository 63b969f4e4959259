"""The other servers that the gateway is compared with: Varnish and bare servers, which check nothing.

nginx is in `bench/nginx.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.nginx import program
from bench.processes import free_port, running
from bench.servers import Server

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


_PROTOCOL = """
import asyncio, pathlib, sys
if sys.argv[3] == "uvloop":
    import uvloop
    run = uvloop.run
else:
    run = asyncio.run
BODY = pathlib.Path(sys.argv[2]).read_bytes()
RESPONSE = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n" % len(BODY)
KEPT, CLOSED = RESPONSE + b"\\r\\n" + BODY, RESPONSE + b"Connection: close\\r\\n\\r\\n" + BODY
class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        if b"\\r\\nConnection: close" in data:
            self.transport.write(CLOSED)
            self.transport.close()
        else:
            self.transport.write(KEPT)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()
run(main())
"""


@contextmanager
def bare_protocol(directory: Path, body: Path, loop: str) -> Iterator[Server]:
    """A protocol of asyncio or uvloop that writes the same bytes for everything that it reads: the least possible."""
    port = free_port()
    with running([sys.executable, "-c", _PROTOCOL, str(port), str(body), loop], directory) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_for(url)
        yield Server(f"bare protocol, {loop}", url, process, own_paths=True)

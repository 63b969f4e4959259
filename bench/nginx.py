"""nginx with proxy_cache: it caches what the gateway caches, at the settings that are best for it.

It has the sandbox's key and serves from its own cache. Callers share nothing: the key of its cache has their
`Authorization`. It checks no tokens, ages or permissions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.client_requests import OTHER_ORIGIN

from bench.processes import free_port, running
from bench.servers import Certificate, Server

# Found by experiment: `tcp_nopush on` delays responses of 100 KB by 40 ms (delayed ACK); `open_file_cache` makes a hit
# about a fifth cheaper; plain reads are cheaper than `sendfile` at 1 KB, equal at 100 KB, three times as dear at 5 MB.
_HEAD = """
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
  proxy_cache_key "$request_method$request_uri$request_body$http_authorization";
  proxy_ignore_headers Set-Cookie Cache-Control Expires Vary; proxy_hide_header Set-Cookie;
  proxy_set_header Authorization "Key {key}"; proxy_set_header Accept-Encoding "";
  map $http_origin $allowed {{ "{origin}" $http_origin; }}
  add_header Age 0; add_header X-Cache $upstream_cache_status; add_header Access-Control-Allow-Origin $allowed;
"""

# The upstream gets no arguments: a token in `api_key` is the gateway's.
_PLAIN = "location / {{ proxy_pass {upstream}$uri; gzip {gzip}; }}"

# Caches what the first server has compressed.
_GZIP = """
    proxy_cache_key "$request_method$request_uri$request_body$http_authorization$http_accept_encoding";
    proxy_set_header Accept-Encoding $http_accept_encoding;
    location / {{ proxy_pass http://127.0.0.1:{first}; }}"""

PLAIN, READS, GZIP, GZIP_READS = SERVERS = (
    "nginx proxy_cache",
    "nginx, sendfile off",
    "nginx, gzip cached",
    "nginx, gzip cached, sendfile off",
)


@contextmanager
def nginx(
    directory: Path, upstream: str, key: str, *, certificate: Certificate | None = None, unix: bool = False
) -> Iterator[list[Server]]:
    """nginx with one worker; GET and POST (with the body in the key) are cached.

    With a certificate, or for Unix sockets, the same servers are reached in this way.
    """
    where = program("nginx")
    if where is None:
        yield []
        return
    home = directory / "nginx"
    home.mkdir(exist_ok=True)
    ports = [free_port() for _ in SERVERS]
    places = [_place(home, port, certificate=certificate, unix=unix) for port in ports]
    file = home / "nginx.conf"
    file.write_text(_configuration(home, upstream, key, ports, [listen for listen, _ in places]))
    with running([where, "-c", str(file), "-p", str(home)], directory) as process:
        process.wait_for(f"http://127.0.0.1:{ports[0]}/ping")
        encodings = {PLAIN: ("plain", "gzip"), READS: ("plain",), GZIP: ("gzip",), GZIP_READS: ("gzip",)}
        yield [
            Server(name, url, process, encodings=encodings[name])
            for name, (_, url) in zip(SERVERS, places, strict=True)
        ]


def best(servers: list[Server], size: str, encoding: str) -> list[Server]:
    """Return the server that is cheapest for this kind of response, in a list; an empty one without nginx."""
    small = size == "1 KB"
    names = {"plain": READS if small else PLAIN, "gzip": GZIP_READS if small else GZIP}
    return [server for server in servers if server.name == names[encoding]]


def _place(home: Path, port: int, *, certificate: Certificate | None, unix: bool) -> tuple[str, str]:
    """Return what a server listens on, besides its port, and the URL to measure."""
    if unix:
        return f"listen unix:{home}/{port}.sock backlog=4096;", f"unix:{home}/{port}.sock"
    if certificate is None:
        return "", f"http://127.0.0.1:{port}"
    tls = free_port()
    keys = f"ssl_certificate {certificate.cert}; ssl_certificate_key {certificate.key};"
    return f"listen 127.0.0.1:{tls} ssl backlog=4096; {keys}", f"https://127.0.0.1:{tls}"


def _configuration(home: Path, upstream: str, key: str, ports: list[int], listens: list[str]) -> str:
    user = "user root;" if os.geteuid() == 0 else ""
    contents = {
        PLAIN: _PLAIN.format(upstream=upstream, gzip="on"),
        READS: "sendfile off; " + _PLAIN.format(upstream=upstream, gzip="off"),
        GZIP: _GZIP.format(first=ports[0]),
        GZIP_READS: "sendfile off; " + _GZIP.format(first=ports[0]),
    }
    servers = [
        f"  server {{ listen 127.0.0.1:{port} backlog=4096; {listen} {contents[name]} }}"
        for name, port, listen in zip(SERVERS, ports, listens, strict=True)
    ]
    head = _HEAD.format(user=user, home=home, key=key, origin=OTHER_ORIGIN)
    return "\n".join([head, *servers, "}"])


def program(name: str) -> str | None:
    """Return the path of a program, None if it is not installed."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")

"""How the benchmark of forms downloads: in as many requests as the gateway needs to make a form."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from bench.servers import Server

Download = Callable[[Server, str, Path], None]
"""From a server and a path into a file."""

_PIECE: Final = 1 << 20
_RANGE: Final = 8 << 20
_MOST_SECONDS: Final = 600.0


def whole(server: Server, path: str, file: Path) -> None:
    """Download as it is."""
    with _opened(server, path) as response, file.open("wb") as out:
        out.writelines(_pieces(response))


def compressed(server: Server, path: str, file: Path) -> None:
    """Download with gzip, and decompress."""
    decoder = zlib.decompressobj(wbits=31)
    with _opened(server, path, {"Accept-Encoding": "gzip"}) as response, file.open("wb") as out:
        if response.headers["Content-Encoding"] != "gzip":
            raise SystemExit(f"{path}: not compressed")
        out.writelines(decoder.decompress(piece) for piece in _pieces(response))
        out.write(decoder.flush())
    if not decoder.eof:
        raise SystemExit(f"{path}: not whole")


def in_ranges(server: Server, path: str, file: Path) -> None:
    """Download by the id of the result, in ranges, all of the same bytes."""
    with _opened(server, path) as response:
        place = urljoin(path, response.headers["Content-Location"])
        size = int(response.headers["Content-Length"])
    tag = None
    with file.open("wb") as out:
        for start in range(0, size, _RANGE):
            headers = {"Range": f"bytes={start}-{start + _RANGE - 1}"} | ({"If-Range": tag} if tag else {})
            with _opened(server, place, headers) as response:
                if response.status != 206:
                    raise SystemExit(f"{place}: {response.status}, no range")
                tag = response.headers["ETag"]
                out.writelines(_pieces(response))


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    while piece := response.read(_PIECE):
        yield piece


def _opened(server: Server, path: str, headers: dict[str, str] | None = None) -> Any:
    end = time.monotonic() + _MOST_SECONDS
    while True:
        request = urllib.request.Request(server.url + path, headers={**server.headers, **(headers or {})})
        try:
            return urllib.request.urlopen(request, timeout=_MOST_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > end:
                raise SystemExit(f"{path}: {error.code} {error.read(500)!r}") from None
            time.sleep(float(error.headers["Retry-After"]))

"""A browser tab, and a web server of another origin."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

from support.libraries import library

ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")


@contextlib.asynccontextmanager
async def tab(chromium: str) -> AsyncIterator[Any]:
    """A tab of this Chromium."""
    async with library("playwright.async_api").async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield await browser.new_page()
        await browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def web_server(directory: Path) -> Iterator[str]:
    """A web server with the files of a directory; its origin."""
    serve = functools.partial(_Quiet, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()

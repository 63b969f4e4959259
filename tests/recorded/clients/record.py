"""Records again what the clients of `programs/` send: `python tests/recorded/clients/record.py [NAME ...]`.

Clients that are not installed are left out. Python's run with the Python that runs this; NODE_PATH says where axios is.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from listening import ETAG, Listener, Received, listening

HERE = Path(__file__).parent
TOKEN = "rg_recorded_0123456789abcdef0123456789abcdef"
BODY = '{"max_age": 86400}'
QUERY = 4242
TIMES = 5
"""How often each request is sent, to see whether the connection is kept, and how it is cut at most."""

SECONDS = 90
BROWSERS = ("chromium", "firefox")
ONLY_BY_URL = ("pandas_read_csv", "r_read_csv")
"""Clients that people call with nothing but a URL."""

RUN_BY = {
    ".sh": ["bash"],
    ".py": [sys.executable],
    ".cjs": ["node"],
    ".go": ["go", "run"],
    ".java": ["java"],
    ".R": ["Rscript"],
}
TITLES = {
    "chromium": "Chromium",
    "curl": "curl",
    "firefox": "Firefox ESR",
    "go_net_http": "Go net/http",
    "java_http_client": "Java HttpClient",
    "node_axios": "axios in Node",
    "node_fetch": "fetch of Node",
    "pandas_read_csv": "pandas.read_csv",
    "python_aiohttp": "aiohttp",
    "python_httpx": "httpx",
    "python_requests": "requests",
    "python_urllib3": "urllib3",
    "r_httr2": "R httr2",
    "r_read_csv": "R read.csv",
    "toolbelt": "redash-toolbelt",
    "wget": "wget",
}


def main(names: list[str]) -> None:
    """Record each client and write its file."""
    for program in sorted((HERE / "programs").iterdir()):
        if names and program.stem not in names:
            continue
        try:
            recorded = _browser(program) if program.stem in BROWSERS else _program(program)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{program.stem}: not recorded ({error})")
            continue
        (HERE / f"{program.stem}.toml").write_text(recorded)
        print(f"{program.stem}: recorded")


def _program(program: Path) -> str:
    """Run a client once for each method."""
    by_url = program.stem in ONLY_BY_URL
    requests, version = [], ""
    for method in ("GET",) if by_url else ("GET", "POST"):
        with listening(lambda _: None) as listener:
            path = f"/api/queries/{QUERY}/results"
            path += f".csv?api_key={TOKEN}" if by_url else {"GET": ".json", "POST": ""}[method]
            env = {"METHOD": method, "URL": f"http://127.0.0.1:{listener.port}{path}"}
            done = subprocess.run(
                _command(program), env=_environment(env), capture_output=True, timeout=SECONDS, check=False
            )
        if done.returncode or len(listener.received) < TIMES:
            raise subprocess.SubprocessError(done.stderr.decode()[-300:] or f"{len(listener.received)} requests")
        requests += _requests(listener)
        version = done.stdout.decode().split()[-1]
    return _file(program.stem, version, requests)


def _browser(program: Path) -> str:
    """Open the GET as a page, which sends requests, then a page of another origin, which sends them, too."""
    with (
        listening(lambda received: _page(received, listener.port)) as listener,
        TemporaryDirectory(ignore_cleanup_errors=True) as directory,
    ):
        first = f"http://127.0.0.1:{listener.port}/api/queries/{QUERY}/results.json?api_key={TOKEN}"
        env = _environment({"PAGE": first, "DIRECTORY": directory})
        run = subprocess.Popen(_command(program), env=env, stdout=subprocess.PIPE, start_new_session=True)
        try:
            assert run.stdout is not None
            version = run.stdout.readline().decode().strip()
            if not listener.done.wait(SECONDS):
                raise subprocess.SubprocessError(f"the page did not end: {[r.head for r in listener.received][-1:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGTERM)
            run.wait(SECONDS)
    return _file(program.stem, version, _requests(listener))


def _page(received: Received, port: int) -> str | None:
    """Return the page for a navigation: first one of the gateway's own origin, then of another site."""
    if "sec-fetch-mode: navigate" not in received.head.lower():
        return None
    path = received.head.split(" ", 2)[1]
    text = (HERE / "page.html").read_text()
    if not path.startswith(("/api", "/other")):
        return "done"
    gateway, other = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    marks = {
        "token": TOKEN,
        "times": str(TIMES),
        "body": BODY.replace(" ", ""),
        "get": f"{gateway}/api/queries/{QUERY}/results.json",
        "post": f"{gateway}/api/queries/{QUERY}/results",
        "next": f"{other}/other" if path.startswith("/api") else f"{other}/done",
    }
    for name, value in marks.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _command(program: Path) -> list[str]:
    return [*RUN_BY[program.suffix], str(program)]


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "TOKEN": TOKEN, "BODY": BODY, "TIMES": str(TIMES), **more}


def _requests(listener: Listener) -> list[str]:
    """Return one TOML table for each kind of request."""
    kinds: dict[str, list[Received]] = defaultdict(list)
    connections = [received.connection for received in listener.received]
    for received in listener.received:
        if f"/api/queries/{QUERY}/" in received.head.partition("\r\n")[0]:
            kinds[_kind(received)].append(received)
    tables = []
    for kind, found in kinds.items():
        heads = list(dict.fromkeys(_with_marks(received.head, listener.port) for received in found))
        if len(heads) > 1:
            print(f"  {kind} differs from time to time:", *heads[1:], sep="\n")
        kept = any(connections.count(received.connection) > 1 for received in found)
        most = max(found, key=lambda received: len(received.segments))
        if len(most.segments) < max(received.arrived for received in found):
            raise subprocess.SubprocessError("the reader was late and does not know where segments ended; try again")
        tables.append(_table(kind, kept, _cut(most), heads[0], found[0].body))
    return tables


def _kind(received: Received) -> str:
    """Name what a page does, or only the method."""
    fields = dict(re.findall(r"(?m)^([\w-]+): (.*?)\r?$", received.head.lower()))
    method = received.head.partition(" ")[0]
    if fields.get("sec-fetch-mode") == "navigate":
        return "navigation"
    if "access-control-request-method" in fields:
        return f"preflight of {fields['access-control-request-method'].upper()}"
    name = f"{method} again" if "if-none-match" in fields else method
    site = fields.get("sec-fetch-site")
    return f"{name} from another origin" if site in ("cross-site", "same-site") else name


def _cut(received: Received) -> str:
    """Say how a request arrived; what is cut elsewhere than before its body needs a closer look."""
    head = len(received.head.encode("latin-1")) + 4
    if len(received.segments) == 1:
        return "together"
    if received.segments == (head, len(received.body)):
        return "head, body"
    raise subprocess.SubprocessError(f"cut into {received.segments}, the head has {head}")


def _with_marks(head: str, port: int) -> str:
    """Put marks in the place of what differs from server to server."""
    head = head.replace(TOKEN, "{token}").replace(f"/queries/{QUERY}/", "/queries/{query}/").replace(ETAG, "{etag}")
    head = re.sub(rf"(?im)^(origin: |referer: )http://localhost:{port}", r"\1{other}", head)
    return head.replace(f"127.0.0.1:{port}", "{host}").replace("\r\n", "\n")


def _table(kind: str, kept: bool, segments: str, head: str, body: str) -> str:
    lines = ["[[requests]]", f'kind = "{kind}"', f"kept = {str(kept).lower()}", f'segments = "{segments}"']
    return "\n".join([*lines, f"head = '''\n{head}\n'''", *([f"body = '{body}'"] if body else []), ""])


def _file(name: str, version: str, requests: list[str]) -> str:
    head = [f'client = "{TITLES[name]}"', f'version = "{version}"', f"recorded = {datetime.now(UTC).date()}", ""]
    return "\n".join([*head, *requests])


if __name__ == "__main__":
    main(sys.argv[1:])

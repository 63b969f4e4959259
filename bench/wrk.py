"""wrk: one turn of load on one server, and its figures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Running

CONNECTIONS = 16


@dataclass(frozen=True)
class Turn:
    """The figures of one turn of load."""

    requests: int
    cpu_us: float
    """CPU time of the server's processes per request."""
    rate: float
    p50_ms: float
    p99_ms: float


def found() -> str:
    """Return the path of wrk."""
    path = shutil.which("wrk")
    if path is None:
        raise SystemExit("the benchmark needs wrk (apt-get install wrk)")
    return path


def script(method: str, headers: dict[str, str], body: str) -> str:
    """Return a Lua script that sends the same request each time."""
    lines = [f'wrk.method = "{method}"', *(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())]
    return "\n".join([*lines, *([f"wrk.body = '{body}'"] if body else [])])


def exactly(request: bytes) -> str:
    """Return a Lua script that sends these bytes each time; without a function `request`, wrk calls no Lua for it."""
    return f"wrk.format = function() return {_quoted(request)} end"


def with_field(request: bytes, field: str) -> str:
    """Return a Lua script that adds a field to the request; in `field`, `%d`, `%x` and the like get a new number."""
    head, _, rest = request.partition(b"\r\n\r\n")
    first, last = _quoted(head + b"\r\n"), _quoted(b"\r\n\r\n" + rest)
    numbers = ", n" * field.count("%")
    return f"""
local n = os.time() * 65536
request = function()
  n = n + 1
  return {first} .. string.format("{field}"{numbers}) .. {last}
end"""


def _quoted(data: bytes) -> str:
    """Return a string literal, which is the same in Lua as in JSON for what requests contain."""
    return json.dumps(data.decode("ascii"))


def turn(
    lua: str, url: str, server: Running, seconds: float, directory: Path, *, connections: int = CONNECTIONS
) -> Turn:
    """Load `url` for `seconds` (at least one) with one thread and 16 persistent connections."""
    file = directory / "turn.lua"
    file.write_text(lua)
    before = server.cpu_seconds()
    duration = f"-d{max(1, round(seconds))}s"  # wrk takes whole seconds
    command = [found(), "-t1", f"-c{connections}", duration, "--timeout", "20s", "--latency", "-s", str(file)]
    out = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    cpu = server.cpu_seconds() - before
    if re.search(r"Non-2xx|Socket errors", out):
        raise SystemExit(f"{url}: {out}")
    requests = int(_in(out, r"(\d+) requests in"))
    return Turn(
        requests=requests,
        cpu_us=cpu / requests * 1e6,
        rate=float(_in(out, r"Requests/sec:\s+([\d.]+)")),
        p50_ms=_milliseconds(_in(out, r"(?m)^ +50% +(\S+) *$")),
        p99_ms=_milliseconds(_in(out, r"(?m)^ +99% +(\S+) *$")),
    )


def _in(out: str, pattern: str) -> str:
    match = re.search(pattern, out)
    if match is None:
        raise SystemExit(f"unexpected output of wrk:\n{out}")
    return match[1]


def _milliseconds(text: str) -> float:
    number, unit = _in(text, r"^([\d.]+)"), text.lstrip("0123456789.")
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[unit]

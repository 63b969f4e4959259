"""`python -m bench`: drives every server with wrk in turns and prints CPU per request, rates, latencies and ratios."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from bench.servers import Server, start

SIZES = {"1 KB": ("kb1", "1"), "100 KB": ("kb100", "2"), "5 MB": ("large", "3")}
GATEWAY = "gateway"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    options = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        print("the bench needs wrk (apt-get install wrk)", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)  # nginx and Varnish drop their rights
        servers, upstream, key = start(stack, directory)
        figures = hits(wrk, servers, named(upstream, key), options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


def named(upstream: str, key: str) -> dict[str, int]:
    """The ids of the sandbox's sample queries by size."""
    request = urllib.request.Request(f"{upstream}/api/queries?page_size=250", headers={"Authorization": f"Key {key}"})
    with urllib.request.urlopen(request) as answer:
        queries = json.load(answer)["results"]
    names = {"kb1": "First customers (1 KB)", "kb100": "Latest orders (100 KB)", "large": "All order notes (5 MB)"}
    return {short: next(q["id"] for q in queries if q["name"] == name) for short, name in names.items()}


def hits(
    wrk: str, servers: dict[str, Server], ids: dict[str, int], options: argparse.Namespace
) -> list[dict[str, object]]:
    figures: list[dict[str, object]] = []
    for size in options.sizes:
        short, number = SIZES[size]
        for method in ("GET", "POST"):
            plans = [(s, _path(s, method, ids[short], number)) for s in servers.values() if _can(s, method)]
            for server, path in plans:
                for _ in range(4):
                    _once(server, path, method)
            rows: dict[str, list[dict[str, float]]] = {server.name: [] for server, _ in plans}
            for _ in range(options.turns):
                for server, path in plans:
                    rows[server.name].append(_turn(wrk, server, path, method, options.seconds))
            figures += _report(size, method, rows)
    return figures


def _can(server: Server, method: str) -> bool:
    return method == "GET" or server.name != "Varnish"


def _path(server: Server, method: str, query_id: int, number: str) -> str:
    if server.name == "bare aiohttp":
        return f"/{number}"
    return f"/api/queries/{query_id}/results" + (".json" if method == "GET" else "")


def _once(server: Server, path: str, method: str) -> None:
    data = b'{"max_age": 86400}' if method == "POST" else None
    request = urllib.request.Request(server.url + path, data=data, headers=server.headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def _turn(wrk: str, server: Server, path: str, method: str, seconds: int) -> dict[str, float]:
    script = Path(tempfile.gettempdir()) / "bench.lua"
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in server.headers.items())
    body = "wrk.body = '{\"max_age\": 86400}'\n" if method == "POST" else ""
    script.write_text(f'wrk.method = "{method}"\n{headers}{body}')
    before = server.cpu_seconds()
    command = [wrk, "-t1", "-c16", f"-d{seconds}s", "--latency", "-s", str(script), server.url + path]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu = server.cpu_seconds() - before
    if re.search(r"Non-2xx|Socket errors", out):
        raise SystemExit(f"{server.name}: {out}")
    requests = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    return {
        "cpu_us": cpu / requests * 1e6,
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),  # type: ignore[index]
        "p50_ms": _milliseconds(re.search(r"^ +50% +(\S+)$", out, re.MULTILINE)[1]),  # type: ignore[index]
        "p99_ms": _milliseconds(re.search(r"^ +99% +(\S+)$", out, re.MULTILINE)[1]),  # type: ignore[index]
    }


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _report(size: str, method: str, rows: dict[str, list[dict[str, float]]]) -> list[dict[str, object]]:
    medians = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]} for name, turns in rows.items()
    }
    ours = medians[GATEWAY]["cpu_us"]
    print(f"\n{size}, {method}, hits{'':20} CPU µs/request   requests/s    p50 ms   p99 ms   gateway / it")
    for name, m in medians.items():
        ratio = ours / m["cpu_us"]
        print(f"  {name:28} {m['cpu_us']:14.1f} {m['rate']:12.0f} {m['p50_ms']:9.2f} {m['p99_ms']:8.2f} {ratio:11.2f}")
    return [{"size": size, "method": method, "server": name, **m} for name, m in medians.items()]


if __name__ == "__main__":
    sys.exit(main())

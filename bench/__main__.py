"""`python -m bench`: starts all servers on loopback, measures them in turns, and prints the figures beside the targets.

It asserts nothing, because times depend on the machine; the reader judges them.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import (
    clients,
    cluster,
    connections,
    hits,
    idle,
    machine,
    memory,
    miss,
    mixed,
    recording,
    runs,
    stampede,
    start,
    stream,
    tls,
    wrk,
)
from bench.report import Options, Section, text, write_json, write_pages
from bench.samples import SIZES
from bench.servers import LOOPS

ROOT = Path(__file__).parent.parent
SECTIONS: dict[str, Callable[[Options, Path], Section]] = {
    "clients": clients.measure,
    "connections": connections.measure,
    "tls": tls.measure,
    "load": mixed.measure,
    "idle": idle.measure,
    "runs": runs.measure,
    "hits": hits.measure,
    "recording": recording.measure,
    "miss": miss.measure,
    "stampede": stampede.measure,
    "stream": stream.measure,
    "start": start.measure,
    "memory": memory.measure,
    "cluster": cluster.measure,
}


def main() -> int:
    """Run the requested sections, in order."""
    arguments = _arguments()
    wrk.found()
    _allow_many_connections()
    options = Options(
        arguments.turns,
        arguments.seconds,
        tuple(arguments.sizes),
        arguments.requests,
        arguments.loop,
        tuple(arguments.clients),
        tuple(arguments.encodings),
        arguments.long_runs,
    )
    described = machine.described(options)
    print(described, flush=True)
    sections = []
    for name in [name for name in SECTIONS if name in arguments.only]:
        sections.append(_run(name, options))
        print("", *(text(table) + "\n" for table in sections[-1].tables), sep="\n", flush=True)
    if arguments.json:
        write_json(arguments.json, described, sections)
    if arguments.readme:
        write_pages(ROOT / "README.md", ROOT / "docs" / "performance.md", described, sections)
    return 0


def _run(name: str, options: Options) -> Section:
    """Run a section in its own directory."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        directory.chmod(0o755)  # nginx and Varnish give up their privileges
        return SECTIONS[name](options, directory)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add(
        "--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS)
    )
    add("--turns", type=int, default=5, help="number of measurements (default: %(default)s)")
    add("--seconds", type=float, default=1, help="duration of each turn (default: %(default)s)")
    add(
        "--sizes",
        nargs="+",
        choices=list(SIZES),
        default=list(SIZES),
        metavar="SIZE",
        help="response sizes for hits",
    )
    add("--clients", nargs="+", default=[], metavar="NAME", help="recorded clients whose names contain one of these")
    add(
        "--encodings",
        nargs="+",
        choices=clients.ENCODINGS,
        default=["own"],
        help="what recorded clients accept: what they have sent, or everything plain or as gzip",
    )
    add("--long-runs", action="store_true", help="also measure runs of a minute")
    add("--requests", type=int, default=1_000_000, help="number of requests for the memory test; 0: skip it")
    add(
        "--loop",
        choices=LOOPS,
        default=LOOPS[0],
        help="event loop of the gateway (default: %(default)s); sections about hits have rows for each",
    )
    add("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    add("--readme", action="store_true", help="update the tables in README.md and docs/performance.md")
    return parser.parse_args()


def _allow_many_connections() -> None:
    """Raise the limit on open files: a stampede needs more than many shells allow. Child processes inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())

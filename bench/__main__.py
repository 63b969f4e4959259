"""`python -m bench`: starts everything on the loopback, drives it in turns, prints what it measured beside its bars.

Nothing is asserted: times depend on the machine, and whoever reads them judges them.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import hits, machine, memory, miss, stampede, start, stream, telling, wrk
from bench.report import Options, Section, text, write_json, write_readme

README = Path(__file__).parent.parent / "README.md"
SECTIONS: dict[str, Callable[[Options, Path], Section]] = {
    "hits": hits.measure,
    "telling": telling.measure,
    "miss": miss.measure,
    "stampede": stampede.measure,
    "stream": stream.measure,
    "start": start.measure,
    "memory": memory.measure,
}


def main() -> int:
    """Run the sections that were asked for, in order."""
    asked = _arguments()
    wrk.found()
    _allow_many_connections()
    options = Options(asked.turns, asked.seconds, tuple(asked.sizes), asked.requests, asked.uvloop)
    told = machine.described(options)
    print(told, flush=True)
    sections = []
    for name in [name for name in SECTIONS if name in asked.only]:
        sections.append(_run(name, options))
        print("", *(text(table) + "\n" for table in sections[-1].tables), sep="\n", flush=True)
    if asked.json:
        write_json(asked.json, told, sections)
    if asked.readme:
        write_readme(README, told, sections)
    return 0


def _run(name: str, options: Options) -> Section:
    """Run a section in a directory of its own."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        directory.chmod(0o755)  # nginx and Varnish drop their rights
        return SECTIONS[name](options, directory)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add(
        "--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS)
    )
    add("--turns", type=int, default=5, help="how often each is measured (default: %(default)s)")
    add("--seconds", type=int, default=3, help="of each turn (default: %(default)s)")
    add("--sizes", nargs="+", choices=list(hits.SIZES), default=list(hits.SIZES), metavar="SIZE", help="of hits")
    add("--requests", type=int, default=1_000_000, help="after which memory must be flat; 0: leave that out")
    add("--uvloop", action="store_true", help="run the gateway on uvloop (hits have rows for both loops anyway)")
    add("--json", type=Path, metavar="FILE", help="write all figures to this file, too")
    add("--readme", action="store_true", help="put the tables into README.md, section Measured")
    return parser.parse_args()


def _allow_many_connections() -> None:
    """A stampede needs more open files than shells often allow; what is started here inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())

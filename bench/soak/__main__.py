"""`python -m bench.soak`: mixed load with faults, kills and restarts from a seed; every response is checked.

Prints tables of verdicts in Markdown, and each finding to standard error at once; the exit status is 1 if a promise was
broken.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
from pathlib import Path

from bench.soak import stored, verdicts
from bench.soak.journal import Journal
from bench.soak.kills import Kills
from bench.soak.outages import Outages
from bench.soak.rounds import Rounds
from bench.soak.stage import stage


def main() -> int:
    """Run what the arguments name."""
    arguments = _arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    journal = Journal()
    with tempfile.TemporaryDirectory() as made:
        shown = asyncio.run(_run(arguments, Path(made), journal))
    print(shown, f"\n{verdicts.machine()}; seed {arguments.seed}.", sep="\n")
    return 1 if journal.broken else 0


async def _run(arguments: argparse.Namespace, directory: Path, journal: Journal) -> str:
    reset = "10s" if arguments.outages else "1s"  # the default; rounds are shorter than it
    async with stage(directory, journal, arguments.seed, reset) as made:
        if arguments.kills:
            await Kills(made, arguments.seed, arguments.kills).run()
            return verdicts.of_kills(journal)
        if arguments.outages:
            outages = Outages(made, arguments.seed, arguments.outages, arguments.patience)
            await outages.run()
            outages.judge()
            return verdicts.of_outages(journal, outages)
        await Rounds(made, arguments.seed, arguments.minutes * 60).run()
        await made.stop()
        await stored.check(made)
        return verdicts.of_soak(journal)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=30, help="duration of the soak (default: %(default)s)")
    add("--seed", type=int, default=1, help="source of all chance (default: %(default)s)")
    add("--kills", type=int, default=0, metavar="N", help="instead: kill -9 so often under load, without other faults")
    add("--outages", type=float, default=0, metavar="SECONDS", help="instead: three outages of Redash, so long each")
    add("--patience", type=float, default=1, metavar="TIMES", help="limits of time in outages, for a busy machine")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

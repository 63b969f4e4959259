"""The short form of the fuzz over requests with adversarial text; `texts.py` runs for as long as one likes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from . import texts_values
from .texts import fuzz
from .texts_attacks import Attacker
from .texts_drawing import Target
from .texts_processes import TOKENS
from .texts_run import Ping, Run

SECONDS = 8.0
SLOW_SECONDS = 5.0
"""Ten times the bar of the long form: a busy machine is not what this is about."""


@pytest.mark.long
async def test_a_short_fuzz_finds_nothing(tmp_path: Path, note: Callable[[str], None]) -> None:
    seed = int(os.environ.get("GATEWAY_FUZZ_SEED", "1"))
    run = await fuzz(SECONDS, seed, tmp_path, callers=8, slow_seconds=SLOW_SECONDS)
    note(f"fuzz over texts, seed {seed}: {run.requests} requests, {run.figures()}")
    assert run.findings == []
    assert run.requests > 50
    assert run.asked["ping"] > 10
    assert min(run.statuses["200"], run.statuses["400"], run.statuses["413"] + run.statuses["431"]) > 0


def test_a_seed_names_a_sequence_of_attacks() -> None:
    # What is found must be found again.
    target = Target(TOKENS, {"kb1": 1, "above": 2, "slow_seconds": 3, "on_day": 4, "pattern": 5, "large": 6}, "", "")
    one, other = (Attacker(target, random.Random("7/0")) for _ in range(2))
    assert [one.next() for _ in range(60)] == [other.next() for _ in range(60)]


@pytest.mark.parametrize("seed", range(20))
def test_texts_keep_to_their_size(seed: int) -> None:
    rng = random.Random(seed)
    for most in (0, 1, 100, 10_000):
        assert all(len(texts_values.text(rng, most)) <= most for _ in range(50))


def test_what_must_not_happen_is_found(tmp_path: Path) -> None:
    run = Run(1, tmp_path, slow_seconds=0.5)
    run.note_ping("ping", Ping(seconds=0.7, began=0.0, ended=0.7, ran=0.6, loop=0.1, waited=0.1))
    run.note_ping("ping", Ping(seconds=3.0, began=0.0, ended=3.0, ran=0.1, loop=0.1, waited=2.8))
    assert (len(run.findings), len(run.starved)) == (1, 1)
    log = tmp_path / "log"
    log.write_text(
        '{"level": "info", "message": "fine"}\n{"level": "error", "message": "x"}\n{"message": "rg_secret"}\n'
    )
    run.judge_log(log, ["rg_secret"])
    assert len(run.findings) == 3
    # A thread without a CPU is no excuse where the loop computed.
    run.note_ping("ping", Ping(seconds=0.7, began=0.0, ended=0.7, ran=0.6, loop=0.6, waited=0.7))
    assert run.findings.pop().startswith("polite caller: ping took 0.70 s")
    run.memory = [100_000_000] * 300 + [120_000_000] * 300 + [140_000_000] * 300
    run.judge_memory(200.0)
    run.judge_memory(130.0)
    assert [finding.partition(" MB")[0] for finding in run.findings[3:]] == [
        "memory: still growing: 120.0",
        "memory: 140.0",
        "memory: still growing: 120.0",
    ]

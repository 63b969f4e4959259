"""The short form of the history checker; `cluster.checker` is the long one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.length import TIMES

from .checker import check

RARE = ("no traceback in a log", "nothing stored before a purge", "nothing for a revoked client")
"""What a quick machine may not meet in so short a run: purges and revocations come at moments, not after requests."""


async def checked(seed: int, operations: int, directory: Path, note: Callable[[str], None]) -> None:
    findings, figures = await check(seed, operations, directory)
    note(f"{figures}\n{findings.table()}")
    assert not findings.texts, "\n".join([*findings.texts[:20], figures, findings.table()])
    assert all(findings.judged[rule] for rule in findings.found if rule not in RARE), findings.table()


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_several_gateways_keep_every_promise_amid_troubles(
    tmp_path: Path, needs: Callable[[str], str], note: Callable[[str], None]
) -> None:
    needs("redis-server")
    await checked(1, 800 * TIMES, tmp_path, note)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_gateways_that_share_nothing_are_found(tmp_path: Path, needs: Callable[[str], str]) -> None:
    needs("redis-server")
    findings, _ = await check(3, 300, tmp_path, apart=True)
    found = {rule for rule, texts in findings.found.items() if texts}
    assert found >= {"one execution per key and moment", "every job id is known, and gives a result"}

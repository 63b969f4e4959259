"""The simulated week: what docs/freshness.md says of it, and that the table there is the one that the command makes."""

from __future__ import annotations

import re

import pytest

from bench.week.__main__ import BEGIN, END, PAGE, WAYS, simulated, table


def test_both_together_are_better_than_each_alone_and_run_no_more_than_plain_caching() -> None:
    found = simulated(days=1, seed=7)
    plain, floors, ahead, both = (found[name] for name in WAYS)
    assert plain.requests == floors.requests == ahead.requests == both.requests > 5_000
    assert both.waits < min(floors.waits, ahead.waits) < plain.waits
    assert both.waited < min(floors.waited, ahead.waited)
    assert both.runs <= plain.runs
    assert both.executions <= plain.executions
    assert ahead.ahead > both.ahead > 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_table_in_the_docs_is_the_one_that_the_command_makes() -> None:
    shown = re.search(f"{BEGIN}(.*){END}", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == table(simulated(days=7))

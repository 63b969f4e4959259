"""The short form of the isolation fuzz, and the proof that its oracle sees what it should."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from support.calls import token
from support.clocks import TurnableClock
from support.length import TIMES

from gateway.executions.guard import Guard
from gateway.executions.job_search import JobFinder
from gateway.policy import access
from gateway.policy.context import RequestContext
from gateway.policy.plan import Plan
from gateway.results import metadata
from gateway.results.bindings import Bindings
from gateway.results.definitions import Definitions
from gateway.results.fetcher import ResultFetcher

from .isolation import fuzz
from .isolation_redash import Redash
from .isolation_requests import Draw, Memory, in_form, object_of
from .isolation_setup import PEOPLE, first_setup

REQUESTS = 5_000 * TIMES
SEARCH = 12_000


async def test_no_row_job_or_key_reaches_a_client_that_may_not_have_it(note: Callable[[str], None]) -> None:
    made = await fuzz(1, REQUESTS)
    note(made.summary())
    assert not made.findings, "\n".join(made.findings)
    assert len(made.redash.born) > 50, "too few runs gave rows that could be judged"
    assert {"hit", "miss", "collapsed", "denied"} <= made.figures.cache.keys()
    assert {status for _, status in made.figures.sent} >= {"200", "401", "403", "404"}


def test_a_request_made_of_another_one_has_the_token_of_the_same_person() -> None:
    """Without it, it is a request of `anonymous`, and the oracle judges it by the rights of somebody else."""
    redash, memory = Redash(TurnableClock()), Memory()
    draw = Draw(redash, first_setup(redash), memory, Random(1))
    drawn = [draw.request(kind) for kind in ("get", "post", "latest") for _ in range(100)]
    memory.jobs.extend((str(number), sent) for number, sent in enumerate(drawn) if sent.kind == "get")
    made = [other for sent in drawn for other in (object_of(sent), in_form(sent, "csv"))]
    for sent in [*drawn, *made, *(draw.request("go on") for _ in range(100))]:
        shown = f"{sent.target} {sent.fields}"
        assert [person for person in PEOPLE if token(person) in shown] == [sent.person] * bool(sent.person), sent


# -- faults that it finds: each takes one check out of the gateway


async def _nothing(*_: Any, **__: Any) -> None:
    return None


async def _true(*_: Any) -> bool:
    return True


async def _any_job(self: Any, operation: Any, *_: Any) -> Any:
    job, execution = await self._known(operation.job_id)
    if job is None:
        raise access.Forbidden("no such job")
    return (job, execution) if execution is not None else await self._run_of(job)


async def _old_definition(self: Any, credential: Any, query_id: int, sender: Any) -> Any:
    return self._known.get((query_id, credential.scope)) or await self._read(credential, query_id, sender)


_make = access._credential


def _one_scope(*arguments: Any) -> Any:
    return msgspec.structs.replace(_make(*arguments), scope="0" * 32)


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "bindings are not checked": (Bindings, "_allowed", _nothing),
    "a job is everybody's": (JobFinder, "find", _any_job),
    "what Redash refuses stays": (Definitions, "deny", _nothing),
    "the object of a refused query stays": (metadata.Metadata, "drop_object", lambda *_: None),
    "definitions are never read again": (Definitions, "get", _old_definition),
    "all keys share one scope": (access, "_credential", _one_scope),
    "a reload does not judge what is under way": (RequestContext, "check_delivery", lambda *_: None),
    "the SQL of a result is not compared": (Guard, "has_requested_sql", _true),
    "a rendering belongs to a number": (ResultFetcher, "_check_unchanged", _nothing),
    "free SQL needs no check": (Plan, "shown_lately", lambda *_: math.inf),
    "keys stay in objects": (metadata, "without_keys", lambda data: data),
}


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_oracle_finds_a_gateway_without_one_check(
    fault: str, monkeypatch: pytest.MonkeyPatch, note: Callable[[str], None]
) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    made = await fuzz(1, SEARCH, most=1)
    assert made.findings
    assert "internal error" not in made.findings[0], "the fault is no longer one of this gateway's"
    note(f"{fault}: found after {made.figures.sent.total()} requests: {made.findings[0].splitlines()[0]}")

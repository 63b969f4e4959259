"""`[[warm]] popular`: what callers ask for most is renewed just before it expires, within a budget.

The gateway looks each hundredth of a second what is due; its clock stands still except for `turn`.
"""

from __future__ import annotations

import pytest
from support.documents import configuration_with
from support.waiting import until
from support.world import World

from gateway.sandbox.sample_objects import parameter
from gateway.warming import renewer

pytestmark = pytest.mark.standing_clock

LIFE = 600
WAIT = {"Prefer": "wait=10"}


class Steps:
    """Counts how often the gateway has looked what is due."""

    def __init__(self) -> None:
        self.count = 0

    async def pass_by(self) -> None:
        """Wait until it has looked at least once from now on, to the end."""
        before = self.count
        await until(lambda: self.count >= before + 2)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    made, step = Steps(), renewer.Renewer.step

    async def counted(self: renewer.Renewer) -> None:
        await step(self)
        made.count += 1

    monkeypatch.setattr(renewer, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(renewer.Renewer, "step", counted)
    return made


@pytest.fixture(autouse=True)
def a_query_without_a_result(bare: World) -> None:
    bare.named["popular"] = bare.sandbox.add_query("popular", "select run_number() as run")


def popular(most: int = 20, budget: str = "10m/h", credential: str = "analyst", **more: str) -> str:
    """One entry of the configuration."""
    keys = "".join(f'{name} = "{value}"\n' for name, value in more.items())
    return f'\n[[warm]]\npopular = {most}\nwithin = "1d"\nbudget = "{budget}"\ncredential = "{credential}"\n{keys}'


async def asked(world: World, name: int | str = "popular", times: int = 1, **more: object) -> list[str]:
    """Ask so often; returns what Cache-Status says of each response."""
    said = [(await world.post(name, **{"max_age": LIFE, "wait": 10, **more})).cache for _ in range(times)]
    world.runtime.api.cache.flush_all()  # requests are counted within a second; here no time passes
    world.runtime.telemetry.observer.flush()
    return said


async def renewed(world: World, steps: Steps, started: int) -> None:
    """Wait until Redash has begun so many runs and nothing is under way; fail if it begins more."""
    await world.sandbox.wait_until(lambda: world.started >= started)
    await until(lambda: not world.runtime.executions.flights.running)
    await steps.pass_by()
    assert world.started == started


def expire(world: World, *, before: float = 2.0) -> None:
    """Turn the clock to shortly before what was just stored is too old."""
    world.clock.turn(LIFE - before)


async def test_nobody_waits_for_what_is_asked_for_again_and_again(bare: World, steps: Steps) -> None:
    # Recipe of docs/freshness.md.
    await bare.start("\n" + configuration_with("freshness.md", "popular").replace('"reporting"', '"analyst"'))
    assert "fwd=" in (await asked(bare))[0]
    for runs in (2, 3, 4):
        expire(bare)
        await renewed(bare, steps, runs)
        bare.clock.turn(3)
        assert "; hit" in (await asked(bare))[0]
    assert await bare.metric("redash_gateway_refresh_ahead_total", result="success") == 3
    assert await bare.metric("redash_gateway_refresh_ahead_saved_waits_total") >= 2
    assert await bare.metric("redash_gateway_warm_runs_total", result="success") == 3
    async with bare.session.get(bare.admin + "/", headers={"Accept": "text/html"}) as response:
        assert "popular 20 of analyst" in await response.text()


async def test_it_is_not_renewed_before_it_is_about_to_expire(bare: World, steps: Steps) -> None:
    await bare.start(popular())
    await asked(bare, times=2)
    expire(bare, before=30)
    await renewed(bare, steps, 1)


async def test_nothing_is_renewed_that_nobody_asked_for_since_the_last_time(bare: World, steps: Steps) -> None:
    await bare.start(popular())
    await asked(bare, times=5)
    expire(bare)
    await renewed(bare, steps, 2)
    for _ in range(3):
        bare.clock.turn(LIFE)
        await renewed(bare, steps, 2)


async def test_hits_of_the_fast_path_count_as_asked_for(bare: World, steps: Steps) -> None:
    await bare.start(popular())
    await asked(bare)
    expire(bare)
    await renewed(bare, steps, 2)
    bare.clock.turn(5)
    await asked(bare, times=6)  # from the third one on, these are sent without a look-up
    expire(bare)
    await renewed(bare, steps, 3)


async def test_only_the_most_popular_ones_are_renewed(bare: World, steps: Steps) -> None:
    country = parameter("country", "enum", "DE", enumOptions="DE\nFR\nIT")
    query = bare.sandbox.add_query("by", "select '{{ country }}' as c, run_number() as run", parameters=[country])
    await bare.start(popular(most=2))
    for value, times in (("DE", 3), ("FR", 1), ("IT", 2)):
        await asked(bare, query, times, parameters={"country": value})
    assert bare.started == 3
    bare.clock.turn(31)  # what is popular is looked up anew each half minute
    await steps.pass_by()
    expire(bare, before=33)
    await renewed(bare, steps, 5)
    bare.clock.turn(15)
    for value in ("DE", "IT"):
        assert "; hit" in (await asked(bare, query, parameters={"country": value}))[0]
    assert "fwd=stale" in (await asked(bare, query, parameters={"country": "FR"}))[0]


async def test_other_credentials_and_free_sql_are_none_of_its_business(bare: World, steps: Steps) -> None:
    await bare.start(popular(credential="admin"))
    await asked(bare, times=3)
    sql = {"data_source_id": 1, "query": "select 1 as a", "max_age": LIFE}
    assert (await bare.call("POST", "/api/query_results", sql, client="sql", headers=WAIT)).status == 200
    before = bare.started
    expire(bare)
    await renewed(bare, steps, before)


async def test_nothing_starts_that_the_budget_has_no_room_for(bare: World, steps: Steps) -> None:
    await bare.start(popular(budget="60s/h"))
    for name, seconds in (("now", 50.0), ("kb1", 40.0), ("by_country", 5.0)):
        bare.sandbox.add_first_result(bare.named[name], runtime=seconds)
    for name in ("now", "now", "now", "kb1", "kb1"):
        await asked(bare, name)
    await asked(bare, "by_country", parameters={"country": "DE"})
    assert bare.started == 0
    bare.clock.turn(31)
    await steps.pass_by()
    expire(bare, before=33)
    # 50 s are reserved for the most popular one while it runs: 40 s do not fit beside it, 5 s do.
    holds = [bare.sandbox.hold(bare.named[name]) for name in ("now", "by_country")]
    await bare.sandbox.wait_executions(2)
    await steps.pass_by()
    assert bare.sandbox.counters.started_by_query == {bare.named["now"]: 1, bare.named["by_country"]: 1}
    assert await bare.metric("redash_gateway_refresh_ahead_total", result="over_budget") == 1
    for hold in holds:
        hold.release()


async def test_quiet_hours_are_those_of_the_time_zone(bare: World, steps: Steps) -> None:
    # The clock begins at 08:00 UTC: 17:00 in Tokyo.
    await bare.start(popular(quiet="16:30-18:00"), cache='timezone = "Asia/Tokyo"')
    await asked(bare)
    expire(bare)
    await renewed(bare, steps, 1)
    bare.clock.turn(3_600 - LIFE + 2)  # 18:00: what was asked for before the quiet is there in the morning
    await renewed(bare, steps, 2)
    assert "; hit" in (await asked(bare))[0]


async def test_callers_come_first(bare: World, steps: Steps) -> None:
    await bare.start(popular(), upstream="max_executions = 1")
    await asked(bare)
    async with bare.sandbox.hold(bare.named["slow_seconds"]):
        job = (await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job
        await bare.sandbox.wait_executions(2)
        expire(bare)
        await renewed_not(bare, steps)
    await bare.finish(job["id"])
    await bare.sandbox.wait_executions(3)


async def renewed_not(world: World, steps: Steps) -> None:
    """Nothing is begun for a while."""
    before = world.started
    await steps.pass_by()
    assert world.started == before


async def test_what_was_asked_for_and_spent_survives_a_restart(bare: World, steps: Steps) -> None:
    await bare.start(popular(budget="60s/h"))
    bare.sandbox.add_first_result(bare.named["now"], runtime=50.0)
    bare.sandbox.add_first_result(bare.named["kb1"], runtime=55.0)
    await asked(bare, "now", 2)
    await asked(bare, "kb1")
    [ahead] = bare.runtime.warmer.aheads.values()
    ahead.account.spend(bare.clock.monotonic(), 8.0)
    await bare.restart()
    await steps.pass_by()
    bare.clock.turn(31)
    await steps.pass_by()
    expire(bare, before=33)
    await bare.sandbox.wait_executions(1)
    await steps.pass_by()
    assert bare.sandbox.counters.started_by_query == {bare.named["now"]: 1}  # 55 s do not fit beside the 8 s
    [ahead] = bare.runtime.warmer.aheads.values()
    assert ahead.account.spent(bare.clock.monotonic()) >= 8.0


async def test_a_reload_changes_how_many_and_forgets_nothing(bare: World, steps: Steps) -> None:
    await bare.start(popular(budget="1s/d"))
    bare.sandbox.add_first_result(bare.named["popular"], runtime=50.0)
    await asked(bare, times=2)
    expire(bare)
    await renewed(bare, steps, 0)
    bare.reconfigure(bare.text.replace("1s/d", "10m/h"))
    await renewed(bare, steps, 1)


async def test_a_failure_is_counted_and_tried_again_only_when_it_is_asked_for(bare: World, steps: Steps) -> None:
    query = bare.sandbox.add_query("fails", "select 1 as a")
    await bare.start(popular())
    await asked(bare, query)
    bare.sandbox.database.queries[query].query = "select a from nowhere"  # no edit that the definition shows
    expire(bare)
    await until(lambda: bare.runtime.warmer.ahead.failed == 1)
    await renewed_not(bare, steps)
    bare.clock.turn(1)
    assert "; hit" in (await asked(bare, query))[0]  # the earlier result still serves
    await until(lambda: bare.runtime.warmer.ahead.failed == 2)


async def test_a_query_that_comes_to_take_sql_is_not_run_for_earlier_callers(bare: World, steps: Steps) -> None:
    query = bare.sandbox.add_query("edited", "select 1 as a, run_number() as run")
    await bare.start(popular())
    await asked(bare, query)
    bare.sandbox.edit_query(query, query="select {{ column }} as a")
    expire(bare)
    await until(lambda: bare.runtime.warmer.ahead.failed == 1)
    assert bare.started == 1


async def test_what_redash_refreshes_by_schedule_is_left_to_redash(bare: World, steps: Steps) -> None:
    schedule = {"interval": 1_800, "time": None, "day_of_week": None, "until": None}
    query = bare.sandbox.add_query("scheduled", "select run_number() as run", schedule=schedule)
    bare.sandbox.add_first_result(query)
    await bare.start(popular(), cache="follow_schedule = true")
    await asked(bare, query, 3)
    bare.clock.turn(1_799)
    await renewed(bare, steps, 0)

"""Executions of the sandbox: jobs, joining, holds, the cache and its flaw."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sandbox import Sandbox

from .conftest import Client, Clock


async def test_a_job_passes_queued_and_started_to_its_result(client: Client, sandbox: Sandbox) -> None:
    queue, run = sandbox.hold_queue(), sandbox.hold()
    posted = await client.execute(sandbox.named["by_country"], max_age=0)
    path = f"/api/jobs/{posted.json['job']['id']}"
    assert (await client.get(path)).json["job"]["status"] == 1
    queue.release()
    await sandbox.wait_executions(1)
    started = (await client.get(path)).json["job"]
    assert (started["status"], started["updated_at"]) == (2, "2026-11-18T11:06:40.250")
    run.release()
    await sandbox.wait_idle()
    finished = (await client.get(path)).json["job"]
    assert (finished["status"], finished["updated_at"]) == (3, 0)
    assert sandbox.queries[sandbox.named["by_country"]].latest_query_data_id == finished["query_result_id"]


async def test_identical_executions_of_all_callers_are_joined(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["slow"]
    with sandbox.hold():
        keys = ["analyst", "admin", "viewer", sandbox.query_key(query_id)]
        posted = await asyncio.gather(*(client.execute(query_id, key=key, max_age=0) for key in keys))
        text = sandbox.queries[query_id].query.upper().replace("SLEEP", "sleep")
        other = await client.request(
            "POST", "/api/query_results", json={"query": text, "data_source_id": 1, "max_age": 0}
        )
        await sandbox.wait_executions(2)
    assert len({response.json["job"]["id"] for response in posted}) == 1
    assert other.json["job"]["id"] != posted[0].json["job"]["id"]  # case matters
    assert sandbox.counters.posts == {query_id: 4, 0: 1}
    assert sandbox.counters.started_by_query == {query_id: 1, 0: 1}


async def test_white_space_in_a_literal_gets_the_rows_of_another_value(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["city_enum"]
    right = await client.result_of(await client.execute(query_id, max_age=0, parameters={"city": "New York"}))
    wrong = await client.execute(query_id, parameters={"city": "NewYork"})
    assert wrong.json["query_result"]["data"] == right["data"]
    assert "'New York'" in wrong.json["query_result"]["query"]


async def test_white_space_in_a_literal_is_joined_in_flight(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["customers_in_city"]
    with sandbox.hold():
        first = await client.execute(query_id, max_age=0, parameters={"city": "New York"})
        second = await client.execute(query_id, max_age=0, parameters={"city": "NewYork"})
    assert first.json["job"]["id"] == second.json["job"]["id"]


async def test_both_cities_exist_with_other_rows(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["city_enum"]
    rows = []
    for city in ("New York", "NewYork"):
        started = await client.execute(query_id, max_age=0, parameters={"city": city})
        rows.append((await client.result_of(started))["data"]["rows"])
    assert rows[0] != rows[1]


async def test_the_lock_is_released_before_the_result_is_stored(sandbox: Sandbox, client: Client) -> None:
    query_id = sandbox.add_query("Never seen", "select 17 as seen")
    seen: list[bool] = []
    keep = sandbox.database.put_result

    def watched(result: object) -> None:
        seen.append(sandbox.jobs.is_running(sandbox.queries[query_id].query_hash, 1))
        keep(result)  # type: ignore[arg-type]

    sandbox.database.put_result = watched  # type: ignore[method-assign]
    await client.execute(query_id)
    await sandbox.wait_idle()
    assert seen == [False]


@pytest.mark.parametrize(("age", "executes"), [(600, False), (600.001, True)])
async def test_freshness_is_inclusive(
    client: Client, sandbox: Sandbox, clock: Clock, age: float, executes: bool
) -> None:
    clock.seconds += age
    response = await client.execute(sandbox.named["kb1"], max_age=600)
    assert ("job" in response.json) is executes


async def test_cancelling_fails_the_job_for_all_and_frees_the_worker(client: Client, sandbox: Sandbox) -> None:
    posted = await client.execute(sandbox.named["slow"], max_age=0)
    await sandbox.wait_executions(1)
    path = f"/api/jobs/{posted.json['job']['id']}"
    assert (await client.request("DELETE", path, key="outsider")).json is None
    job = (await client.get(path)).json["job"]
    assert (job["status"], job["error"]) == (4, "Query cancelled by user.")
    again = await client.execute(sandbox.named["slow"], max_age=0)
    assert again.json["job"]["id"] != job["id"]


async def test_a_failing_query_has_the_database_error(client: Client, sandbox: Sandbox) -> None:
    posted = await client.execute(sandbox.named["failing"], max_age=0)
    await sandbox.wait_idle()
    job = (await client.get(f"/api/jobs/{posted.json['job']['id']}")).json["job"]
    assert (job["status"], job["error"]) == (4, "no such table: no_such_table")


async def test_no_more_executions_run_at_once_than_there_are_workers(clock: Clock) -> None:
    async with Sandbox(now=clock, workers=2, orders=200) as sandbox:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            client = Client(sandbox, session)
            with sandbox.hold():
                for seconds in (1, 2, 3):
                    await client.execute(
                        sandbox.named["slow_seconds"], max_age=0, parameters={"seconds": seconds / 1e3}
                    )
                await sandbox.wait_executions(2)
                assert sandbox.counters.started == 2
            await sandbox.wait_finished(3)


async def test_json_bytes_are_the_same_on_all_routes(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["kb1"]
    result_id = sandbox.queries[query_id].latest_query_data_id
    paths = (
        f"/api/queries/{query_id}/results",
        f"/api/queries/{query_id}/results.json",
        f"/api/queries/{query_id}/results/{result_id}.json",
        f"/api/query_results/{result_id}",
        f"/api/query_results/{result_id}.json",
    )
    bodies = {(await client.get(path)).body for path in paths} | {(await client.execute(query_id)).body}
    assert len(bodies) == 1
    key = sandbox.query_key(query_id)
    assert (await client.get(paths[1], key=key)).body in bodies
    assert set((await client.execute(query_id, key=key)).json["query_result"]) == {"data", "retrieved_at"}


async def test_sizes_of_the_sample_results(client: Client, sandbox: Sandbox) -> None:
    sizes = {}
    for short in ("kb1", "kb100", "large"):
        sizes[short] = len((await client.get(f"/api/queries/{sandbox.named[short]}/results.json")).body)
    assert 900 < sizes["kb1"] < 1_300
    assert 75_000 < sizes["kb100"] < 120_000
    assert sizes["large"] >= 5_000_000


async def test_every_sample_query_runs_with_its_defaults(client: Client, sandbox: Sandbox) -> None:
    for short, query_id in sandbox.named.items():
        if short not in ("failing", "no_data", "undeclared", "slow", "slow_seconds", "large"):
            result = await sandbox.execute_directly(query_id)
            assert result.data["columns"], short
    assert sandbox.counters.started == 0


async def test_a_run_knows_its_data_source(client: Client, sandbox: Sandbox) -> None:
    text = "select data_source_id() as source"
    for source in (1, 2):
        query_id = sandbox.add_query("which", text, data_source_id=source)
        await client.execute(query_id, key="admin", max_age=0)
        await sandbox.wait_idle()
        rows = (await client.get(f"/api/queries/{query_id}/results.json", key="admin")).json["query_result"]["data"][
            "rows"
        ]
        assert rows == [{"source": source}]
        assert (await sandbox.execute_directly(query_id)).data["rows"] == rows


async def test_an_execution_directly_in_redash_makes_a_newer_result(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["now"]
    before = (await client.execute(query_id)).json["query_result"]
    after = await sandbox.execute_directly(query_id)
    found = (await client.execute(query_id)).json["query_result"]
    assert found["id"] == after.id != before["id"]
    assert found["data"] != before["data"]


async def test_an_edit_moves_the_marker_and_the_hash_but_not_what_users_get(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["kb1"]
    before = (await client.get(f"/api/queries/{query_id}")).json
    sandbox.edit_query(query_id, query="select 5 as five")
    after = (await client.get(f"/api/queries/{query_id}")).json
    assert after["updated_at"] > before["updated_at"]
    assert after["version"] == before["version"] == 1
    assert after["query_hash"] != before["query_hash"]
    path = f"/api/queries/{query_id}/results.json"
    assert (await client.get(path)).json["query_result"]["id"] == before["latest_query_data_id"]
    assert (await client.get(path, key=sandbox.query_key(query_id))).status == 404
    sandbox.edit_query(query_id, query=before["query"])
    assert (await client.get(path, key=sandbox.query_key(query_id))).status == 200


async def test_a_query_key_cannot_read_the_result_of_other_parameters(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["above"]
    key = sandbox.query_key(query_id)
    posted = await client.execute(query_id, key=key, max_age=0, parameters={"min_amount": 300})
    result = await client.result_of(posted)
    nested = await client.get(f"/api/queries/{query_id}/results/{result['id']}.json", key=key)
    assert (nested.status, nested.json) == (404, {"message": "No cached result found for this query."})
    inline = await client.execute(query_id, key=key, parameters={"min_amount": 300})
    assert inline.json["query_result"]["data"] == result["data"]


async def test_a_public_token_executes_any_safe_query_on_its_board(client: Client, sandbox: Sandbox) -> None:
    token = sandbox.dashboard_token(2)
    restricted = await client.execute(sandbox.named["restricted"], key=token)
    assert set(restricted.json["query_result"]) == {"data", "retrieved_at"}
    assert (await client.execute(sandbox.named["customers_in_city"], key=token)).status == 403
    assert (await client.get(f"/api/queries/{sandbox.named['restricted']}/results", key=token)).status == 403


async def test_a_paused_source_refuses_cached_results_too(client: Client, sandbox: Sandbox) -> None:
    await client.request("POST", "/api/data_sources/1/pause", key="admin", json={"reason": "upgrade"})
    response = await client.execute(sandbox.named["kb1"])
    assert (response.status, response.json["job"]["error"]) == (400, "Shop is paused (upgrade). Please try later.")
    assert (await client.get(f"/api/queries/{sandbox.named['kb1']}/results")).status == 200


async def test_jobs_expire_after_twelve_hours(client: Client, sandbox: Sandbox, clock: Clock) -> None:
    posted = await client.execute(sandbox.named["kb1"], max_age=0)
    await sandbox.wait_idle()
    path = f"/api/jobs/{posted.json['job']['id']}"
    clock.seconds += 12 * 3600
    assert (await client.get(path)).json["job"]["status"] == 3
    clock.seconds += 1
    assert (await client.get(path)).status == 500


async def test_old_results_are_removed_unless_a_query_points_at_them(
    client: Client, sandbox: Sandbox, clock: Clock
) -> None:
    query_id = sandbox.named["above"]
    other = await client.result_of(await client.execute(query_id, max_age=0, parameters={"min_amount": 300}))
    clock.seconds += 8 * 86400
    assert sandbox.clean_up() == [other["id"]]
    assert (await client.get(f"/api/query_results/{other['id']}")).status == 404
    assert (await client.get(f"/api/queries/{query_id}/results")).status == 200


async def test_hundreds_of_callers_of_one_query_are_one_execution(client: Client, sandbox: Sandbox) -> None:
    query_id = sandbox.named["slow"]
    with sandbox.hold():
        posted = await asyncio.gather(*(client.execute(query_id, max_age=0) for _ in range(300)))
    assert len({response.json["job"]["id"] for response in posted}) == 1
    assert (sandbox.counters.posts[query_id], sandbox.counters.jobs) == (300, 1)


async def test_spreadsheets_are_zip_files(client: Client, sandbox: Sandbox) -> None:
    response = await client.get(f"/api/queries/{sandbox.named['kb1']}/results.xlsx")
    assert response.body.startswith(b"PK")

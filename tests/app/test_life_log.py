"""The log says when the gateway begins to stop, what it waits for, how it ended, and what the next process takes up."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import until
from support.world import World

FIRST_WORDS = ("stopping", "every response", "requests in progress are cut off", "stopped", "following", "execution ")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    """The lines about stopping and resuming with their fields, in order."""
    found = [(record.getMessage(), dict(getattr(record, "fields", {}))) for record in caplog.records]
    return [(text, fields) for text, fields in found if text.startswith(FIRST_WORDS) and "ended" not in text]


async def test_a_stop_and_what_the_next_process_goes_on_with(bare: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.events")
    await bare.start()
    hold = bare.sandbox.hold()
    job = (await bare.post("by_country", max_age=0)).job
    await bare.sandbox.wait_executions(1)
    waiting = asyncio.create_task(bare.get(f"/api/jobs/{job['id']}", Prefer="wait=20"))
    await until(lambda: bare.runtime.api.api.requests_in_progress == 1)
    stop = asyncio.create_task(bare.runtime.stop())
    assert (await waiting).status == 200
    await stop
    said = lines(caplog)
    assert [text for text, _ in said] == [
        "stopping: open requests have 2 s to end",
        "every response is complete",
        "stopped",
    ]
    begun, _, ended = (fields for _, fields in said)
    assert (begun["requests"], begun["runs"]) == (1, 1)
    assert begun["connections"] == 1
    assert (ended["responses_cut_off"], ended["runs_left"]) == (0, 1)

    caplog.clear()
    await bare.session.close()
    await bare.resume()
    (summary, _), (text, fields) = lines(caplog)
    assert summary == "following 1 executions that an earlier process began"
    assert (text, fields["query"]) == ("execution resumed", bare.named["by_country"])
    assert await bare.metric("redash_gateway_resumed_executions_total") == 1
    hold.release()
    assert (await bare.finish(job["id"]))["status"] == 3
    (ended,) = [record.fields for record in caplog.records if record.getMessage() == "execution ended"]
    assert ended["execution"] == fields["execution"]


async def test_requests_that_are_cut_off_are_counted_in_the_log(bare: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.events")
    await bare.start()
    bare.reconfigure(bare.text.replace('drain_timeout = "2s"', 'drain_timeout = "50ms"'))
    bare.sandbox.faults.add("hang")
    caller = asyncio.create_task(bare.get("/api/queries"))
    await until(lambda: bare.runtime.api.api.requests_in_progress == 1)
    await bare.runtime.stop()
    await asyncio.gather(caller, return_exceptions=True)
    assert [(text, fields.get("requests")) for text, fields in lines(caplog)][1] == (
        "requests in progress are cut off: they did not end within server.drain_timeout",
        1,
    )


async def test_a_run_that_cannot_be_resumed_says_why(bare: World, caplog: pytest.LogCaptureFixture) -> None:
    await bare.start()
    hold = bare.sandbox.hold()
    await bare.post("by_country", max_age=0)
    await bare.sandbox.wait_executions(1)
    await bare.stop()
    bare.text = bare.text.replace('key_env = "KEY_ANALYST"', 'key_env = "KEY_ADMIN"')
    await bare.resume()
    hold.release()
    ((text, fields),) = lines(caplog)
    assert text == (
        "execution not resumed: The credential of this execution is no longer configured; run the query again."
    )
    assert fields["execution"]


async def test_a_gateway_that_never_served_stops_without_a_word(bare: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.events")
    await bare.start()
    await bare.runtime.stop()
    caplog.clear()
    await bare.runtime.stop()
    assert lines(caplog) == []

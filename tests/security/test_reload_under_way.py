"""What is under way when the configuration changes ends with what it began with; what is delivered is judged by the
configuration in force when the response begins (DESIGN 5).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.http import Reply
from support.inside import waiters
from support.waiting import until

from gateway import config

from .front import Front, Upstream, client, credential, key, token
from .test_reload import Redash, configure, reload


@pytest.fixture
def redash() -> Redash:
    return Redash()


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    configure(made, client("one"), client("two"))
    async with made:
        yield made


async def held(front: Front, *, who: str = "one", query: int = 5) -> asyncio.Task[Reply]:
    """Let a client wait for a run."""
    before = waiters(front.runtime)
    path, headers = f"/api/queries/{query}/results", {"Prefer": "wait=30"}
    call = front.call("POST", path, {"max_age": 0}, client=who, headers=headers)
    task = asyncio.create_task(call)
    await until(lambda: waiters(front.runtime) == before + 1)
    return task


async def begin(front: Front, who: str = "one") -> str:
    return str((await front.call("POST", "/api/queries/5/results", {"max_age": 0}, client=who)).job["id"])


async def poll(front: Front, job: str, who: str | None = "one", **headers: str) -> Reply:
    return await front.call("GET", f"/api/jobs/{job}", client=who, headers={"Prefer": "wait=10", **headers})


# -- another Redash


async def test_no_key_reaches_another_host_than_its_own(front: Front, redash: Redash, upstream: Upstream) -> None:
    """URL, key and scope of a credential are one value: a job under way is followed where it began."""
    waiting = await held(front)
    async with Upstream(Redash()) as other:
        front.url_upstream = other.url
        (front.directory / "user.key").write_text(key("fresh"))
        configure(front, client("one"), client("two"))
        assert (await reload(front))[0] == 200
        upstream.drain()
        redash.done.set()
        reply = await waiting
        assert b"user0K" not in reply.body
        assert reply.status == 503
        assert upstream.log
        assert {seen.key for seen in upstream.log} == {key("user")}
        assert (await front.call("GET", "/api/queries/5/results.json", client="one")).rows == [{"who": "fresh0"}]
        assert {seen.key for seen in other.log} == {key("fresh")}
        upstream.drain()
        assert (await front.call("GET", "/api/session", client="one")).json == {"who": "fresh0"}
        assert not upstream.log


async def test_a_job_of_another_redash_says_so(front: Front, redash: Redash) -> None:
    """Its result id would name another result there."""
    job = await begin(front)
    async with Upstream(Redash()) as other:
        front.url_upstream = other.url
        configure(front, client("one"), client("two"))
        assert (await reload(front))[0] == 200
        redash.done.set()
        view = (await poll(front, job)).job
        assert (view["status"], view["query_result_id"]) == (4, None)
        assert "run the query again" in view["error"]


# -- rights that became fewer

NARROWER = {
    "bound to another query": client("one", "queries = [6]"),
    "bound to a dashboard": client("one", "dashboards = [3]"),
    "may read only": client("one", 'can = ["read"]'),
    "another credential": client("one", credentials='"second"'),
    "keys hidden": client("one"),
    "text parameters": client("one", "reveal_keys = true"),
}


@pytest.mark.parametrize("change", NARROWER)
async def test_what_a_client_may_have_no_more_is_not_delivered(front: Front, redash: Redash, change: str) -> None:
    configure(front, client("one", "reveal_keys = true", "text_parameters = true"), client("two"))
    assert (await reload(front))[0] == 200
    waiting, other = await held(front), await held(front, who="two")
    configure(front, NARROWER[change], client("two"))
    assert (await reload(front))[0] == 200
    redash.done.set()
    reply = await waiting
    assert reply.status == 503
    assert reply.headers["Retry-After"] == "1"
    assert b"user0K" not in reply.body
    assert (await other).rows == [{"who": "user0K"}]


async def test_a_new_key_may_see_less(front: Front, redash: Redash) -> None:
    waiting = await held(front)
    (front.directory / "user.key").write_text(key("rotated"))
    assert (await reload(front))[0] == 200
    redash.done.set()
    assert (await waiting).status == 503


SAME_OR_MORE = {
    "nothing": client("one", "queries = [5, 6]"),
    "a rate": client("one", "queries = [5, 6]", 'rate = "50/s"'),
    "one query more": client("one", "queries = [5, 6, 7]"),
    "bound no more": client("one"),
    "another credential beside": client("one", "queries = [5, 6]", credentials='"user", "second"'),
}


@pytest.mark.parametrize("change", SAME_OR_MORE)
async def test_what_a_client_may_still_have_is_delivered(front: Front, redash: Redash, change: str) -> None:
    configure(front, client("one", "queries = [5, 6]"))
    assert (await reload(front))[0] == 200
    waiting = await held(front)
    configure(front, SAME_OR_MORE[change], client("three"))
    assert (await reload(front))[0] == 200
    redash.done.set()
    assert (await waiting).rows == [{"who": "user0K"}]


async def test_a_credential_may_get_another_name_meanwhile(front: Front, redash: Redash) -> None:
    waiting = await held(front)
    renamed = credential(front.directory, "user").replace("[credentials.user]", "[credentials.renamed]")
    front.write(renamed, client("one", credentials='"renamed"'))
    assert (await reload(front))[0] == 200
    redash.done.set()
    assert (await waiting).rows == [{"who": "user0K"}]


async def test_a_write_that_was_done_does_not_ask_to_be_sent_again(front: Front, upstream: Upstream) -> None:
    configure(front, client("one", 'can = ["read", "execute", "write"]'))
    assert (await reload(front))[0] == 200
    go_on, there = asyncio.Event(), upstream.respond

    async def slowly(seen: object) -> object:
        await go_on.wait()
        return await there(seen)  # type: ignore[arg-type, misc]

    upstream.respond = slowly  # type: ignore[assignment]
    upstream.drain()
    writing = asyncio.create_task(front.call("POST", "/api/queries", {"name": "x"}, client="one"))
    await until(lambda: len(upstream.log) == 1)
    configure(front, client("one", credentials='"second"'))
    assert (await reload(front))[0] == 200
    go_on.set()
    reply = await writing
    assert reply.status == 503
    assert "Retry-After" not in reply.headers
    assert "may have been made" in reply.json["detail"]


# -- a name that is given to somebody else


async def test_who_gets_a_name_does_not_inherit_its_jobs(front: Front, redash: Redash) -> None:
    job = await begin(front)
    given = client("one").replace(config.token_hash(token("one")), config.token_hash(token("two")))
    configure(front, given)
    assert (await reload(front))[0] == 200
    redash.done.set()
    assert (await poll(front, job, "two")).status == 404
    assert (await front.call("DELETE", f"/api/jobs/{job}", client="two")).status == 404


async def test_a_client_keeps_its_jobs_while_its_tokens_change_one_by_one(front: Front, redash: Redash) -> None:
    job = await begin(front)
    both = client("one").replace('"]', f'", "{config.token_hash(token("next"))}"]', 1)
    configure(front, both)
    assert (await reload(front))[0] == 200
    redash.done.set()
    assert (await poll(front, job, "next")).job["status"] == 3

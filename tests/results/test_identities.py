"""A new key of the same Redash user keeps what is stored; the key of another user, or an unknown one, gets nothing."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.calls import TOKENS
from support.clocks import TurnableClock
from support.http import Reply
from support.kept import KeptCaller
from support.process import Process
from support.world import World, configuration

from gateway import config
from gateway.admin.operations import Reloaded
from gateway.app.operations import RuntimeOperations
from gateway.policy.access import Credential
from gateway.sandbox import Sandbox
from gateway.sandbox.database import User

AGE = 86_400


class Keyed(World):
    """A world whose keys are in files, and reloads as `redash-gateway reload` does."""

    async def begin(self, store: str = "sqlite:gateway.db") -> None:
        self.text = configuration(self.sandbox, store, {}).replace("key_env", "key_file")
        for name in ("admin", "analyst"):
            self.put(name, self.user(name))
        narrow = self.named["in_country"]
        (self.directory / f"QUERY_KEY_{narrow}").write_text(self.sandbox.query_key(narrow))
        await self.resume()

    def user(self, name: str) -> User:
        return next(u for u in self.sandbox.database.users.values() if u.name.split()[-1].lower() == name)

    def put(self, credential: str, user: User) -> None:
        (self.directory / f"KEY_{credential.upper()}").write_text(user.api_key)

    def settings(self) -> config.Config:
        (self.directory / "config.toml").write_text(self.text)
        return config.load(self.directory / "config.toml", {})

    async def reload(self) -> Reloaded:
        return await RuntimeOperations(self.runtime, self.directory / "config.toml").reload()

    def regenerate(self, name: str) -> User:
        """As Redash does it: the old key is dead at once."""
        self._note_secrets()
        user = self.user(name)
        user.api_key = self.sandbox.database.new_key()
        return user

    async def learn(self) -> None:
        await self.runtime.results.identities.learn()

    def credential(self, name: str) -> Credential:
        return self.runtime.live.access.credentials[name]

    async def ask(self) -> Reply:
        return await self.post("by_country", max_age=AGE, wait=20)

    async def is_hit(self) -> bool:
        reply = await self.ask()
        assert reply.status == 200, reply.body
        return "; hit" in reply.cache


@pytest.fixture
async def keyed(tmp_path: Path, sandbox: Sandbox, clock: TurnableClock) -> AsyncIterator[Keyed]:
    made = Keyed(tmp_path, sandbox, clock)
    yield made
    await made.stop()


@pytest.mark.parametrize("store", ["memory:", "sqlite:gateway.db"])
async def test_a_new_key_of_the_same_user_keeps_its_hits(keyed: Keyed, store: str) -> None:
    await keyed.begin(store)
    await keyed.learn()
    rows = (await keyed.ask()).rows
    keyed.put("analyst", keyed.regenerate("analyst"))
    await keyed.reload()
    posts = keyed.sandbox.counters.posts.total()
    reply = await keyed.ask()
    assert "; hit" in reply.cache
    assert reply.rows == rows
    assert keyed.sandbox.counters.posts.total() == posts
    assert (await keyed.post("by_country", max_age=0, wait=20)).status == 200, "the new key works"


async def test_a_key_of_another_user_gets_nothing_of_it(keyed: Keyed) -> None:
    await keyed.begin()
    await keyed.learn()
    reply = await keyed.ask()
    job = (await keyed.post("by_country", max_age=0)).job["id"]
    result = reply.json["query_result"]["id"]
    scope = keyed.credential("analyst").scope
    keyed.put("analyst", keyed.user("viewer"))
    await keyed.reload()
    assert keyed.credential("analyst").scope != scope
    shown = (await keyed.get(f"/api/jobs/{job}")).job
    assert (shown["query_result_id"], "has changed" in shown["error"]) == (None, True)
    sent = len(keyed.sandbox.log)
    found = await keyed.get(f"/api/query_results/{result}")
    assert "; hit" not in found.cache
    assert len(keyed.sandbox.log) > sent, "Redash decides about what the other user had"
    assert not await keyed.is_hit()


async def test_a_dead_key_shows_nothing_but_loses_nothing(keyed: Keyed) -> None:
    """Between the change in Redash and the reload, the gateway cannot know whether the user may still see it."""
    await keyed.begin()
    await keyed.learn()
    assert (await keyed.ask()).status == 200
    user = keyed.regenerate("analyst")
    keyed.clock.turn(61)  # beyond `definition_check`
    assert [(await keyed.ask()).status for _ in range(2)] == [502, 502]
    fault = keyed.sandbox.faults.add("reset_before_headers")
    assert (await keyed.ask()).status in (502, 503), "not stale either: it was rejected before the outage"
    fault.clear()
    keyed.put("analyst", user)
    await keyed.reload()
    keyed.clock.turn(61)
    assert await keyed.is_hit()


async def test_a_restart_with_the_new_key_keeps_its_hits(keyed: Keyed) -> None:
    await keyed.begin()
    await keyed.learn()
    await keyed.ask()
    await keyed.stop()
    keyed.put("analyst", keyed.regenerate("analyst"))
    await keyed.resume()
    assert await keyed.is_hit()
    scope = keyed.credential("analyst").scope
    keyed.sandbox.faults.add("reset_before_headers")
    await keyed.restart()
    assert keyed.credential("analyst").scope == scope, "asked once, it is known without Redash"
    keyed.sandbox.faults.clear()


async def test_without_redash_nothing_is_shared_until_it_is_known(
    keyed: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    await keyed.begin()
    await keyed.learn()
    await keyed.ask()
    keyed.put("analyst", keyed.regenerate("analyst"))
    fault = keyed.sandbox.faults.add("reset_before_headers", route="/api/session")
    await keyed.reload()
    fault.clear()
    assert "credential 'analyst': Redash does not say whose its key is" in caplog.text
    assert not await keyed.is_hit()
    await keyed.learn()  # as it happens in the background; no scope changes under a request
    own = keyed.credential("analyst")
    assert own.scope == own.scope_of_key
    await keyed.reload()
    assert keyed.credential("analyst").scope != own.scope
    assert await keyed.is_hit()


async def test_another_address_is_another_redash(keyed: Keyed) -> None:
    """User 2 of another server is somebody else."""
    await keyed.begin()
    await keyed.learn()
    before = keyed.credential("analyst").scope
    keyed.text = keyed.text.replace(keyed.sandbox.url, keyed.sandbox.url.replace("127.0.0.1", "localhost"))
    keyed.settings()
    keyed.put("analyst", keyed.regenerate("analyst"))
    await keyed.reload()
    await keyed.learn()
    await keyed.reload()
    assert keyed.credential("analyst").scope != before


async def test_a_query_s_own_key_stays_for_itself(keyed: Keyed) -> None:
    await keyed.begin()
    await keyed.learn()
    narrow = keyed.credential("narrow")
    assert narrow.scope == narrow.scope_of_key
    assert "/api/session" not in {
        r.path_qs for r in keyed.sandbox.log if r.headers.get("Authorization") == f"Key {narrow.key.reveal()}"
    }


@pytest.mark.parametrize("seed", range(2))
async def test_no_two_users_ever_have_the_same_scope(keyed: Keyed, seed: int) -> None:
    """Whatever happens, in whatever order: keys of any user in any credential, outages, restarts, new e-mail addresses.

    A scope belongs to one user for ever; and a key that is known to be his has his scope after a reload.
    """
    draw = random.Random(seed)
    await keyed.begin()
    owners: dict[str, int] = {}
    adopted = 0
    for _ in range(15):
        name, user = draw.choice(["analyst", "admin"]), draw.choice(["analyst", "admin", "viewer"])
        if draw.random() < 0.5:
            keyed.regenerate(user)
        if draw.random() < 0.1:
            keyed.user(user).email = f"{draw.random()}@example.com"
        keyed.put(name, keyed.user(user))
        fault = keyed.sandbox.faults.add("reset_before_headers") if draw.random() < 0.3 else None
        await (keyed.restart() if draw.random() < 0.2 else keyed.reload())
        if fault is not None:
            fault.clear()
        else:
            await keyed.learn()
        for one in ("analyst", "admin"):
            credential = keyed.credential(one)
            adopted += credential.scope != credential.scope_of_key
            key = (keyed.directory / f"KEY_{one.upper()}").read_text()
            found = [u.id for u in keyed.sandbox.database.users.values() if u.api_key == key]
            for owner in found:
                assert owners.setdefault(credential.scope, owner) == owner
    assert adopted


async def test_a_running_gateway_learns_by_itself_and_keeps_its_hits_through_sighup(
    tmp_path: Path, sandbox: Sandbox, clock: TurnableClock
) -> None:
    written = Keyed(tmp_path, sandbox, clock)
    await written.begin()
    await written.stop()
    (tmp_path / "gateway.db").unlink()
    process = await Process.start("serve", "-c", str(tmp_path / "config.toml"), cwd=tmp_path)
    try:
        url, _ = await process.serving()
        caller = KeptCaller(url, TOKENS["dashboard"], keeps=False)
        path, body = f"/api/queries/{sandbox.named['by_country']}/results", {"max_age": AGE}
        first = await caller.call("POST", path, body, wait=20)
        # The session is requested for the version, and for the identity of two keys.
        await sandbox.wait_until(lambda: sandbox.counters.by_route["GET /api/session"] >= 3)
        written.put("analyst", written.regenerate("analyst"))
        process.child.send_signal(signal.SIGHUP)
        await process.says("credential 'analyst': a new key of the same Redash user; its results stay")
        await process.says("configuration loaded again; changed: credentials.analyst.key")
        reply = await caller.call("POST", path, body, wait=20)
        assert "; hit" in reply.headers["Cache-Status"]
        assert reply.rows == first.rows
        process.child.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
    finally:
        await process.kill()


async def test_a_reload_says_whether_redash_accepts_a_new_key_and_drops_what_it_said_of_the_old_one(
    keyed: Keyed,
) -> None:
    """A mistyped key is noticed at once. A repaired one is not shown as rejected until somebody uses it."""
    await keyed.begin()
    await keyed.learn()
    old = keyed.user("analyst").api_key
    file = keyed.directory / "KEY_ANALYST"
    file.write_text("x" * 40)
    assert (await keyed.reload()).notes == ["credentials.analyst: Redash does not accept the new key"]
    assert await keyed.metric("redash_gateway_credential_up", credential="analyst") == 0
    file.write_text(old)
    (note,) = (await keyed.reload()).notes  # known from before, so Redash is not asked again
    assert "`check --online` says if Redash accepts it" in note
    assert await keyed.metric("redash_gateway_credential_up", credential="analyst") == 1
    assert keyed.runtime.telemetry.recorder.accepted.get("analyst") is None
    keyed.put("analyst", keyed.regenerate("analyst"))
    assert (await keyed.reload()).notes == []
    assert keyed.runtime.telemetry.recorder.accepted["analyst"]

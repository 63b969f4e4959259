"""Every key of the configuration is live after a reload, or the reload says that it takes a restart."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from reload_cases import ELSEWHERE, LIVE, NEEDS, RESTART, UNSEEN, Case
from reload_lab import Lab, changed, document, lab, settings
from security.front import key
from support.process import certificate
from support.schema_keys import keys

from gateway.config import Config, parse, restart_needed

ROOT = Path(__file__).parents[2]


def test_every_key_is_in_one_of_the_tables() -> None:
    missing = sorted(keys().keys() - LIVE.keys() - RESTART.keys() - ELSEWHERE.keys())
    assert missing == [], "say how a change of these keys is seen after a reload, or that it takes a restart"
    known = LIVE.keys() | RESTART.keys() | ELSEWHERE.keys()
    assert sorted(known - keys().keys()) == [], "there are no such keys"
    assert LIVE.keys() & RESTART.keys() == {"server.tls_cert"}, "one key takes a restart for some changes only"


@pytest.mark.parametrize("test", ELSEWHERE.values())
def test_what_is_shown_elsewhere_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where certificates and keys are that a case names."""
    monkeypatch.setenv("KEY_OF_THE_RELOAD", key("rotated"))
    name = request.node.callspec.params["name"]
    if "tls" in name or "ca_file" in name:
        request.getfixturevalue("needs")("openssl")
        for made in ("first", "other"):
            certificate(tmp_path, made)
    return tmp_path


@pytest.mark.parametrize("name", RESTART)
def test_a_key_that_takes_a_restart_is_named(name: str, files: Path) -> None:
    def with_value(value: object) -> Config:
        more = {"server.tls_key": value and "{directory}/first.key.pem"} if name == "server.tls_cert" else {}
        given = {**NEEDS.get(name, {}), name: value, **more}
        base = settings(files, "http://redash.example")
        return parse(document(changed(base, given)).replace("{directory}", str(files)), files, os.environ)

    old, new = map(with_value, RESTART[name])
    assert restart_needed(old, new) == restart_needed(new, old) == [name]
    assert restart_needed(old, old) == restart_needed(new, new) == []


@pytest.mark.parametrize("name", LIVE)
async def test_a_key_is_live_after_a_reload(name: str, files: Path) -> None:
    case = LIVE[name]
    async with lab(files, {**case.given, name: case.old}) as made:
        if case.was is not UNSEEN:
            await sees(made, case, case.was)
        made.write({**case.given, **case.with_new, name: case.new})
        assert await made.reload() == []
        await sees(made, case, case.now)


async def sees(lab: Lab, case: Case, expected: object) -> None:
    """Warm queries run in the background: their cases are looked at again for a while."""
    seen = await case.see(lab)
    for _ in range(200):
        if seen == expected or not case.given.get("warm.every"):
            break
        await asyncio.sleep(0.01)
        seen = await case.see(lab)
    assert seen == expected


async def test_a_reload_names_a_change_until_it_is_taken_back(tmp_path: Path) -> None:
    async with lab(tmp_path, {}) as made:
        made.write({"log.format": "json", "log.access": True})
        assert await made.reload() == ["log.format has changed; this takes a restart"]
        assert await made.reload() == ["log.format has changed; this takes a restart"]
        made.write({"log.access": True})
        assert await made.reload() == []

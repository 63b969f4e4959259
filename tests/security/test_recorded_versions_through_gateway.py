"""The exchanges that were recorded with Redash 8, 10, 25 and 26, through the gateway: the same responses, except
declared differences. The sandbox of that version answers what the gateway asks for on its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from sandbox.recorded_versions import VERSIONS, prepared

from gateway.sandbox import Sandbox

from .declared import differences, reason, table
from .front import Front, Seen, Stub, Upstream
from .playback import Exchange, Playback, exchanges
from .wire import Got, ask


class PlaybackOfVersion:
    """Responds with what was recorded; the rest comes from the sandbox, in the state that the exchange needs."""

    def __init__(self, exchange: Exchange, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self._playback = Playback(exchange)
        self._sandbox = sandbox
        self._session = session

    async def __call__(self, seen: Seen) -> Stub:
        if self._playback.is_recorded(seen) and self._playback.exchange.body is not None:
            return _at_this_host(self._playback.recorded(), seen)
        if "/jobs/" in seen.path:  # of a run that only the recording has; a schema is read at once
            status, brought = (3, []) if self._playback.exchange.path.endswith("/schema") else (2, None)
            job = {"id": "x", "updated_at": 0, "status": status, "error": "", "query_result_id": brought}
            return Stub.json({"job": job})
        sent = {"Authorization": f"Key {seen.key}"}
        url = self._sandbox.url + seen.target
        async with self._session.request(
            seen.method, url, headers=sent, data=seen.body or None, allow_redirects=False
        ) as response:
            kept = ("Content-Type", "Content-Disposition", "Location")
            fields = {name: response.headers[name] for name in kept if name in response.headers}
            return Stub(response.status, await response.read(), fields)


def _at_this_host(stub: Stub, seen: Seen) -> Stub:
    """Redash makes absolute URLs with the host of the request, which was another one when it was recorded."""
    (host,) = seen.all("Host")
    moved = {name: re.sub(r"^http://127\.0\.0\.1:\d+", f"http://{host}", text) for name, text in stub.fields.items()}
    return replace(stub, fields=moved)


NO_RESULT_MEMBER = "jobs of Redash 8 have no `result`; the gateway's have, as those of later versions"
SUGGESTED = "Redash 8 adds the path of the request to its 404 texts; the gateway leaves it out"
QUOTED = "Redash 8 quotes every file name; the gateway does where it must"
NO_TSV = "Redash 8 gives CSV for TSV; the gateway says so in the file name, too"
UNKNOWN_JOB = "job ids are the gateway's own: others are 404"
SCHEMA = "the schema instead of the job that reads it: its id means nothing to callers"
OTHER_ROWS = "rows of SQL in another letter case are not passed on"


def named(disposition: str) -> str:
    return disposition.replace('"', "")


def declared(x: Exchange, ours: Got, found: list[str]) -> str | None:
    """Why the gateway responds differently, None if there is no good reason."""
    old = x.name.startswith("versions/v8")
    theirs, mine = x.json, ours.field("content-disposition")
    file_name = named(x.response.get("content-disposition", ""))
    rules = {
        NO_RESULT_MEMBER: old and found == ["body"] and b'"job"' in ours.body and "result" not in theirs["job"],
        SUGGESTED: old and found == ["body"] and ours.status == 404 and "requested this URI" in theirs["message"],
        QUOTED: old and found == ["content-disposition"] and named(mine) == file_name,
        NO_TSV: old and found == ["content-disposition"] and named(mine) == file_name.replace(".tsv", ".csv"),
        UNKNOWN_JOB: "/jobs/" in x.path and ours.status == 404,
        SCHEMA: x.path.endswith("/schema") and ours.body == b'{"schema":[]}',
        OTHER_ROWS: x.name.endswith("/case_2_upper_after_lower") and b"rows of another SQL" in ours.body,
    }
    return next((why for why, holds in rules.items() if holds), None) or reason(x, ours)


SHOWN = {"v8.0.0": {NO_RESULT_MEMBER, SUGGESTED, QUOTED, NO_TSV, OTHER_ROWS}, "v26.3.0": {SCHEMA}}
"""The differences above, by version: one that no longer exists is removed."""

AS_RECORDED = {"v8.0.0": 11, "v10.1.0": 24, "v25.1.0": 19, "v25.8.0": 23, "v26.3.0": 17}
"""How many exchanges of a version at least are the same byte for byte, or except keys and job ids."""


async def through_gateway(x: Exchange, directory: Path, session: aiohttp.ClientSession) -> tuple[Exchange, Got]:
    """The exchange, completed where its body was cut, and the gateway's response."""
    async with prepared(x.name) as (sandbox, _):
        if x.body is None:
            direct = await ask(sandbox.url, x.raw)
            x = replace(x, body=direct[-1].body)
        async with Upstream(PlaybackOfVersion(x, sandbox, session)) as upstream:
            front = Front(directory, upstream.url)
            front.write(table(directory, x), server='hosts = ["*"]')
            async with front:
                responses = await ask(front.url, x.raw)
    ours = responses[-1] if responses else Got(0, (), b"no response")
    return replace(x, response=_of_its_day(x, ours)), ours


def _of_its_day(x: Exchange, ours: Got) -> dict[str, str]:
    """The recorded header fields. What the recording lacks is made by the sandbox today, and its file is named so."""
    recorded, today = x.response.get("content-disposition", ""), datetime.now(UTC).strftime("_%Y_%m_%d.")
    if not recorded or today not in ours.field("content-disposition"):
        return x.response
    return {**x.response, "content-disposition": re.sub(r"_\d{4}_\d{2}_\d{2}\.", today, recorded)}


@pytest.mark.parametrize("version", sorted(VERSIONS))
async def test_every_recorded_response_of_a_version_comes_through_the_gateway(
    tmp_path: Path, note: Callable[[str], None], version: str
) -> None:
    wrong, counted = [], Counter[str]()
    recorded = exchanges(f"versions/{version}")
    async with aiohttp.ClientSession() as session:
        for exchange in recorded:
            x, ours = await through_gateway(exchange, tmp_path, session)
            found = differences(x, ours)
            why = declared(x, ours, found) if found else ""
            if why is None:
                wrong.append(
                    f"{x.name}: {x.method} {x.path}?{x.query} {found} recorded {x.status} {(x.body or b'')[:90]!r}"
                    f" ours {ours.status} {ours.body[:170]!r}"
                )
            else:
                counted[why] += 1
    same = counted.pop("", 0)
    reasons = "".join(f"\n  {number} {why}" for why, number in counted.most_common())
    note(f"{version}: {len(recorded)} recorded exchanges through the gateway, {same} the same{reasons}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)
    assert same >= AS_RECORDED[version]
    assert SHOWN.get(version, set()) <= counted.keys()


def test_the_recording_is_complete() -> None:
    assert sum(len(exchanges(f"versions/{version}")) for version in VERSIONS) == 150

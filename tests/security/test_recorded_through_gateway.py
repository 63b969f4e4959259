"""The recorded exchanges with the real Redash, through the gateway: the same responses, except declared differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .declared import BY_NAME, GET_FORM, differences, reason, table, without
from .front import Front, Upstream
from .playback import FOLDERS, Playback, exchanges
from .wire import Got, ask

AS_RECORDED = {
    "auth": 36,
    "queries": 85,
    "results_get": 71,
    "execute": 88,
    "jobs": 21,
    "dashboards": 57,
    "adhoc": 26,
    "misc": 37,
}
"""By folder, how many exchanges at least are the same byte for byte, or except keys and job ids."""


@pytest.mark.parametrize("folder", FOLDERS)
async def test_every_recorded_response_comes_through_the_gateway(
    tmp_path: Path, note: Callable[[str], None], folder: str
) -> None:
    wrong, counted, same, nulled = [], Counter[str](), 0, 0
    unexpected: list[str] = []
    async with Upstream(lambda seen: None) as upstream:  # type: ignore[arg-type, return-value]
        for x in exchanges(folder):
            playback = Playback(x)
            upstream.respond = playback
            front = Front(tmp_path, upstream.url)
            front.write(table(tmp_path, x), server='hosts = ["*"]')
            async with front:
                responses = await ask(front.url, x.raw, head=x.method == "HEAD")
            ours = responses[-1] if responses else Got(0, (), b"no response")
            found = differences(x, ours)
            if not GET_FORM & x.arguments.keys() and x.name not in BY_NAME:
                unexpected += playback.unexpected
            if not found:
                same += 1
                nulled += x.json is not None and without(x.json) != x.json
                continue
            why = reason(x, ours)
            if why is None:
                wrong.append(
                    f"{x.name}: {x.method} {x.path}?{x.query} {found} recorded {x.status} {(x.body or b'')[:90]!r}"
                    f" ours {ours.status} {ours.body[:170]!r}"
                )
            else:
                counted[why] += 1
    total = same + counted.total() + len(wrong)
    reasons = "".join(f"\n  {number} {why}" for why, number in counted.most_common())
    covered = f"{total} recorded exchanges through the gateway, {same} the same ({nulled} with keys nulled)"
    note(f"{folder}: {covered}{reasons}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)
    assert not unexpected, "\n".join(unexpected)
    assert same >= AS_RECORDED[folder]
    declared = {why for name, why in BY_NAME.items() if name.startswith(f"{folder}/")}
    assert declared <= counted.keys()  # a difference that no longer exists is removed from the list


def test_the_recording_is_complete() -> None:
    assert len(exchanges(*FOLDERS)) > 600
    assert sum(AS_RECORDED.values()) > 420
    assert all(name.partition("/")[0] in FOLDERS for name in BY_NAME)

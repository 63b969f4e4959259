"""Following one request through the code is easy: it climbs back rarely into a file that it has left.

The test follows a hit on the normal path through every function of six lines or more, in the order of their calls, from
`Api.handle` to the recorded outcome. Not counted are the words that everybody speaks (model, outcome, errors), the
callbacks of the HTTP library (http/connection.py), and what other tasks do meanwhile: telemetry and the writing of the
store work in batches at times of their own.
"""

from __future__ import annotations

import ast
import asyncio
import sys
from functools import cache
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

from support.world import World

import gateway

ROOT: Final = Path(gateway.__file__).parent
WORDS: Final = frozenset({"model.py", "outcome.py", "errors.py"})
LEAST_LINES: Final = 6
MOST_CLIMBS: Final = 6
MOST_VISITS: Final = 2


@cache
def _lines_of_functions(file: str) -> dict[int, int]:
    """Lines of each function's body without its docstring, by the line on which it begins."""
    lines = {}
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines[first] = (node.end_lineno or 0) - body[0].lineno + 1
    return lines


class Follower:
    """Notes the files of the functions that the task of `Api.handle` enters, each call once, however often resumed."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._seen: set[FrameType] = set()
        self._task: object = None

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame not in self._seen and (file := self._counted(frame.f_code)) is not None:
            self._task = self._task or (file == "http/api.py" and asyncio.current_task())
            if self._task and asyncio.current_task() is self._task:
                self._seen.add(frame)
                self.files.append(file)

    def _counted(self, code: CodeType) -> str | None:
        path = Path(code.co_filename)
        if not path.is_relative_to(ROOT) or path.is_relative_to(ROOT / "sandbox"):
            return None
        file = str(path.relative_to(ROOT))
        if file in WORDS or file in ("http/connection.py", "http/server.py") or file.startswith("telemetry/"):
            return None
        long = _lines_of_functions(code.co_filename).get(code.co_firstlineno, 0) >= LEAST_LINES
        return file if long else None

    def visits(self) -> list[str]:
        """The files in the order of visiting, from the API's entry on."""
        return [file for file, _ in groupby(self.files)]


async def test_following_a_hit_climbs_back_rarely(world: World) -> None:
    await world.post("by_country", wait=20, max_age=3600)
    follower = Follower()
    sys.setprofile(follower)
    try:
        reply = await world.post("by_country", max_age=3600)
    finally:
        sys.setprofile(None)
    assert "hit" in reply.cache
    visits = follower.visits()
    way = " → ".join(visits)
    assert len(visits) - len(set(visits)) <= MOST_CLIMBS, way
    assert max(map(visits.count, visits)) <= MOST_VISITS, way

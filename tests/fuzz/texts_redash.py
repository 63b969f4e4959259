"""A Redash in a process of its own: the sandbox, and for some ids the responses of `texts_responses`.

What attackers make in the sandbox is removed again, and its sample queries are restored, so that it can run for hours.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from gateway.sandbox import Sandbox

from .texts_responses import HOSTILE, reply

KEPT_QUERY: Final = "kb1"
"""The query of the polite caller: nobody can edit it."""

RESTORE_SECONDS: Final = 5.0
MOST_KEPT: Final = 400
_TABLES: Final = ("queries", "visualizations", "dashboards", "widgets", "alerts", "snippets")
_EDITED: Final = ("query", "name", "options", "tags", "data_source_id", "is_archived")
_NOT_PASSED_ON: Final = re.compile("settings|/users|/groups|/data_sources|/destinations|acl|regenerate")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HostileRedash(Sandbox):
    """The sandbox, with the hostile responses before it."""

    def __init__(self) -> None:
        super().__init__(orders=2_000, workers=2)
        self.dispatcher.handle = functools.partial(self._handle, self.dispatcher.handle)  # type: ignore[method-assign]
        self._first = {name: set(getattr(self.database, name)) for name in _TABLES}
        self._samples = {query_id: self._state(query) for query_id, query in self.queries.items()}
        self._kept = re.compile(rf"/api/queries/{self.named[KEPT_QUERY]}(/(?!results).*)?")

    @staticmethod
    def _state(query: Any) -> dict[str, Any]:
        return copy.deepcopy({name: getattr(query, name) for name in _EDITED})

    async def _handle(self, dispatched: Handler, request: web.BaseRequest) -> web.StreamResponse:
        path, method = request.raw_path.partition("?")[0], request.method
        found = re.search(r"/(\d{6,18})(?=[/.]|$)", path)
        if found is not None and HOSTILE <= int(found[1]) < HOSTILE + 10_000:
            await request.read()
            return self._sent(request, reply(int(found[1]) - HOSTILE, path, method))
        if method != "GET" and _NOT_PASSED_ON.search(path):
            await request.read()
            return web.json_response({"id": 1})
        if method != "GET" and self._kept.fullmatch(path):
            return web.json_response({"message": "no"}, status=403)
        return await dispatched(request)

    def _sent(self, request: web.BaseRequest, made: Any) -> web.StreamResponse:
        if isinstance(made, bytes):
            if request.transport is not None:
                request.transport.write(made)
                request.transport.close()
            return web.Response()
        return web.Response(status=made.status, headers=made.fields, body=made.body)

    async def restore(self) -> None:
        """Forget again and again what attackers have made, and undo their edits."""
        while True:
            await asyncio.sleep(RESTORE_SECONDS)
            for name, first in self._first.items():
                table = getattr(self.database, name)
                for new in [number for number in table if number not in first][:-20]:
                    del table[new]
            for query_id, state in self._samples.items():
                query = self.queries.get(query_id)
                if query is not None and self._state(query) != state:
                    self.database.edit(query, copy.deepcopy(state))
            self._forget_results()

    def _forget_results(self) -> None:
        kept = {query.latest_query_data_id for query in self.queries.values()}
        for old in [result_id for result_id in self.database.results if result_id not in kept][:-MOST_KEPT]:
            self.database.remove_result(old)
        for ended in [job_id for job_id, job in self.jobs._jobs.items() if job.status >= 3][:-MOST_KEPT]:
            del self.jobs._jobs[ended]
        self.log.clear()


async def main() -> None:
    redash = HostileRedash()
    await redash.start()
    print(f"serves {redash.url.removeprefix('http://')}", flush=True)
    try:
        await redash.restore()
    finally:
        await redash.stop()


if __name__ == "__main__":
    asyncio.run(main())

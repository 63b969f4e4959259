"""Jobs that Redash starts on its own, as for schemas: followed to their end, because callers cannot use their ids."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from gateway.errors import ServiceUnavailable, UpstreamUnusable
from gateway.model import Clock
from gateway.policy.context import RequestContext
from gateway.redash import calls
from gateway.redash.responses import Job, parse_job
from gateway.upstream.protocol import Upstream, UpstreamResponse, refusal

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


class JobResults:
    """Waits for the results of such jobs."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock

    async def of(self, response: UpstreamResponse, context: RequestContext) -> UpstreamResponse:
        """Return the response with the data: this one, or one made from its job's result within `server.max_wait`.

        Raises:
            UpstreamUnusable: the job failed.
            ServiceUnavailable: the job has not ended in time.
        """
        job = parse_job(response.body.load()) if response.status == 200 else None
        if job is None:
            return response
        until = min(self._clock.monotonic() + context.configured.settings.server.max_wait, context.until)
        pause = _FIRST_PAUSE
        while job.status in (1, 2):
            if self._clock.monotonic() + pause > until:
                raise ServiceUnavailable("Redash is still reading the data source; try again soon.", retry_after=5)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)
            job = await self._poll(job.id, context)
        if job.status != 3:
            raise UpstreamUnusable(f"Redash could not read the data source: {job.error}")
        result = job.query_result_id  # this member holds whatever the job has brought (CONTRACT 9)
        # Redash's own response without a job wraps a schema, and only that (CONTRACT 25.7).
        shown = {"schema": result} if context.request.path.endswith("/schema") else result
        return msgspec.structs.replace(response, body=response.body.with_data(msgspec.json.encode(shown)))

    async def _poll(self, job_id: str, context: RequestContext) -> Job:
        response = await self._upstream.send(context.credential, calls.job(job_id), context.sender)
        if response.status != 200:
            raise refusal(response)
        job = parse_job(response.body.load())
        if job is None:
            raise UpstreamUnusable("Redash's response is not the JSON of a job.")
        return job

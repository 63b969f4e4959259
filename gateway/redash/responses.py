"""Parses results and jobs of Redash. Its other objects are in `objects`, refusals in `refusals`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.body import Body
from gateway.errors import UpstreamRefused, UpstreamUnreadable, UpstreamUnusable
from gateway.model import FIRST_GATEWAY_RESULT_ID
from gateway.redash.any_order import TooManyStepsError, parse_before_rows, parse_without_rows
from gateway.redash.limits import NOT_SUCH, Id, Short
from gateway.redash.redaction import shortened

PARSE_LIMIT: Final = 256 * 1024
"""Bodies up to this size are parsed as a whole (3 ms per MB); of larger ones all but the rows."""

BEGINNING_BYTES: Final = 64 * 1024
"""How much of a large result is parsed while it arrives; a result with longer SQL is not forwarded early."""

_TOO_DEEP: Final = "A value of Redash's result is nested too deeply to be read: select less of it, or its text."

_HEAD_BYTES: Final = 1 << 20
_TAIL_BYTES: Final = 4096

LONGEST_RUN_SECONDS: Final = 10.0**7
"""About four months."""


class ResultHead(msgspec.Struct, frozen=True, kw_only=True):
    """A result without its rows. A reduced one (CONTRACT 6) has neither id, hash nor SQL."""

    retrieved_at: Short
    id: Id | None = None
    query_hash: Short = ""
    query: str | None = None
    data_source_id: Id | None = None
    runtime: float = 0.0

    @property
    def reduced(self) -> bool:
        """Whether it has the form that query keys get from a POST."""
        return self.id is None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as Redash describes it (CONTRACT 9). `query_result_id` is an array for schema jobs.

    Up to version 8, jobs have no member `result`.
    """

    id: str = ""
    status: int
    error: str = ""
    query_result_id: object = None
    updated_at: object = 0
    result: object = msgspec.UNSET

    @property
    def result_id(self) -> int | None:
        """Return the id of the result that the job has made, None where it names none."""
        named = self.query_result_id
        return named if type(named) is int and 0 <= named < FIRST_GATEWAY_RESULT_ID else None


class _ResultOrJob(msgspec.Struct):
    query_result: ResultHead | None = None
    job: Job | None = None


_results_or_jobs = msgspec.json.Decoder(_ResultOrJob, strict=False)


def parse_result_or_job(body: Body) -> ResultHead | Job:
    """Parse the response to an execution, to a GET of a result by id, or of a job. Reads the file if the body is one.

    Raises:
        UpstreamUnusable: it is none of these, or incomplete.
        UpstreamUnreadable: it is nested too deeply.
    """
    if body.size > PARSE_LIMIT:
        return _parse_large(body)
    try:
        response = _results_or_jobs.decode(body.load())
    except NOT_SUCH:
        return _parse_whole(body)
    return _found(response)


def parse_job(data: bytes) -> Job | None:
    """Parse the job that a response holds; None where it holds something else."""
    try:
        response = _results_or_jobs.decode(data)
    except NOT_SUCH:
        return None
    return _clean(response.job) if response.job is not None else None


def _parse_whole(body: Body) -> ResultHead | Job:
    """Parse with the standard parser, which accepts what msgspec refuses: NaN, lone surrogates."""
    if not body.is_kept:
        raise UpstreamUnusable("Redash's result is too large to be kept, and its members are in an unusual order.")
    try:
        found = _without_rows(body) if body.size > PARSE_LIMIT else json.loads(body.load())
        response = msgspec.convert(found, _ResultOrJob, strict=False)
    except RecursionError:
        raise UpstreamUnreadable(_TOO_DEEP) from None
    except ValueError:
        raise UpstreamUnusable("Redash's response is not the JSON of a result or a job.") from None
    return _found(response)


def _without_rows(body: Body) -> object:
    """Parse a large body without its rows. Where that takes too many steps, msgspec skips them: it is fast, but stops
    all other threads for 30 ms per 100 MB.
    """
    try:
        return parse_without_rows(body)
    except TooManyStepsError:
        with body.mapped() as data:
            return _results_or_jobs.decode(data)


def _found(response: _ResultOrJob) -> ResultHead | Job:
    if (result := response.query_result) is not None:
        return msgspec.structs.replace(result, runtime=_run_seconds(result.runtime))
    if response.job is None:
        raise UpstreamUnusable("Redash's response holds neither a result nor a job.")
    return _clean(response.job)


def _run_seconds(runtime: float) -> float:
    """Return a run's time; 0 for what no run can have taken, which would spoil all sums that it goes into."""
    return runtime if 0.0 <= runtime <= LONGEST_RUN_SECONDS else 0.0


def _clean(job: Job) -> Job:
    return msgspec.structs.replace(job, error=shortened(job.error))


# Redash writes a result in this order: id, query_hash, query, data, data_source_id, runtime, retrieved_at (CONTRACT 8).
_FULL_HEAD: Final = re.compile(
    rb'\{\s*"query_result":\s*\{\s*"id":\s*(\d{1,15}),\s*"query_hash":\s*"([0-9a-f]{0,64})",\s*"query":\s*(?=")'
)
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_REDUCED_HEAD: Final = re.compile(rb'\{\s*"query_result":\s*\{\s*"data":\s*\{')
_FULL_TAIL: Final = re.compile(
    rb'"data_source_id":\s*(\d{1,15}|null),\s*"runtime":\s*(\d{1,18}(?:\.\d{1,99})?(?:[eE][+-]?\d{1,3})?),'
    rb'\s*"retrieved_at":\s*"([!#-\[\]-~]{1,64})"\s*\}\s*\}\s*\Z'
)
_REDUCED_TAIL: Final = re.compile(rb'\},\s*"retrieved_at":\s*"([!#-\[\]-~]{1,64})"\s*\}\s*\}\s*\Z')


def parse_beginning(data: bytes) -> ResultHead | None:
    """Parse the first bytes of a large result: no runtime and no `retrieved_at` yet. None if they show no result.

    `id` is 0 where it stands behind the rows.
    """
    if (head := _usual_beginning(data)) is not None:
        return head
    before = parse_before_rows(data)
    if before is not None and before.query is not None:
        return ResultHead(id=before.id or 0, query_hash=before.query_hash, query=before.query, retrieved_at="")
    return ResultHead(retrieved_at="") if before is not None and before.reduced else None


def _usual_beginning(data: bytes) -> ResultHead | None:
    start = _FULL_HEAD.match(data)
    sql = _string_at(data, start.end()) if start else None
    if start and sql is not None:
        return ResultHead(id=int(start[1]), query_hash=start[2].decode(), query=sql, retrieved_at="")
    return ResultHead(retrieved_at="") if _REDUCED_HEAD.match(data) else None


def _parse_large(body: Body) -> ResultHead | Job:
    first, last = body.ends(_HEAD_BYTES, _TAIL_BYTES)
    head = _usual_beginning(first)
    if head is not None and not head.reduced and (end := _FULL_TAIL.search(last)):
        source = None if end[1] == b"null" else int(end[1])
        retrieved_at = end[3].decode()
        runtime = _run_seconds(float(end[2]))
        return msgspec.structs.replace(head, data_source_id=source, runtime=runtime, retrieved_at=retrieved_at)
    if head is not None and head.reduced and (end := _REDUCED_TAIL.search(last)):
        return msgspec.structs.replace(head, retrieved_at=end[1].decode())
    return _parse_whole(body)


def _string_at(data: bytes, position: int) -> str | None:
    """Decode the JSON string that begins at `position`; None if there is none or it does not end within `data`."""
    end = _STRING.match(data, position)
    try:
        return str(json.loads(end[0])) if end else None
    except ValueError:
        return None


def parse_time(text: str) -> float:
    """Parse Redash's `2026-11-23T20:54:00.127Z` (fraction optional, CONTRACT 4) into unix seconds.

    Raises:
        UpstreamUnusable: it is not such a time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UpstreamUnusable("Redash's retrieved_at is not a time.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def refused_job(status: int, error: str) -> UpstreamRefused:
    """Return Redash's refusal to execute: a job that failed and has no id (CONTRACT 3)."""
    return UpstreamRefused(
        status, Body.of(json.dumps({"job": {"status": 4, "error": error}}).encode()), "application/json"
    )

"""What a store and a ledger must promise, whatever they are made of. Freshness is decided in `policy`, not here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.model import Body, Entry, ExecutionRecord, JobRecord, Key, TierStats


class Store(Protocol):
    """Keeps answers and forgets them; never judges whether one is fresh.

    Bytes are kept once, under `entry.body_id`; several keys may lead to entries with the same `body_id`. A store
    that cannot do its work behaves as an empty one: no method raises for a full disk, a damaged file or a server
    that is away, and each returns within bounded time.
    """

    async def open(self) -> None:
        """Make ready; raises `StoreError` where the operator must act (no permission, locked by another process)."""

    async def close(self) -> None:
        """Write what is pending and release every handle. Safe to call twice."""

    async def get(self, key: Key) -> Entry | None:
        """Return the entry under `key`, most recently kept; None where there is none or its bytes are lost."""

    async def read(self, entry: Entry) -> Body | None:
        """Return the bytes of `entry`; None where they are gone or do not match their length and digest.

        A body with a `path` stays readable for at least 10 s after this returns, also when it is evicted meanwhile.
        """

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body) -> Body:
        """Keep `entry` under each of `keys`, and its bytes; return those as they can be read from now on.

        A body with a `path` is a spool file made by `spool_path`: the store owns it from now on, and gives it another
        name. It stays readable for at least 10 s, also where it is not kept. Bodies over the entry limit are kept for
        60 s only.
        """

    async def confirm(self, key: Key, confirmed: float) -> None:
        """Set `confirmed` (monotonic seconds) of the entry under `key`, if there is one."""

    async def delete(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """Drop every entry (and bytes no entry leads to) of that scope and query (None: of all); returns how many."""

    def stats(self) -> list[TierStats]:
        """How full each tier is; cheap, never waits."""


class FrontStore(Store, Protocol):
    """A store with memory in front, which tells at once what it holds there."""

    def peek(self, key: Key) -> Entry | None:
        """Return the entry under `key` if it is in memory, and count it as used; takes microseconds."""

    def holds(self, key: Key, entry: Entry) -> bool:
        """Whether `peek` would return this very entry; touches nothing."""

    def peek_body(self, entry: Entry) -> Body | None:
        """Return the bytes of `entry` if they (or, of a file, its path) are in memory; takes microseconds."""

    def peek_gzip(self, entry: Entry, body: Body) -> Body | None:
        """Return the gzip form of `body`, None if none was kept or it is not (or no more) what `entry` leads to."""

    def put_gzip(self, entry: Entry, body: Body, form: Body) -> None:
        """Keep `form` beside `body`, the bytes of `entry`, in memory only; an empty one says that none is worth it."""


class Ledger(Protocol):
    """Remembers job ids, executions and where result ids were seen; what it has accepted survives a kill -9 (of result
    ids, what something that was noted later follows).

    As with `Store`, trouble of the medium never raises: the ledger then remembers in memory only.
    """

    async def record_execution(self, record: ExecutionRecord) -> None:
        """Insert or replace by `record.id`."""

    async def record_job(self, job: JobRecord) -> None:
        """Insert or replace by `job.id`."""

    async def job(self, job_id: str) -> JobRecord | None:
        """Return the job, None if it is unknown or was noted more than 12 h ago (Redash's own lifetime, CONTRACT 9)."""

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """Return the execution, None if unknown or older than 12 h."""

    async def unfinished(self) -> list[ExecutionRecord]:
        """Executions with status 1 or 2, oldest first: those to follow again after a start."""

    async def jobs_of(self, execution_id: str) -> list[JobRecord]:
        """Every job id that stands for that execution, oldest first."""

    async def record_result(self, scope: str, result_id: int, query_id: int) -> None:
        """Remember that `result_id` was seen in an answer for that scope and query (0: for no saved query).

        Returns at once; after a kill -9 it is known if anything that was noted later is.
        """

    async def queries_of_result(self, scope: str, result_id: int) -> frozenset[int]:
        """Return every query id that `result_id` was seen for in that scope."""

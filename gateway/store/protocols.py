"""What every store and every ledger must promise. Implementations are in the files beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from gateway.body import Body
from gateway.concurrency.spool import BeginSpool
from gateway.model import Entry, ExecutionRecord, JobRecord, Key, TierStats


class Fence(msgspec.Struct, frozen=True):
    """What a store must check before it writes the result of a run: that the lease still has this number."""

    key: Key
    number: int


class Store(Protocol):
    """Stores results and other bodies; never decides whether one is fresh.

    Bytes are stored once, under `entry.body_id`; several keys may have entries with the same `body_id`. A store that
    does not work behaves like an empty one: no method raises for a full disk, a damaged file or a server that is
    unavailable, and each returns within bounded time.
    """

    async def open(self) -> None:
        """Make it ready, as soon as no other process has it.

        Raises:
            StoreError: the operator must act (no permission, another process keeps it).
        """

    @property
    def ready(self) -> bool:
        """Whether all that was stored can be read now."""

    async def usable(self) -> None:
        """Wait until it is `ready`. After `open` it may not be yet: the disk may be full."""

    async def close(self) -> None:
        """Write what is pending and release every handle. May be called twice."""

    async def get(self, key: Key) -> Entry | None:
        """Return the entry stored last under `key`; None if there is none or its bytes are lost."""

    async def read(self, entry: Entry) -> Body | None:
        """Return the bytes of `entry`; None if they are gone or do not match their length and digest.

        A body with a `path` stays readable for at least 10 s after this returns, even if it is evicted in that time,
        unless the disk needs its room. Then opening it fails.
        """

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body, fence: Fence | None = None) -> Body:
        """Store `entry` under each of `keys`, and its bytes; return the body by which they can be read from now on.

        Where several gateways share it, nothing is stored under the keys if the lease of `fence` has another number.

        A body with a `path` is that of a spool made by `begin_spool`: from now on the store owns its file and gives it
        another name. It stays readable for at least 10 s, even if it is not stored, unless the disk needs its room.
        Bodies over the entry limit are stored for only 60 s. If it cannot be stored, older entries under the keys are
        deleted, or count as never confirmed.
        """

    async def confirm(self, key: Key, confirmed: float) -> None:
        """Set `confirmed` (monotonic seconds) of the entry under `key`, if there is one."""

    async def delete(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """Delete the entries of that scope and query (None: of all), and bytes without an entry; return how many."""

    async def queries(self, scope: str) -> set[int] | None:
        """Return the queries of which it has entries in a scope, 0 for free SQL; None if that cannot be known now."""

    def stats(self) -> list[TierStats]:
        """Return how full each tier is; cheap, never waits."""


class FrontStore(Store, Protocol):
    """A store with memory in front; what is in memory can be read without awaiting."""

    @property
    def begin_spool(self) -> BeginSpool:
        """Makes spools for large bodies that will be put here."""

    def peek(self, key: Key) -> Entry | None:
        """Return the entry under `key` if it is in memory, and mark it as used; takes microseconds."""

    def holds(self, key: Key, entry: Entry) -> bool:
        """Whether `peek` would return this very entry; does not mark it as used."""

    def peek_body(self, entry: Entry) -> Body | None:
        """Return the bytes of `entry` if they (or the path of their file) are in memory; takes microseconds."""

    def peek_gzip(self, entry: Entry, body: Body) -> Body | None:
        """Return the gzip form of `body`; None if there is none, or if `entry` has other bytes by now."""

    def put_gzip(self, entry: Entry, body: Body, form: Body) -> None:
        """Store `form`, the gzip form of `body`, in memory only; an empty one means that compression does not help."""


class Ledger(Protocol):
    """Records job ids, executions and where result ids were seen. What it has accepted survives a kill -9 (a result id
    survives if something else was recorded after it).

    As with `Store`, no method raises if the medium fails: the ledger then records in memory only.
    """

    @property
    def ready(self) -> bool:
        """Whether all that was recorded can be read now."""

    async def record_execution(self, record: ExecutionRecord) -> None:
        """Insert or replace by `record.id`."""

    async def record_job(self, job: JobRecord) -> None:
        """Insert or replace by `job.id`."""

    async def job(self, job_id: str) -> JobRecord | None:
        """Return the job; None if it is unknown or older than 12 h (Redash's own lifetime, CONTRACT 9)."""

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """Return the execution; None if it is unknown or older than 12 h."""

    async def unfinished(self) -> list[ExecutionRecord]:
        """Return the executions with status 1 or 2, oldest first: those to resume after a start."""

    async def jobs_of(self, execution_id: str) -> list[JobRecord]:
        """Return every job that stands for that execution, oldest first."""

    async def record_result(self, scope: str, result_id: int, query_id: int, identity: bytes = b"") -> None:
        """Record that `result_id` was seen in a response for that scope and query (0: no saved query).

        `identity` is that of the result that was proven to be the query's; it replaces an earlier one. b"" where only
        the id was named.
        Returns at once; it survives a kill -9 if anything that was recorded later does.
        """

    async def queries_of_result(self, scope: str, result_id: int) -> Mapping[int, bytes]:
        """Return every query id that `result_id` was seen for in that scope, with the identity recorded last."""

    async def has_results(self, scope: str) -> bool:
        """Whether a result id is known to have been seen in that scope: then Redash has accepted its key."""

    async def scope_of(self, name: str) -> str | None:
        """Return the scope that is recorded under a name (of a key, a user, a server); None if there is none."""

    async def record_scope(self, name: str, scope: str) -> str | None:
        """Record a scope under a name, unless that has one; return the one that it has, None if it can have none.

        Some thousand names can have one. It survives a kill -9 once this returns, and does not expire.
        """

    async def spending(self, client: str) -> str | None:
        """Return what was recorded last of a client's spending; None if nothing was."""

    async def record_spending(self, client: str, text: str) -> None:
        """Record what a client has spent on this gateway. In Redis, where all count together, only memory holds it."""

    async def purges(self) -> str | None:
        """Return what was recorded last of purges; None if nothing was."""

    async def record_purges(self, text: str) -> None:
        """Record since when rows must be, because of purges on this gateway. Of Redis, only memory holds it."""


class LeaseLostError(Exception):
    """Another gateway has the lease by now: what this one has in hand must not be written."""


class Held(msgspec.Struct, frozen=True):
    """A lease that another run has, or another gateway."""

    execution_id: str
    """Of the run that has it."""
    joinable: bool
    """Whether it is by the same definition, and takes callers."""
    ask: int = 0
    """The number under which the ask was noted; 0 if there was none, or it came too late."""
    is_known: bool = True
    """False: it was so before, and cannot be asked now."""


class Lease(Protocol):
    """The right of one gateway to lead the run of a key: to send its POST, to follow its job, to write how it ended."""

    @property
    def number(self) -> int:
        """The fencing number: a later lease has a higher one. 0 where no other gateway can be seen."""

    @property
    def needs(self) -> Mapping[int, float]:
        """For each ask of another gateway, by its number: from which moment (monotonic) on its callers need rows.

        It is counted from the moment at which the ask was received, so it is never too early.
        """

    @property
    def is_safe(self) -> bool:
        """Whether it is known that no other gateway has it: it was kept a moment ago."""

    @property
    def is_lost(self) -> bool:
        """Whether another gateway has it, as far as this one knows."""

    def until_lost(self) -> AbstractAsyncContextManager[None]:
        """End what is awaited within when another gateway has taken the lease.

        Raises:
            LeaseLostError: as above.
        """

    async def confirm(self) -> None:
        """Make sure that it is held now, and for a while: before each POST, and before a result is stored.

        Raises:
            LeaseLostError: another gateway has it.
        """

    async def renew(self) -> bool:
        """Keep it for longer, and let others know the job in Redash; False if it cannot be done now."""

    async def close(self, *, unless_used: bool = False) -> bool:
        """Take no more asks; those that came before are in `needs` when this returns.

        `unless_used`: not if another gateway had use for the run within the last minute, or another run has the same
        job in Redash, or that cannot be known. Returns whether it is closed.

        Raises:
            LeaseLostError: as above.
        """

    async def reopen(self) -> None:
        """Take asks again."""

    async def end(self, follow_up: str = "", marker: str = "") -> None:
        """Tell all gateways that the run has ended, which its record says; hand the lease to its follow-up, if any."""

    async def release(self) -> None:
        """Let another gateway lead the run from now on."""


class Claim(msgspec.Struct, frozen=True):
    """What a gateway wants a lease for."""

    key: Key
    execution_id: str
    marker: str
    age: float | None = None
    """Its callers need rows of at most this age now; None if they need none, or have said so before."""
    unused: float = 0.0
    """Seconds since a caller had use for the run."""
    by_force: bool = False
    """Take it, whoever has it: it was waited for long enough."""
    over: str = ""
    """Take it from this run: its record says that it has ended."""
    alone: bool = True
    """Lead alone if the lease cannot be asked for now; otherwise it counts as another gateway's, as before."""
    upstream_job: Callable[[], str] = str
    """Returns the id of the job in Redash, "" if there is none yet."""
    on_need: Callable[[float, float], None] = lambda moment, age: None
    """Called by the lease for each ask: from which moment on rows are needed, and the age that was asked for."""


class Leases(Protocol):
    """Who leads the run of each key. None of these methods raises if Redis fails: then each gateway leads alone."""

    for_many: bool
    """Whether the store is one that several gateways can share."""

    @property
    def shared(self) -> bool:
        """Whether there may be other gateways, and they can be seen now."""

    @property
    def held(self) -> int:
        """How many leases this gateway has now."""

    @property
    def losses(self) -> int:
        """How many it has lost to other gateways."""

    on_news: list[Callable[[str, str, str], None]]
    """Called with what has happened ("posted", "ended", "freed", "left", "cancelled"), the id of the execution
    and that of a job, or "". "unknown", without ids: Redis was lost, or is back, so anything may have happened."""

    async def claim(self, claim: Claim) -> Lease | Held:
        """Take the lease, or keep it, or learn who has it; then the ask is noted there, if the run takes callers."""

    async def note_ask(self, execution_id: str, age: float) -> int:
        """Note an ask of a run for whoever will lead it; return its number, 0 if that is not possible now."""

    async def is_free(self, key: Key) -> bool:
        """Whether nobody has it."""

    async def announce(self, what: str, execution_id: str, job_id: str = "", *, leaves: bool = False) -> None:
        """Tell all gateways, this one included. `leaves`: this one has no more use for the run."""

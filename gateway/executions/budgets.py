"""Budgets of clients: what is reserved when a run starts, and what it has spent when it ends, however it ends.

With a store that several gateways share, all count together, unless `redis.rates` says otherwise. `policy/spending.py`
has the rules.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec

from gateway.concurrency.shared_spending import Ended, SpendingSource, Spent, Wanted
from gateway.errors import BudgetSpent
from gateway.executions.execution import Execution
from gateway.executions.expectations import Expectations
from gateway.model import Clock
from gateway.outcome import Quota
from gateway.policy.configured import Live
from gateway.policy.plan import Plan
from gateway.policy.spending import BudgetState, OpenRun, Record, Spending
from gateway.store import Ledger

MOST_OWED: Final = 1_000
"""So many runs are kept one by one that have ended while the other gateways could not learn of it."""

_REST: Final = "*"
"""Stands for all others of them together."""


class Budgets:
    """What the clients with budgets spend. Clients without one, warming too, pay nothing."""

    def __init__(
        self, live: Live, ledger: Ledger, source: SpendingSource | None, expectations: Expectations, clock: Clock
    ) -> None:
        """`source`: where all gateways count together, if there is such a place."""
        self._live = live
        self._ledger = ledger
        self._source = source
        self._expectations = expectations
        self._clock = clock
        self._offset = clock.wall() - clock.monotonic()
        self._clients: dict[str, Spending] = {}
        self._former: dict[str, Spending] = {}  # of clients whose budget a reload has taken away, maybe by mistake
        self._was_shared = self._shared is not None
        self._owed: dict[str, dict[str, float]] = {}
        self._alone: set[str] = set()  # runs that were reserved here only, because the others could not be reached
        self._restored = False  # until then the ledger has what an earlier process has recorded
        self._configuration_changed()
        live.on_change.append(self._configuration_changed)

    @property
    def _shared(self) -> SpendingSource | None:
        return self._source if self._live.settings.redis.rates == "shared" else None

    def _now(self) -> float:
        shared = self._shared
        return self._clock.monotonic() + self._offset if shared is None else shared.now()

    def _configuration_changed(self) -> None:
        shared = self._shared is not None
        same = shared == self._was_shared  # else it is another account, in another time
        old = self._former | self._clients if same else {}
        self._clients, self._former, self._was_shared = {}, {}, shared
        for name, client in self._live.settings.clients.items():
            if client.budget:
                made = self._clients[name] = Spending(client.budget)
                if name in old:
                    made.restore(old[name].record(), self._now())
            elif name in old:
                self._former[name] = old[name]

    # -- what is known here

    def levels(self) -> dict[tuple[str, str], tuple[float, float, float]]:
        """Return by client and length of time how much each budget has, what is spent and what is reserved of it."""
        return {
            (name, state.budget.per): (state.budget.seconds, state.spent, state.reserved)
            for name in self._clients
            for state in self.states(name)
        }

    def states(self, client: str) -> list[BudgetState]:
        """Return how the budgets of a client stand, as far as this gateway knows; none without a budget."""
        spending = self._clients.get(client)
        return spending.states(self._now()) if spending is not None else []

    def quotas(self, client: str) -> tuple[Quota, ...]:
        """Return the same for the fields of responses, in whole seconds."""
        return tuple(
            Quota(
                math.ceil(state.budget.seconds),
                math.ceil(state.budget.per_seconds),
                math.floor(state.left),
                math.ceil(state.resets_in),
            )
            for state in self.states(client)
        )

    def refusal(self, plan: Plan, client: str) -> BudgetSpent | None:
        """Return the error for a client that may not start this run now, as far as this gateway knows."""
        spending = self._clients.get(client)
        if spending is None:
            return None
        seconds = self._expectations.runtime(plan)
        opens = spending.opens_in(self._now(), seconds)
        others = "" if self._expectations.is_of_these_values(plan) else ", perhaps with other values,"
        return _refusal(client, spending, seconds, opens, others) if opens > 0 else None

    # -- over a restart

    async def restore(self) -> None:
        """Take back what an earlier process has recorded, as soon as the ledger can be read."""
        for name, spending in self._clients.items():
            text = await self._ledger.spending(name) if self._shared is None else None
            if text:
                with suppress(msgspec.MsgspecError):  # of another version
                    spending.restore(msgspec.json.decode(text, type=Record), self._now())
        self._restored = True

    def give_up_all_but(self, followed: set[str]) -> None:
        """Count the reservations of an earlier process as spent, but for runs that are followed."""
        if self._shared is None:
            for spending in self._clients.values():
                spending.give_up(spending.open.keys() - followed, self._now())

    async def refresh(self, client: str) -> None:
        """Learn what the other gateways have spent since this one has learned it."""
        shared, spending = self._shared, self._clients.get(client)
        if shared is not None and spending is not None:
            await self._exchange(shared, client, spending)

    # -- one run

    @asynccontextmanager
    async def paying(self, execution: Execution) -> AsyncIterator[None]:
        """Reserve what a run will probably take, for the first of its callers' clients that can; settle at its end.

        Raises (on entering):
            BudgetSpent: none of them can.
        """
        payer, goes_on = await self._payer(execution), False
        try:
            yield
        except asyncio.CancelledError:
            # Another process goes on with it, and settles: this one stops, or has lost the lease.
            goes_on = not execution.cancelling
            raise
        finally:
            if payer and not goes_on:
                await self._settle(payer, execution)
            self._alone.discard(execution.id)

    async def _payer(self, execution: Execution) -> str:
        """Return the client that pays, "" if nobody has to."""
        if execution.is_others and self._clients and (owner := await self._owner(execution.id)):
            return owner
        if execution.upstream_job:  # it runs already
            return ""
        tried: dict[str, float] = {}
        while (client := next((one for one in execution.payers if one not in tried), None)) is not None:
            spending = self._clients.get(client)
            if spending is None:
                return ""
            seconds = self._expectations.runtime(execution.plan)
            if await self._reserve(client, spending, execution.id, seconds):
                return client
            tried[client] = self._clients.get(client, spending).opens_in(self._now(), seconds)
        raise BudgetSpent(
            "The budget of the client that requested this run is spent.",
            retry_after=_finite(min(tried.values(), default=0.0)),
        )

    async def _owner(self, run: str) -> str:
        shared = self._shared
        owner = await shared.owner(run) if shared is not None else None
        return owner or next((name for name, spending in self._clients.items() if run in spending.open), "")

    async def _reserve(self, client: str, spending: Spending, run: str, seconds: float) -> bool:
        if (shared := self._shared) is not None:
            spent = await self._exchange(shared, client, spending, wanted=Wanted(run, seconds))
            if spent is not None:
                return spent.granted
            seconds *= shared.sharers  # as if all others did the same meanwhile
        spending = self._clients.get(client, spending)  # an exchange may have replaced it
        granted = spending.reserve(run, self._now(), seconds)
        if granted and shared is None:
            await self._record(client, spending)
        elif granted:
            self._alone.add(run)
        return granted

    async def _settle(self, client: str, execution: Execution) -> None:
        seconds, shared = self._seconds(client, execution), self._shared
        spending = self._clients.get(client) or self._former.get(client) or Spending(())
        if shared is None:
            spending.settle(execution.id, self._now(), seconds)
            if spending.accounts:
                await self._record(client, spending)
            return
        surely = execution.id in self._alone
        self._alone.discard(execution.id)  # now: what the exchange brings has it no more
        if await self._exchange(shared, client, spending, ended=Ended(execution.id, seconds, surely)) is None:
            self._clients.get(client, spending).settle(execution.id, self._now(), seconds * shared.sharers)
            owed = self._owed.setdefault(client, {})
            run = execution.id if len(owed) < MOST_OWED else _REST
            owed[run] = owed.get(run, 0.0) + seconds

    def _seconds(self, client: str, execution: Execution) -> float:
        """Return what a run has spent."""
        work, spending = execution.work, self._clients.get(client)
        work.end(self._clock.monotonic())
        held = spending.open.get(execution.id) if spending is not None else None
        if held is None or work.is_measured or not (execution.is_others and execution.upstream_job):
            return work.seconds
        return max(work.seconds, held.seconds)  # what another process has seen of it is not known

    async def _exchange(
        self,
        shared: SpendingSource,
        client: str,
        spending: Spending,
        *,
        ended: Ended | None = None,
        wanted: Wanted | None = None,
    ) -> Spent | None:
        owed = self._owed.pop(client, {})
        settled = [*(Ended(run, seconds, surely=True) for run, seconds in owed.items()), *([ended] if ended else [])]
        budgets = [(one.budget.seconds, one.budget.per_seconds) for one in spending.accounts]
        spent = await shared.exchange(client, budgets, settled, wanted)
        if spent is None:
            for run, seconds in self._owed.pop(client, {}).items():
                owed[run] = owed.get(run, 0.0) + seconds
            if owed:
                self._owed[client] = owed
        elif client in self._clients:
            known = self._clients[client]
            mirror = self._clients[client] = Spending([one.budget for one in known.accounts])
            runs = {run: held for run, held in known.open.items() if run in self._alone}
            runs |= {run: OpenRun(*held) for run, held in spent.open.items()}
            mirror.restore(Record(spent.windows, runs), shared.now())
        return spent

    async def _record(self, client: str, spending: Spending) -> None:
        if self._restored:
            await self._ledger.record_spending(client, msgspec.json.encode(spending.record()).decode())


def _refusal(client: str, spending: Spending, seconds: float, opens: float, others: str) -> BudgetSpent:
    budgets = " and ".join(str(account.budget) for account in spending.accounts)
    took = f"{round(seconds, 1 if seconds >= 1 else 3):g} s"
    text = f"The last run of this query{others} took {took}. " if seconds else ""
    if opens == math.inf:
        return BudgetSpent(
            f"{text}That is more than the budget of client '{client}' ({budgets}) ever allows. Raise the budget, "
            "if only for one run, or let another client of the same credential run the query with these values."
        )
    return BudgetSpent(
        f"{text}Client '{client}' has spent or reserved too much of its budget ({budgets}) to start it now.",
        retry_after=opens,
    )


def _finite(seconds: float) -> float | None:
    return seconds if seconds < math.inf else None

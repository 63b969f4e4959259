"""What a sandbox has made, run by run, so that a response can be told to be one of its results: byte for byte.

The queries show their run in a column: `(select run_number()) as run`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from gateway.sandbox import Sandbox
from gateway.sandbox.database import Database
from gateway.sandbox.results import Result, as_separated

RUN: Final = "(select run_number()) as run"
"""The column of a query that shows its run."""

_IN_JSON: Final = re.compile(rb'"run": (\d+)')


def _csv(result: Result, database: Database) -> bytes:
    return as_separated(result, ",", database.date_format, database.time_format)


FORMS: Final[dict[str, Callable[[Result, Database], bytes]]] = {
    "full": lambda result, _: result.full(),
    "reduced": lambda result, _: result.reduced(),
    "csv": _csv,
}
"""How a result is shown: to users, to query keys, as a file."""


class MadeResult:
    """One result, and when its run ended. Its bytes are kept as digests only, once `forget` is called."""

    def __init__(self, result: Result, database: Database) -> None:
        self.id = result.id
        self.sql = result.query
        self.ended = result.retrieved_at / 1e6
        self._result: Result | None = result
        self._database = database
        self._digests: dict[str, bytes] = {}

    def is_shown_by(self, body: bytes, form: str) -> bool:
        """Whether these are exactly its bytes in this form."""
        return hashlib.sha256(body).digest() == self._digest(form)

    def forget(self) -> None:
        """Keep no more than the digests. Takes a while for large results."""
        for form in FORMS:
            self._digest(form)
        self._result = None

    def _digest(self, form: str) -> bytes:
        if form not in self._digests:
            assert self._result is not None
            self._digests[form] = hashlib.sha256(FORMS[form](self._result, self._database)).digest()
        return self._digests[form]


class Made:
    """Every result that a sandbox stores from now on, by the number of its run."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.by_run: dict[int, MadeResult] = {}
        self.runs_of: defaultdict[str, list[int]] = defaultdict(list)
        """The runs of each SQL text, in the order of their results."""
        self._whole: dict[int, MadeResult] = {}
        self._database = sandbox.database
        self._put, self._database.put_result = self._database.put_result, self._note  # type: ignore[method-assign]

    def _note(self, result: Result) -> None:
        if found := _IN_JSON.search(result.full()):
            run = int(found[1])
            self.by_run[run] = self._whole[run] = MadeResult(result, self._database)
            self.runs_of[result.query].append(run)
        self._put(result)

    def forget_before(self, moment: float) -> list[MadeResult]:
        """Keep no more than the digests of results that are older, except the newest of each text; return them."""
        newest = {runs[-1] for runs in self.runs_of.copy().values()}
        old = {run: made for run, made in self._whole.copy().items() if made.ended < moment and run not in newest}
        for run, made in old.items():
            made.forget()
            del self._whole[run]
        return list(old.values())

    def shown_by(self, body: bytes, form: str) -> MadeResult | None:
        """Return the result that a response shows, if it shows all of it and nothing else."""
        made = self.by_run.get(_run_in_csv(body) if form == "csv" else _run_in_json(body))
        return made if made is not None and made.is_shown_by(body, form) else None


def _run_in_json(body: bytes) -> int:
    found = _IN_JSON.search(body)
    return int(found[1]) if found else 0


def _run_in_csv(body: bytes) -> int:
    names, _, rest = body.partition(b"\r\n")
    first = rest.partition(b"\r\n")[0].split(b",")
    columns = dict(zip(names.split(b","), first, strict=False))
    run = columns.get(b"run", b"")
    return int(run) if run.isdigit() else 0


ROUNDING_SECONDS: Final = 0.01


def older_than_allowed(made: MadeResult, sent: float, max_age: int | None, stale_seconds: float) -> str:
    """Return what is wrong with the age of a result, counted from the end of its run and the moment of the request.

    `stale_seconds`: it may be so much older, as Redash does not answer; 0 for a response that does not say so.
    """
    age = sent - made.ended
    most = math.inf if max_age is None else max_age + (stale_seconds if max_age else 0)
    return f"rows from {age:.3f} s before" if age > most + ROUNDING_SECONDS else ""

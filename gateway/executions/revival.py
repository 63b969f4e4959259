"""The plan of a run that an earlier process began, from its record in the ledger."""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.model import ExecutionRecord
from gateway.policy.access import Credential
from gateway.policy.plan import Bounds, Plan
from gateway.redash.matching import match
from gateway.redash.requests import Execute, ExecuteText, parse_operation


def plan_of(record: ExecutionRecord, credential: Credential, wall: float) -> Plan:
    """Return the plan; `wall` is unix seconds."""
    target = urlsplit(record.path)
    operation = parse_operation(match("POST", target.path), target.query, record.body)
    assert isinstance(operation, Execute | ExecuteText)  # noqa: S101 - nothing else is ever executed
    return Plan(
        key=record.key,
        credential=credential,
        query_id=record.query_id,
        marker=record.marker,
        # Callers accept any result since the first start: Redash joins its own run or returns what that run made.
        max_age=max(1, int(wall - record.started_at) + 1),
        forced=False,
        bounds=Bounds(),
        operation=operation,
    )

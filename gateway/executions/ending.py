"""How a run of a query ended."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from gateway.errors import CredentialRejected, GatewayError, UpstreamRefused
from gateway.outcome import ExecutionResult
from gateway.redash.refusals import parse_error
from gateway.results.cache import StoredResult

CANCELLED_TEXT: Final = "Query cancelled by user."


class Ending(msgspec.Struct, frozen=True):
    """How an execution ended: with a stored result, or with an error text for every caller that has a job id."""

    result: ExecutionResult
    stored: StoredResult | None = None
    """Set for `success`."""
    error: str = ""
    failure: GatewayError | None = None
    """What callers without a job id get instead; None where Redash itself failed or cancelled the job."""
    made: float = -math.inf
    """The earliest moment (monotonic) at which the query may have ended in Redash."""

    @property
    def status(self) -> int:
        """Return the status that a job shows (CONTRACT 9)."""
        return 3 if self.result == "success" else 4

    @property
    def result_id(self) -> int | None:
        """Return the id of the result, None without one."""
        return self.stored.entry.result_id if self.stored is not None else None

    @property
    def cause(self) -> str:
        """Return why it failed: a reason of `errors`, or `lost`."""
        if self.result not in ("failure", "lost"):
            return ""
        return self.failure.reason if self.failure is not None else "lost" if self.result == "lost" else "query_failed"

    @property
    def is_refusal(self) -> bool:
        """Whether Redash or the gateway did not allow the run (4xx), so that nothing ran."""
        failure = self.failure
        status = failure.status_code if isinstance(failure, UpstreamRefused) else failure.status if failure else 500
        return 400 <= status < 500

    @classmethod
    def failed(cls, error: GatewayError) -> Ending:
        """Return the ending for an error of the gateway or a refusal by Redash."""
        return cls("failure", error=failure_text(error), failure=error.copy())


CANCELLED: Final = Ending("cancelled", error=CANCELLED_TEXT)


def failure_text(error: GatewayError) -> str:
    """Return the text that a job in status 4 shows for an error."""
    if isinstance(error, UpstreamRefused) and error.body.data is not None:
        return parse_error(error.body.data) or error.detail
    if isinstance(error, CredentialRejected):
        return "Redash does not accept the gateway's key."
    return error.detail

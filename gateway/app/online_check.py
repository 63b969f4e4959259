"""`check --online`: tries Redash with every credential of a configuration."""

from __future__ import annotations

from pathlib import Path

from gateway import config
from gateway.app.tls import client_context
from gateway.errors import GatewayError
from gateway.model import SystemClock
from gateway.outcome import Sender
from gateway.policy.configured import Live
from gateway.redash import calls
from gateway.telemetry.metrics import Levels, Metrics
from gateway.telemetry.observer import Telemetry
from gateway.upstream.client import HttpUpstream


async def check_online(settings: config.Config) -> list[str]:
    """Try Redash with every credential. Returns the mistakes, one line each."""
    clock, live = SystemClock(), Live(settings)
    observer = Telemetry(Metrics(_no_levels, live.access.credentials, 0), clock, access_log=False)
    upstream = HttpUpstream(live, client_context(settings.upstream), clock, observer, _no_spool)
    await upstream.open()
    mistakes = []
    try:
        for credential in live.access.credentials.values():
            request = calls.session() if credential.query_id is None else calls.query(credential.query_id)
            try:
                response = await upstream.send(credential, request, Sender("check", "check"))
            except GatewayError as error:
                mistakes.append(f"credentials.{credential.name}: {error.detail}")
                continue
            if response.status != 200:
                mistake = f"Redash responded {response.status} to GET {request.path}."
                mistakes.append(f"credentials.{credential.name}: {mistake}")
    finally:
        await upstream.close()
    return mistakes


def _no_levels() -> Levels:
    raise NotImplementedError("a check has no metrics to scrape")


def _no_spool() -> Path:
    raise NotImplementedError("a check requests no results")

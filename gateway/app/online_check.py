"""`check --online`: tries Redash with every credential of a configuration, and the Redis that gateways share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway import config
from gateway.app.settings import store_options
from gateway.app.tls import client_context
from gateway.concurrency.spool import Spool
from gateway.config.values import AUTOMATIC
from gateway.errors import GatewayError
from gateway.model import SystemClock
from gateway.outcome import Sender
from gateway.policy.configured import Live
from gateway.redash import calls
from gateway.redash.organisation import RedashVersion, parse_organisation
from gateway.store import factory
from gateway.telemetry.metrics import Levels, Metrics
from gateway.telemetry.observer import Telemetry
from gateway.upstream.client import HttpUpstream


class Findings(NamedTuple):
    """What an online check has found, one line each."""

    notes: list[str]
    mistakes: list[str]


async def check_online(settings: config.Config) -> Findings:
    """Try Redash with every credential, and Redis if the store is one."""
    redash = await _redash(settings)
    shared = await factory.examine(settings.cache.store, store_options(settings, SystemClock()))
    return Findings([*redash.notes, *_at_store(shared.notes)], [*redash.mistakes, *_at_store(shared.mistakes)])


def _at_store(lines: Sequence[str]) -> list[str]:
    return [f"cache.store: {line}" for line in lines]


async def _redash(settings: config.Config) -> Findings:
    clock, live = SystemClock(), Live(settings)
    observer = Telemetry(Metrics(_no_levels, live.access.credentials, 0), clock, access_log=False)
    upstream = HttpUpstream(live, client_context(settings.upstream), clock, observer, _no_spool)
    await upstream.open()
    mistakes: list[str] = []
    version = RedashVersion()
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
            elif (organisation := parse_organisation(response.body.load())) is not None:
                version = organisation.version
    finally:
        await upstream.close()
    configured = settings.upstream.version
    in_force = version if configured == AUTOMATIC else RedashVersion(configured)
    return Findings([in_force.meaning()], [*_wrong_version(configured, version), *mistakes])


def _wrong_version(configured: str, found: RedashVersion) -> list[str]:
    if configured == AUTOMATIC or not found.number:
        return []
    if RedashVersion(configured).hash_folds_case == found.hash_folds_case:
        return []
    return [f'upstream.version: is "{configured}", but Redash says {found.number}; write "auto"']


def _no_levels() -> Levels:
    raise NotImplementedError("a check has no metrics to scrape")


async def _no_spool(_size: int | None) -> Spool:
    raise NotImplementedError("a check requests no results")

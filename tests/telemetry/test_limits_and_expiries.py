"""Gauges by which an operator sees trouble before it comes: limits beside what is taken, and when something expires."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.inside import no_levels
from support.process import certificate
from support.world import World

from gateway.app.certificates import ends_of_validity
from gateway.outcome import Outcome, batched
from gateway.telemetry.metrics import OWN_FAILURES, Metrics

CLIENT = "redash_gateway_client_expiry_timestamp_seconds"
CERTIFICATE = "redash_gateway_certificate_expiry_timestamp_seconds"


# -- certificates


def test_the_end_is_the_one_that_ssl_reads(tmp_path: Path, needs: Callable[[str], str]) -> None:
    needs("openssl")
    made = certificate(tmp_path, "one")[0].read_text()
    system = ssl.create_default_context()
    pems = [*map(ssl.DER_cert_to_PEM_cert, system.get_ca_certs(binary_form=True)), made]
    for pem in pems:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=pem)
        (known,) = context.get_ca_certs()
        assert ends_of_validity(pem) == [ssl.cert_time_to_seconds(str(known["notAfter"]))], known
    assert len(ends_of_validity("text\n".join(pems))) == len(pems)


@given(st.binary(max_size=200))
def test_a_certificate_that_is_none_has_no_end_and_raises_nothing(data: bytes) -> None:
    assert ends_of_validity(ssl.DER_cert_to_PEM_cert(data)) == []


async def test_the_certificates_in_force_are_shown_by_their_keys(
    bare: World, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    needs("openssl")
    cert, key = certificate(tmp_path, "here")
    (end,) = ends_of_validity(cert.read_text())
    await bare.start(upstream=f'ca_file = "{cert}"')
    assert await bare.metric(CERTIFICATE, key="upstream.ca_file") == end
    assert await bare.metric(CERTIFICATE, key="server.tls_cert") == 0  # there is none
    bare.reconfigure(bare.text.replace(f'ca_file = "{cert}"', ""))
    assert await bare.metric(CERTIFICATE) == 0
    assert key.exists()


# -- clients


async def test_only_clients_whose_tokens_expire_are_shown(bare: World) -> None:
    await bare.start(dashboard="expires = 2027-06-21")
    assert await bare.metric(CLIENT, client="dashboard") == await bare.metric(CLIENT) > 0


# -- limits


async def test_limits_are_those_of_the_configuration(bare: World) -> None:
    await bare.start(cache='memory = "64MB"', upstream="max_executions = 3\nmax_requests = 7")
    for of, limit in (("executions", 3), ("upstream_requests", 7)):
        assert await bare.metric("redash_gateway_in_use_limit", of=of) == limit
    assert await bare.metric("redash_gateway_memory_limit_bytes", part="request_bodies") == 64e6
    samples = await bare.metrics()
    for name in [
        name for name in samples if name.startswith(("redash_gateway_in_use{", "redash_gateway_memory_bytes"))
    ]:
        limit = name.replace("in_use{", "in_use_limit{").replace("memory_bytes", "memory_limit_bytes")
        assert 0 <= samples[name] <= samples[limit], name
        assert samples[limit] > 0 or 'part="popular"' in name, name  # no [[warm]] entry is of popular results


async def test_what_is_taken_is_counted(world: World) -> None:
    hold = world.sandbox.hold()
    job = (await world.post("by_country", max_age=0)).job
    await world.sandbox.wait_executions(1)
    assert await world.metric("redash_gateway_in_use", of="executions") == 1
    assert await world.metric("redash_gateway_in_use", of="connections") >= 1
    assert await world.metric("redash_gateway_memory_bytes", part="runs") > 0
    assert await world.metric("redash_gateway_memory_bytes", part="definitions") > 0
    hold.release()
    await world.finish(job["id"])
    assert await world.metric("redash_gateway_in_use", of="executions") == 0
    assert await world.metric("redash_gateway_memory_bytes", part="runs") == 0


# -- the gateway's own errors


@pytest.mark.parametrize(
    ("status", "reason", "own"),
    [
        (500, "internal", True),
        (502, "upstream_error", True),
        (503, "unavailable", True),
        (500, "upstream_refused", False),  # Redash's own error, passed on
        (403, "forbidden", False),
        (499, "", False),
    ],
)
def test_own_errors_are_counted_apart_from_those_of_redash(status: int, reason: str, own: bool) -> None:
    metrics = Metrics(no_levels, [], 0)
    (batch,) = batched([Outcome(request_id="r", status=status, reason=reason)])
    metrics.record_requests(batch)
    assert sum(metrics.errors.values()) == own
    assert set(metrics.errors) == {(name,) for name in OWN_FAILURES}


async def test_redash_s_own_error_is_not_the_gateway_s(world: World) -> None:
    await world.rows("by_country", max_age=0)
    assert (await world.get("/api/dashboards/no-such")).status == 500
    assert await world.metric("redash_gateway_errors_total") == 0
    await world.sandbox.disconnect()
    assert (await world.get("/api/data_sources")).status == 502
    assert await world.metric("redash_gateway_errors_total", reason="upstream_error") == 1


async def test_a_fault_while_a_response_is_sent_is_an_internal_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It was recorded as if the caller had left, so that nobody saw it.
    async def fail(*_: object, **__: object) -> bytes:
        raise KeyError("fault")

    monkeypatch.setattr("gateway.http.api.send_response", fail)
    assert (await world.get("/api/queries")).status == 500
    assert await world.metric("redash_gateway_errors_total", reason="internal") == 1
    assert await world.metric("redash_gateway_requests_total", status="5xx") == 1

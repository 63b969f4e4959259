"""421 says which host was asked for and which key lists the known ones, and repeats nothing that is no host name."""

from __future__ import annotations

import pytest
from support.world import World

from gateway.http.request import unknown_host


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("grafana.corp", "'grafana.corp' "),
        ("grafana.corp:8080", "'grafana.corp' "),
        ("[fe80::1]:80", "'[fe80::1]' "),
        ("", ""),
        ("<script>", ""),
        ("a b", ""),
        ("x" * 101, ""),
        ("rg_" + "x1" * 22, ""),
    ],
)
def test_only_names_are_repeated(host: str, named: str) -> None:
    """A token that was sent in the wrong header is not: errors end up in the logs of clients."""
    assert unknown_host(host) == f"The Host {named}of this request is not among the gateway's server.hosts"


async def test_the_error_names_the_host_and_the_key(world: World) -> None:
    reply = await world.get("/api/session", host="grafana.corp:80")
    assert reply.status == 421
    expected = "The Host 'grafana.corp' of this request is not among the gateway's server.hosts; its operator can add"
    assert reply.json["detail"].startswith(expected)
    async with world.session.get(f"{world.admin}/readyz", headers={"Host": "grafana.corp"}) as response:
        assert response.status == 421
        assert "'grafana.corp' of this request is not among" in (await response.json())["detail"]

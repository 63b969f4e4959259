"""The access log names the caller: the peer of the connection, or what a trusted proxy says in its place.

Whoever may call can send X-Forwarded-For. So it counts only from a trusted proxy, and of it only what such a proxy has
added, which is on the right.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network, ip_address
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import TOKENS
from support.http import exchange
from support.inside import open_requests
from support.waiting import until
from support.world import World

from gateway.http.addresses import UNIX, TrustedProxies, peer_of
from gateway.telemetry import log

TRUSTED = ("10.0.0.0/8", "fd00::/8")


def caller(peer: str, *values: str, trusted: tuple[str, ...] = TRUSTED) -> str:
    head = b"GET / HTTP/1.1\r\nHost: a" + b"".join(f"\r\nx-forwarded-FOR:  {value}".encode() for value in values)
    return TrustedProxies(trusted).caller_in(peer, head)


@pytest.mark.parametrize(
    ("peer", "values", "found"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # no proxy of ours
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.2.3.4, 198.51.100.1"], "198.51.100.1"),  # what the caller wrote itself
        ("10.0.0.1", ["198.51.100.1, 10.2.3.4"], "198.51.100.1"),  # two proxies
        ("10.0.0.1", ["198.51.100.1", "10.2.3.4"], "198.51.100.1"),  # each with a field of its own
        ("10.0.0.1", ["10.9.9.9, 10.2.3.4"], "10.9.9.9"),  # nobody but proxies: the first
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, rg_secret, 10.2.3.4"], "10.2.3.4"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:DB8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["fe80::1%evil"], "10.0.0.1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        (UNIX, ["198.51.100.1"], UNIX),
    ],
)
def test_the_rightmost_hop_that_is_no_trusted_proxy(peer: str, values: list[str], found: str) -> None:
    assert caller(peer, *values) == found


def test_who_connects_over_a_unix_socket_can_be_trusted() -> None:
    assert caller(UNIX, "198.51.100.1", trusted=("unix",)) == "198.51.100.1"
    assert caller("10.0.0.1", "198.51.100.1", trusted=("unix",)) == "10.0.0.1"


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30), max_size=5))
def test_whatever_stands_there_an_address_goes_to_the_log(values: list[str]) -> None:
    assert caller("10.0.0.1", *values) == str(ip_address(caller("10.0.0.1", *values)))


@given(st.lists(st.ip_addresses(), max_size=5), st.lists(st.ip_addresses(network="10.0.0.0/8"), max_size=3))
def test_what_the_caller_writes_itself_changes_nothing(forged: list[Any], proxies: list[Any]) -> None:
    hops = ", ".join(map(str, [*forged, "198.51.100.1", *proxies]))
    assert caller("10.0.0.1", hops) == "198.51.100.1"
    assert all(proxy in IPv4Network("10.0.0.0/8") for proxy in proxies)


def test_a_peer_of_a_socket_for_both_versions_is_what_it_is() -> None:
    class Transport:
        def __init__(self, peername: object) -> None:
            self.peername = peername

        def get_extra_info(self, name: str) -> object:
            return {"peername": self.peername}[name]

    assert peer_of(Transport(("::ffff:10.0.0.1", 1, 0, 0))) == "10.0.0.1"  # type: ignore[arg-type]
    assert peer_of(Transport(("fe80::1%eth0", 1, 0, 2))) == "fe80::1"  # type: ignore[arg-type]
    assert peer_of(Transport("")) == UNIX  # type: ignore[arg-type]
    assert peer_of(None) == "-"


# -- every path of a request


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The access lines, as JSON."""
    found: list[dict[str, Any]] = []
    forms = log.AccessLines("json")
    monkeypatch.setattr(log, "parts_of_line", forms.parts_of)
    monkeypatch.setattr(log, "write_requests", lambda *given: found.extend(map(json.loads, forms.of(*given))))
    return found


@pytest.mark.parametrize("trusts", [False, True])
async def test_every_path_logs_the_same_address(
    bare: World, by_fast_path: list[bytes], logged: list[dict[str, Any]], trusts: bool
) -> None:
    await bare.start(server='trusted_proxies = ["127.0.0.0/8"]' if trusts else "")
    bare.runtime.telemetry.observer.access_log = True
    await bare.rows("by_country", max_age=0)
    await until(lambda: not open_requests(bare.runtime))
    bare.runtime.telemetry.observer.flush()
    logged.clear()
    body = {"max_age": 3600}
    path = f"/api/queries/{bare.named['by_country']}/results"
    for number in range(6):  # the normal path, a cached response, the fast path, remembered bytes
        await bare.call("POST", path, body, headers={"X-Forwarded-For": f"1.2.3.4, 198.51.100.{number // 2}"})
    await until(lambda: not open_requests(bare.runtime))
    bare.runtime.api.cache.flush_all()
    bare.runtime.telemetry.observer.flush()
    assert by_fast_path
    expected = [f"198.51.100.{number // 2}" if trusts else "127.0.0.1" for number in range(6)]
    assert [line["address"] for line in logged] == expected
    assert {line["bytes"] for line in logged} == {logged[0]["bytes"]}
    assert logged[0]["bytes"] > 0


async def test_a_request_that_is_no_http_is_logged_with_its_peer(bare: World, logged: list[dict[str, Any]]) -> None:
    await bare.start()
    bare.runtime.telemetry.observer.access_log = True
    await exchange(bare.url, b"nonsense\r\n\r\n")
    await until(lambda: not open_requests(bare.runtime))
    bare.runtime.telemetry.observer.flush()
    assert [(line["status"], line["address"]) for line in logged] == [(400, "127.0.0.1")]


async def test_a_caller_over_a_unix_socket_is_logged_as_such(bare: World, logged: list[dict[str, Any]]) -> None:
    await bare.start()
    bare.runtime.telemetry.observer.access_log = True
    await bare.stop()
    bare.text = bare.text.replace('listen = "127.0.0.1:0"\ndrain', f'listen = "unix:{bare.directory}/api"\ndrain')
    await bare.resume()
    bare.runtime.telemetry.observer.access_log = True
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{bare.directory}/api")) as session:
        url = "http://localhost/api/session"
        async with session.get(url, headers={"Authorization": f"Key {TOKENS['dashboard']}"}) as response:
            assert response.status == 200
    await until(lambda: not open_requests(bare.runtime))
    bare.runtime.telemetry.observer.flush()
    assert [line["address"] for line in logged] == ["unix"]

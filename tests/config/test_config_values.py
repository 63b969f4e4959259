"""What well-written values become."""

from __future__ import annotations

import pickle
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from config_helpers import BASE, CLIENT, ENVIRON, HASH, UPSTREAM, USER, good
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, Listen, Rate, load, notes, summary, token_hash, units
from gateway.config.load import admin_listen

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@given(st.integers(0, 5000), st.sampled_from(sorted(SECONDS)), st.sampled_from(["", " "]))
def test_durations_mean_number_times_unit(number: int, unit: str, space: str) -> None:
    assert units.duration(f"{number}{space}{unit}") == pytest.approx(number * SECONDS[unit])


@given(st.floats(0, 10**9) | st.integers(0, 10**9))
def test_plain_numbers_are_seconds(number: float) -> None:
    assert units.duration(number) == number


@given(st.integers(1, 10**6), st.sampled_from(sorted(BYTES)))
def test_sizes_mean_number_times_unit(number: int, unit: str) -> None:
    assert units.size(f"{number}{unit}") == number * BYTES[unit]
    assert units.size(number) == number


@given(st.integers(1, 10**9 - 1), st.sampled_from(["s", "m", "h", "d"]))
def test_rates_survive_being_written_and_read(count: int, unit: str) -> None:
    assert units.rate(f"{count}/{unit}") == Rate(count, SECONDS[unit])
    assert str(units.rate(f"{count}/{unit}")) == f"{count}/{unit}"


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.integers()))
def test_anything_else_is_a_value_error_at_most(value: object) -> None:
    for read in (units.duration, units.positive_duration, units.size, units.rate, units.expiry):
        with suppress(ValueError):
            read(value)


def client(keys: str) -> Config:
    return good(UPSTREAM + USER + CLIENT + keys)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2027-06-30", datetime(2027, 7, 1, tzinfo=UTC)),
        ("9999-12-31", None),
        ("2027-06-30T12:00:00Z", datetime(2027, 6, 30, 12, tzinfo=UTC)),
        ("2027-06-30T12:00:00+02:00", datetime(2027, 6, 30, 10, tzinfo=UTC)),
        ("2027-06-30T12:00:00", datetime(2027, 6, 30, 12, tzinfo=UTC)),
    ],
)
def test_a_day_ends_at_its_end_in_utc(written: str, meant: datetime | None) -> None:
    expires = client(f"expires = {written}").clients["c"].expires
    assert expires == (meant.timestamp() if meant else 253402300800.0)


@pytest.mark.parametrize(
    ("written", "meant", "url", "local"),
    [
        ("127.0.0.1:0", Listen(host="127.0.0.1", port=0), "http://127.0.0.1:0", True),
        ("0.0.0.0:80", Listen(host="0.0.0.0", port=80), "http://127.0.0.1:80", False),
        ("[::1]:80", Listen(host="::1", port=80), "http://[::1]:80", True),
        ("[::]:80", Listen(host="::", port=80), "http://[::1]:80", False),
        ("localhost:80", Listen(host="localhost", port=80), "http://localhost:80", True),
        ("gw.example:80", Listen(host="gw.example", port=80), "http://gw.example:80", False),
        ("unix:/run/g.sock", Listen(unix="/run/g.sock"), "unix:/run/g.sock", True),
    ],
)
def test_addresses(written: str, meant: Listen, url: str, local: bool) -> None:
    (listen,) = good(BASE + f'[server]\nlisten = "{written}"\n').server.listen
    assert listen == meant
    assert (str(listen), listen.url, listen.is_local) == (written, url, local)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://Redash.Example.com/", "https://redash.example.com"),
        ("http://h:5000/acme/", "http://h:5000/acme"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://10.0.0.1/a/b", "http://10.0.0.1/a/b"),
    ],
)
def test_redash_url_loses_its_last_slash(written: str, meant: str) -> None:
    assert good(BASE.replace("https://redash.example.com", written)).upstream.url == meant


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\r\n")
    (tmp_path / "ca.pem").write_text("x")
    text = BASE.replace('key_env = "KEY"\n[clients', 'key_file = "key"\n[clients').replace(
        UPSTREAM, UPSTREAM + 'ca_file = "ca.pem"\n'
    )
    (tmp_path / "config.toml").write_text(text)
    config = load(tmp_path / "config.toml", ENVIRON)
    assert config.cache.store == f"sqlite:{tmp_path}/redash-gateway.db"
    assert config.upstream.ca_file == tmp_path / "ca.pem"
    assert config.credentials["q"].key.reveal() == "secret"
    assert config.credentials["a"].key.reveal() == "k" * 40


@pytest.mark.parametrize("store", ["memory:", "sqlite:/a/b.db", "redis://h", "rediss://:pass@h:6379/0"])
def test_stores(store: str) -> None:
    assert good(BASE + f'[cache]\nstore = "{store}"\n').cache.store == store


def test_lists_warm_and_rules() -> None:
    config = good(
        BASE
        + '[[cache.rules]]\nqueries = [42]\nfloor = "5m"\n[[cache.rules]]\ntags = ["x"]\n'
        + '[[warm]]\nquery = 42\nparameters = { d = { start = "a", end = "b" } }\nevery = "10m"\ncredential = "q"\n'
    )
    assert [rule.floor for rule in config.cache.rules] == [300.0, None]
    assert config.warm[0].parameters == {"d": {"start": "a", "end": "b"}}


def test_a_floor_is_a_duration_or_a_multiple_of_the_last_runtime() -> None:
    written = 'floor = { runtimes = 10, at_least = "30s", at_most = "1h" }'
    floor = good(BASE + f"[cache]\n{written}\n").cache.floor
    assert isinstance(floor, units.RuntimeFloor)
    assert [floor.seconds(runtime) for runtime in (0.0, 0.2, 40.0, 4_000.0)] == [30.0, 30.0, 400.0, 3_600.0]
    assert str(floor) == "10 runtimes, at least 30s, at most 1h"
    assert good(BASE + "[cache]\nfloor = { runtimes = 2 }\n").cache.floor == units.RuntimeFloor(2.0)


def test_dashboards_have_ids_and_slugs() -> None:
    warm = '[[warm]]\ndashboard = "ops"\nevery = "10m"\ncredential = "a"\n'
    config = good(BASE + 'dashboards = [10, "sales-overview", 9]\n' + warm)
    assert config.clients["c"].dashboards == {9, 10, "sales-overview"}
    assert config.warm[0].dashboard == "ops"
    assert "only the queries on dashboards 9, 10, sales-overview" in "\n".join(summary(config))


def test_no_secret_is_printed_pickled_or_summed_up() -> None:
    config = good(BASE + '[cache]\nstore = "redis://:hunter2@h"\n')
    texts = [repr(config), str(config), *summary(config), *notes(config, 0)]
    assert not [text for text in texts for secret in (HASH, "hunter2", "k" * 40) if secret in text]
    with pytest.raises(TypeError):
        pickle.dumps(config.credentials["a"].key)


def test_notes_tell_of_open_doors_and_idle_things() -> None:
    config = good(
        BASE
        + "expires = 2020-01-01\n"
        + '[clients.anonymous]\ncredentials = ["a"]\n'
        + '[admin]\nlisten = "0.0.0.0:1"\n[server]\nlisten = "0.0.0.0:2"\nhosts = ["*"]\n'
    )
    told = [note.partition(":")[0] for note in notes(config, 2e9)]
    assert told == [
        "clients.anonymous",
        "admin.token_sha256",
        "server.hosts",
        "server.listen",
        "clients.c.expires",
        "credentials.q",
    ]


def test_a_listener_for_others_that_accepts_only_loopback_names_is_noted() -> None:
    # Everybody but the operator on that very machine would get 421.
    told = notes(good(BASE + '[server]\nlisten = "0.0.0.0:2"\n'), 0.0)
    assert any(note.startswith("server.hosts: only localhost, 127.0.0.1") for note in told)
    for server in ('listen = "127.0.0.1:2"', 'listen = "0.0.0.0:2"\nhosts = ["redash.example"]'):
        assert not any("server.hosts" in note for note in notes(good(BASE + f"[server]\n{server}\n"), 0.0))


def test_a_drain_that_ends_before_the_longest_wait_is_noted() -> None:
    noted = notes(good(BASE + '[server]\nmax_wait = "50s"\ndrain_timeout = "50s"\n'), 0.0)
    assert any(note.startswith("server.drain_timeout: not above server.max_wait") for note in noted)
    assert not any("drain_timeout" in note for note in notes(good(BASE), 0.0))


def test_admin_address_is_read_without_keys_or_a_right_rest(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('nonsense = 1\n[admin]\nlisten = "unix:/run/a.sock"\n')
    assert admin_listen(tmp_path / "c.toml") == Listen(unix="/run/a.sock")


def test_token_hash_is_plain_sha256() -> None:
    assert token_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

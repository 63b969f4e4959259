"""How a Redis is named: `cache.store` and the table `[redis]`, and what each mistake in them is told as."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_helpers import BASE, ENVIRON, good, mistakes

from gateway.config import notes

PASSWORD = "p\u00e4ss: word@/"
ENCODED = "p%C3%A4ss%3A%20word%40%2F"


def text(store: str, *keys: str) -> str:
    return BASE + f'[cache]\nstore = "{store}"\n[redis]\n' + "\n".join(keys)


@pytest.mark.parametrize(
    ("store", "hosts", "more"),
    [
        ("redis://h", (("h", 6379),), {}),
        ("redis://h/", (("h", 6379),), {}),
        ("REDIS://H:1/15", (("h", 1),), {"database": 15}),
        ("rediss://[::1]:2/3", (("::1", 2),), {"tls": True, "database": 3}),
        ("redis+sentinel://a/m", (("a", 26379),), {"master": "m"}),
        (
            "rediss+sentinel://a:1,[::1],c:3/my-master/2",
            (("a", 1), ("::1", 26379), ("c", 3)),
            {"tls": True, "master": "my-master", "database": 2},
        ),
    ],
)
def test_where_redis_is(store: str, hosts: object, more: dict[str, object]) -> None:
    address = good(text(store)).redis_address
    assert address.hosts == hosts
    seen = {"tls": address.tls, "master": address.master, "database": address.database}
    assert seen == {"tls": False, "master": "", "database": 0} | more
    assert (address.username, address.password.reveal()) == ("", "")


@pytest.mark.parametrize(
    ("store", "keys", "username"),
    [
        (f"redis://:{ENCODED}@h", [], ""),
        (f"redis://us%C3%A9r:{ENCODED}@h", [], "usér"),
        (f"redis+sentinel://u:{ENCODED}@a,b/m", [], "u"),
        ("redis://h", ['password_env = "P"'], ""),
        ("redis://u@h", ['password_env = "P"'], "u"),
        ("redis://h", ['username = "u"', 'password_file = "redis.password"'], "u"),
        (f"redis://:{ENCODED}@h", ['username = "u"'], "u"),
    ],
)
def test_user_and_password(store: str, keys: list[str], username: str, tmp_path: Path) -> None:
    (tmp_path / "redis.password").write_text(PASSWORD + "\n")
    config = good(text(store, *keys), tmp_path, ENVIRON | {"P": PASSWORD})
    address = config.redis_address
    assert (address.username, address.password.reveal()) == (username, PASSWORD)
    assert not [shown for shown in (repr(config), repr(address), str(address)) if PASSWORD in shown or ENCODED in shown]


SERVER = 'write "redis://HOST:PORT/DB"'
SENTINELS = 'write "redis+sentinel://HOST1:26379,HOST2:26379/MASTER"'


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("redis://", f"has a host or port that cannot be read; {SERVER}"),
        ("redis:h", f"is not a URL; {SERVER}"),
        ("redis://h:port", f"has a host or port that cannot be read; {SERVER}"),
        ("redis://h:70000", f"has a host or port that cannot be read; {SERVER}"),
        ("redis://h/name", f"has a path that is not the number of a database; {SERVER}"),
        ("redis://a,b", f"names several servers, which is for Sentinels: {SENTINELS}"),
        ("redis://h?db=3", "has a character that must be percent-encoded in a password, or an argument, which none"),
        ("redis://:a#b@h", "has a character that must be percent-encoded in a password, or an argument, which none"),
        ("redis+sentinel:a", f"is not a URL; {SENTINELS}"),
        ("redis+sentinel://a,b", f"lacks the name by which the Sentinels know the master; {SENTINELS}"),
        ("redis+sentinel://a,b/", f"lacks the name by which the Sentinels know the master; {SENTINELS}"),
        ("redis+sentinel://a,,b/m", "has a host or port that cannot be read"),
        (
            "redis+cluster://a,b",
            "names a Redis Cluster, which is not supported, because each script needs",
        ),
        ("rediss-cluster://a", "names a Redis Cluster, which is not supported, because each script needs"),
        ("valkey://a", 'names no store; write "memory:"'),
    ],
)
def test_mistakes_in_the_url(store: str, told: str) -> None:
    (line,) = mistakes(text(store))
    assert line.startswith(f"cache.store: the value {told}")


@pytest.mark.parametrize(
    ("store", "key", "told"),
    [
        ("redis://:x@h", 'password_env = "P"', "redis.password_env: cache.store gives a password, too; keep one"),
        (
            "redis://h",
            'password_env = "P"\npassword_file = "p"',
            "redis.password_file: redis.password_env gives a password, too; keep one",
        ),
        ("redis://u:x@h", 'username = "v"', "redis.username: cache.store names a user, too; keep one of them"),
        ("redis://u@h", "", "cache.store: has a user without a password; add redis.password_env"),
        ("redis://h", 'username = "u"', "redis.username: has a user without a password; add redis.password_env"),
        ("redis://h", 'password = "x"', "redis.password: unknown key; passwords are not written in this table"),
        ("redis://h", 'password_env = "ABSENT"', "redis.password_env: the environment variable ABSENT is not set"),
        ("redis://h", 'password_env = "EMPTY"', "redis.password_env: the password there is empty"),
        ("redis://h", 'password_env = "LONG"', "redis.password_env: the password there is too long"),
        ("redis://h", 'password_file = "absent"', "redis.password_file: the file '/etc/gateway/absent' cannot be read"),
        ("redis://h", 'ca_file = "/dev/null"', 'redis.ca_file: is only for TLS; write "rediss:" instead'),
        ("rediss://h", 'ca_file = "absent"', "redis.ca_file: the file '/etc/gateway/absent' cannot be read"),
        ("redis://h", 'prefix = "a{b}"', "redis.prefix: 'a{b}' is not a usable name; use up to 64 letters"),
        ("redis://h", 'name = ""', "redis.name: '' is empty"),
        ("redis://h", 'rates = "both"', "redis.rates: 'both' is not one of the choices; known: gateway, shared"),
        ("memory:", 'name = "gateway-1"', "redis.name: is only for a Redis in cache.store; write store ="),
        ("sqlite:x.db", 'rates = "gateway"', "redis.rates: is only for a Redis in cache.store; write store ="),
    ],
)
def test_mistakes_in_the_table(store: str, key: str, told: str) -> None:
    lines = mistakes(text(store, key), environ=ENVIRON | {"P": PASSWORD, "EMPTY": "\n", "LONG": "x" * 5000})
    assert [line[: len(told)] for line in lines] == [told]


def test_a_redis_without_a_password_is_noted() -> None:
    told = [note for note in notes(good(text("redis://h")), 0) if note.startswith("cache.store")]
    assert told == ["cache.store: a Redis without a password; whoever can write there decides what clients get"]
    assert not [note for note in notes(good(text("redis://:x@h")), 0) if note.startswith("cache.store")]
    assert not [note for note in notes(good(BASE), 0) if note.startswith("cache.store")]


def test_defaults_may_be_written_without_a_redis() -> None:
    """As the example does: they say nothing that is not so without them."""
    assert good(text("memory:", 'prefix = "redash-gateway"', 'rates = "shared"')).redis.rates == "shared"

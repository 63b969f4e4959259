"""Every mistake that a configuration can have: one line for each, with the dotted key and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_helpers import BASE, CLIENT, ENVIRON, HASH, OTHER_HASH, QUERY, UPSTREAM, USER, good, mistakes

from gateway.config import load
from gateway.errors import ConfigurationError

RULE = "[[cache.rules]]\n"
POPULAR = '[[warm]]\npopular = 5\nwithin = "1d"\nbudget = "10m/h"\ncredential = "a"\n'
WARM = '[[warm]]\nevery = "10m"\ncredential = "a"\n'

ONE_MISTAKE = [
    # tables and keys
    ("[serve]\nlisten = 1\n", "serve: unknown key; did you mean 'server'?"),
    ('[server]\nlisen = ":1"\n', "server.lisen: unknown key; did you mean 'listen'?"),
    ("[server]\nmax_entry = 1\n", "server.max_entry: unknown key; it belongs in [cache]"),
    ("[metrics]\nxyz = 1\n", "metrics.xyz: unknown key; known: per_query"),
    ("[[log]]\n", "log: a list is not a table; write [log], not [[log]]"),
    ("cache.rules = 3\n", "cache.rules: 3 is not a list of tables; write [[cache.rules]] and its keys below"),
    ("warm = [3]\n", "warm[0]: 3 is not a table"),
    # plain values
    ('[server]\nmax_wait = "50 parsecs"\n', "server.max_wait: '50 parsecs' is not a duration; write for example"),
    ('[server]\nmax_wait = "50"\n', "server.max_wait: '50' is not a duration"),
    ("[server]\nmax_wait = -1\n", "server.max_wait: -1 is out of range"),
    ("[server]\nmax_wait = nan\n", "server.max_wait: nan is not a duration"),
    ("[server]\nmax_wait = true\n", "server.max_wait: true is not a duration"),
    ('[server]\nmax_request_body = "1Mb!"\n', "server.max_request_body: '1Mb!' is not a size"),
    ("[server]\nmax_request_body = 0\n", "server.max_request_body: 0 is out of range"),
    ("[metrics]\nper_query = -1\n", "metrics.per_query: -1 is not a whole number of at least 0"),
    ("[metrics]\nper_query = true\n", "metrics.per_query: true is not a whole number"),
    ("[metrics]\nper_query = 0x" + "f" * 9000 + "\n", "metrics.per_query: a huge number is not a whole number"),
    ("[log]\naccess = 1\n", "log.access: 1 is neither true nor false"),
    ('[log]\nformat = "jsn"\n', "log.format: 'jsn' is not one of the choices; did you mean 'json'?"),
    ("[log]\nformat = 3\n", "log.format: 3 is not one of the choices; known: json, text"),
    # addresses
    ('[server]\nlisten = "8080"\n', "server.listen: '8080' is not an address"),
    ('[server]\nlisten = ":8080"\n', "server.listen: ':8080' is not an address"),
    ('[server]\nlisten = "x:70000"\n', "server.listen: 'x:70000' is not an address"),
    ('[server]\nlisten = "::1:80"\n', "server.listen: '::1:80' is not an address"),
    ('[server]\nlisten = "unix:relative"\n', "server.listen: 'unix:relative' is not an address"),
    ('[admin]\nlisten = "127.0.0.1:8080"\n', "admin.listen: is the same address as server.listen"),
    ("[server]\nhosts = []\n", "server.hosts: the list is empty"),
    ('[server]\ntrusted_proxies = ["lb"]\n', "server.trusted_proxies[0]: 'lb' is not a network; write \"10.0.0.0/8\""),
    (
        '[server]\ntrusted_proxies = ["10.0.0.1/8"]\n',
        "server.trusted_proxies[0]: '10.0.0.1/8' has bits set beyond its length; write \"10.0.0.0/8\"",
    ),
    ('[server]\ntrusted_proxies = ["0.0.0.0/0"]\n', "server.trusted_proxies[0]: '0.0.0.0/0' trusts everybody"),
    (
        '[admin]\ntoken_sha256 = ["a"]\n',
        "admin.token_sha256: the value is a list; write one string, without brackets",
    ),
    ('[server]\nhosts = "a"\n', "server.hosts: is not a list; write it in square brackets"),
    ('[server]\nhosts = ["a", "b:80"]\n', "server.hosts[1]: 'b:80' is not a host name; write it without scheme, port"),
    ('[server]\ncors_origins = ["https://a/b"]\n', "server.cors_origins[0]: 'https://a/b' is not an origin"),
    ('[tracing]\nendpoint = "ftp://x"\n', "tracing.endpoint: 'ftp://x' is not a URL"),
    ('[server]\ntls_cert = "/dev/null"\n', "server.tls_key: is missing; server.tls_cert needs it"),
    ('[server]\ntls_key = "/dev/null"\n', "server.tls_cert: is missing; server.tls_key needs it"),
    # admin and cache
    ('[admin]\ntoken_sha256 = "abc"\n', "admin.token_sha256: the value is not a SHA-256"),
    (f'[admin]\ntoken_sha256 = "{HASH}"\n', "admin.token_sha256: is the same token as clients.c.token_sha256[0]"),
    ('[admin]\ntoken = "abc"\n', "admin.token: unknown key; tokens are not written in this file"),
    ('[cache]\nstore = "postgres://x"\n', "cache.store: the value names no store"),
    ('[cache]\nstore = "sqlite:"\n', "cache.store: the value names no store"),
    ('[cache]\nstore = "sqlite::memory:"\n', "cache.store: the value names no store"),
    (
        '[cache]\ntimezone = "Europe/Berln"\n',
        "cache.timezone: 'Europe/Berln' is not a known time zone; did you mean 'Europe/Berlin'?",
    ),
    ('[cache]\ntimezone = "../../etc/passwd"\n', "cache.timezone: '../../etc/passwd' is not a known time zone"),
    ('[cache]\ntimezone = "Europe"\n', "cache.timezone: 'Europe' is not a known time zone"),
    ("[cache]\nfloor = 10\nceiling = 5\n", "cache.floor: 10 s is more than the ceiling of 5 s"),
    (
        '[cache]\nfloor = { runtimes = 10, at_least = "30s" }\nceiling = 5\n',
        "cache.floor: 30 s is more than the ceiling of 5 s",
    ),
    ("[cache]\nfloor = { runtime = 10 }\n", "cache.floor: a table has an unknown key; it may have runtimes"),
    ("[cache]\nfloor = { at_least = 10 }\n", "cache.floor: a table has no usable runtimes"),
    ("[cache]\nfloor = { runtimes = 0 }\n", "cache.floor: a table has no usable runtimes"),
    (
        '[cache]\nfloor = { runtimes = 2, at_least = "2m", at_most = "1m" }\n',
        "cache.floor: a table has an at_least above its at_most",
    ),
    ("[cache]\nfollow_schedule = 1\n", "cache.follow_schedule: 1 is neither true nor false"),
    (RULE + "floor = 1\n", "cache.rules[0]: matches nothing; it needs queries, data_sources or tags"),
    (RULE + "queries = []\n", "cache.rules[0].queries: the list is empty"),
    (RULE + 'tags = ["a", ""]\n', "cache.rules[0].tags[1]: '' is empty"),
    (RULE + "queries = [0]\n", "cache.rules[0].queries[0]: 0 is not a whole number of at least 1"),
    (
        RULE + "queries = [1]\nfloor = 2\nceiling = 1\n",
        "cache.rules[0].floor: 2 s is more than the ceiling of 1 s",
    ),
    # credentials
    ('[credentials.x]\nkind = "user"\n', "credentials.x: needs exactly one of key_env and key_file"),
    (
        '[credentials.x]\nkind = "user"\nkey_env = "KEY"\nkey_file = "/dev/null"\n',
        "credentials.x: needs exactly one of key_env and key_file",
    ),
    (
        '[credentials.x]\nkind = "user"\nkey = "abc"\n',
        "credentials.x.key: unknown key; keys are not written in this file; name an environment variable in key_env",
    ),
    ('[credentials.x]\nkey_env = "KEY"\n', "credentials.x.kind: is missing and has no default"),
    (
        '[credentials.x]\nkind = "query"\nkey_env = "KEY"\n',
        'credentials.x.query: is missing; kind = "query" needs the id of its query',
    ),
    (
        '[credentials.x]\nkind = "user"\nquery = 3\nkey_env = "KEY"\n',
        'credentials.x.query: belongs to kind = "query"; leave it out',
    ),
    ('[credentials.query]\nkind = "user"\nkey_env = "KEY"\n', 'credentials.query: the name "query" stands for'),
    ('[credentials."a b"]\nkind = "user"\nkey_env = "KEY"\n', 'credentials."a b": is not a usable name'),
    (QUERY.replace(".q]", ".q2]"), "credentials.q2.query: credentials.q is for the same query"),
    (
        '[credentials.x]\nkind = "user"\nkey_env = "ABSENT"\n',
        "credentials.x.key_env: the environment variable ABSENT is not set",
    ),
    (
        '[credentials.x]\nkind = "user"\nkey_file = "/no/such/file"\n',
        "credentials.x.key_file: the file '/no/such/file' cannot be read: No such file or directory",
    ),
    (
        '[credentials.x]\nkind = "user"\nkey_file = "/"\n',
        "credentials.x.key_file: the file '/' cannot be read: Is a directory",
    ),
    (
        '[credentials.x]\nkind = "user"\nkey_file = "a\\u0000b"\n',
        "credentials.x.key_file: 'a\\x00b' has control characters in it",
    ),
    # warm
    (WARM, "warm[0]: needs exactly one of query, dashboard and popular"),
    (WARM + "query = 1\ndashboard = 2\n", "warm[0]: needs exactly one of query, dashboard and popular"),
    (WARM + "dashboard = 1\nparameters = { a = 1 }\n", "warm[0].parameters: goes with query only"),
    (WARM + "query = 1\nparameters = { a = 2027-01-01 }\n", "warm[0].parameters: a table has a date in it"),
    (WARM + "query = 1\nparameters = { a = [inf] }\n", "warm[0].parameters: a table has a number in it that JSON"),
    (WARM + 'dashboard = "3"\n', "warm[0].dashboard: '3' is an id in quotes"),
    (WARM.replace('"10m"', "0") + "query = 1\n", "warm[0].every: 0 is too short"),
    (WARM.replace('"a"', '"b"') + "query = 1\n", "warm[0].credential: there is no credential 'b'; known: a, q"),
    (WARM.replace('"a"', '"q"') + "query = 1\n", "warm[0].credential: 'q' is the key of query 42"),
    (WARM.replace('"a"', '"q"') + "dashboard = 1\n", "warm[0].credential: 'q' is the key of query 42"),
    ('[[warm]]\npopular = 5\nwithin = "1d"\ncredential = "a"\n', "warm[0].budget: is missing; popular needs it"),
    (POPULAR + 'every = "5m"\n', "warm[0].every: goes with query and dashboard only"),
    (WARM + 'query = 1\nquiet = "22:00-06:00"\n', "warm[0].quiet: goes with popular only"),
    (POPULAR + 'quiet = "22:00-24:00"\n', "warm[0].quiet: '22:00-24:00' is not a time of quiet"),
    (POPULAR + 'quiet = "22:00-22:00"\n', "warm[0].quiet: '22:00-22:00' begins when it ends"),
    (POPULAR.replace("10m/h", "10m"), "warm[0].budget: '10m' is not a budget; write for example"),
    (POPULAR.replace("5", "5000"), "warm[0].popular: 5000 is not a whole number of at least 1 and at most 1000"),
    (POPULAR + POPULAR, "warm[1].credential: warm[0] renews what is popular with it already"),
    ('[[warm]]\nquery = 1\ncredential = "a"\n', "warm[0].every: is missing and has no default"),
]


@pytest.mark.parametrize(("addition", "expected"), ONE_MISTAKE, ids=[text for _, text in ONE_MISTAKE])
def test_one_mistake_is_one_line(addition: str, expected: str) -> None:
    found = mistakes(addition + BASE if addition.startswith(("cache.", "warm")) else BASE + addition)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


CLIENT_MISTAKES = [
    ("token_sha256 = []", "token_sha256: names no token"),
    ('token_sha256 = ["rg_abc"]', "token_sha256[0]: the value looks like a token itself"),
    (f'token_sha256 = ["{HASH.upper()}"]', "token_sha256[0]: the value is not a SHA-256"),
    (f'token_sha256 = ["{HASH}", "{HASH}"]', "token_sha256[1]: is the same token as clients.c.token_sha256[0]"),
    ('token = "x"', "token: unknown key; tokens are not written in this file"),
    ("credentials = []", "credentials: the list is empty"),
    ('credentials = ["b"]', "credentials[0]: there is no credential 'b'"),
    ("can = []", "can: the list is empty"),
    ('can = ["raed"]', "can[0]: 'raed' is not one of the choices; did you mean 'read'?"),
    ("queries = []", "queries: the list is empty"),
    ("dashboards = [1.5]", "dashboards[0]: 1.5 is not a whole number"),
    ("dashboards = [0]", "dashboards[0]: 0 is not a whole number of at least 1"),
    ('dashboards = ["3"]', "dashboards[0]: '3' is an id in quotes; write ids without quotes"),
    ('dashboards = ["a/b"]', "dashboards[0]: 'a/b' is not the slug of a dashboard"),
    ('dashboards = [""]', "dashboards[0]: '' is not the slug of a dashboard"),
    ('queries = ["sales"]', "queries[0]: 'sales' is not a whole number"),
    ('queries = [1]\ncan = ["read", "adhoc"]', "can: adhoc would bypass the binding to queries"),
    ('dashboards = [1]\ncan = ["write"]', "can: write would bypass the binding to dashboards"),
    (
        'queries = [1]\ndashboards = [1]\ncan = ["admin"]',
        "can: admin would bypass the binding to queries and dashboards",
    ),
    ('expires = "2027-06-30"', "expires: '2027-06-30' is not a date; write 2027-06-30"),
    ("expires = 12:00:00", "expires: 12:00:00 is not a date"),
    ('rate = "50"', "rate: '50' is not a rate"),
    ('rate = "0/s"', "rate: '0/s' is not a rate"),
    ("burst = 5", 'burst: needs rate; write for example rate = "50/s"'),
    ('rate = "x"\nburst = 5', "rate: 'x' is not a rate"),
    ('budget = "10m"', "budget: '10m' is not a budget"),
    ('budget = ["1m/h", "2m/h"]', "budget[1]: is for the same time as another one; keep one of them"),
    ("budget = []", "budget: the list is empty"),
    ('stale_over_budget = "1h"', 'stale_over_budget: needs budget; write for example budget = "30m/h"'),
    ("max_executions = 0", "max_executions: 0 is not a whole number of at least 1"),
    ('floor = "2m"\nceiling = "1m"', "floor: 120 s is more than the ceiling of 60 s"),
    ('reveal_keys = "yes"', "reveal_keys: 'yes' is neither true nor false"),
]


@pytest.mark.parametrize(("keys", "expected"), CLIENT_MISTAKES, ids=[text for _, text in CLIENT_MISTAKES])
def test_one_mistake_of_a_client_is_one_line(keys: str, expected: str) -> None:
    written = {line.partition(" =")[0] for line in keys.splitlines()}
    rest = [line for line in CLIENT.splitlines() if line.partition(" =")[0] not in written]
    found = mistakes(UPSTREAM + USER + "\n".join([*rest, keys]))
    assert len(found) == 1, found
    assert found[0].startswith(f"clients.c.{expected}")


URLS = [
    ("redash.example.com", "is not a URL"),
    ("https://", "is not a URL"),
    ("https://h:0x50", "is not a URL"),
    ("https://h ost", "has white space"),
    ("https://h!st", "has a host name with characters"),
    ("https://h/?a=1", "has a query or fragment"),
    ("https://h/#a", "has a query or fragment"),
    ("https://user:hunter2@h", "has a user name or password"),
    ("https://h/a/../b", "has a path"),
    ("https://h/acme/api/", "ends with /api"),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_redash_url_that_cannot_be_one(url: str, expected: str) -> None:
    (found,) = mistakes(BASE.replace("https://redash.example.com", url))
    assert found.startswith("upstream.url: ")
    assert expected in found
    assert "hunter2" not in found


@pytest.mark.parametrize("key", ["", "\n", "a b", " a", "a\nb", "a\x00", "ä", "k" * 5000])
def test_keys_that_cannot_travel_in_a_header_are_refused(key: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(key)
    from_file = mistakes(BASE + f'[credentials.x]\nkind = "user"\nkey_file = "{file}"\n')
    from_environment = mistakes(BASE + '[credentials.x]\nkind = "user"\nkey_env = "X"\n', environ=ENVIRON | {"X": key})
    assert [line.partition(":")[0] for line in from_file] == ["credentials.x.key_file"]
    assert [line.partition(":")[0] for line in from_environment] == ["credentials.x.key_env"]


def test_same_token_for_two_clients_is_refused() -> None:
    (found,) = mistakes(BASE + CLIENT.replace(".c]", ".d]"))
    assert found.startswith("clients.d.token_sha256[0]: is the same token as clients.c.token_sha256[0]")


def test_query_stands_for_nothing_without_a_query_credential() -> None:
    (found,) = mistakes(UPSTREAM + USER + CLIENT.replace('"a"', '"query"'))
    assert found.startswith('clients.c.credentials[0]: "query" needs a credential of kind = "query"')


def test_a_gateway_for_nobody_is_a_mistake() -> None:
    (found,) = mistakes(UPSTREAM)
    assert found.startswith("clients: there is none")


def test_an_empty_file_names_what_is_needed() -> None:
    assert [line.partition(":")[0] for line in mistakes("")] == ["upstream.url", "clients"]


def test_a_token_in_the_place_of_a_list_of_hashes_is_two_mistakes() -> None:
    text = BASE.replace(f'token_sha256 = ["{HASH}"]', f'token_sha256 = "rg_{"x1" * 21}"')
    assert [line.partition("token_sha256: ")[2] for line in mistakes(text)] == [
        "is not a list; write it in square brackets",
        "the value looks like a token itself; the file holds its SHA-256: `redash-gateway token` prints both",
    ]


def test_all_mistakes_are_told_at_once_and_consequences_are_not() -> None:
    text = '[upstream]\nurll = "x"\n[credentials]\na = 3\n[clients.c]\ncredentials = ["a"]\ntoken_sha256 = [3]\n'
    assert mistakes(text) == [
        "upstream.urll: unknown key; did you mean 'url'?",
        "credentials.a: 3 is not a table; write [credentials.a] and its keys below",
        "clients.c.token_sha256[0]: the value is not a string; write it in quotes",
    ]


def test_anonymous_needs_no_token() -> None:
    config = good(UPSTREAM + USER + '[clients.anonymous]\ncredentials = ["a"]\n')
    assert config.clients["anonymous"].token_sha256 == ()


def test_two_clients_may_have_two_tokens_each() -> None:
    text = BASE.replace(f'["{HASH}"]', f'["{HASH}", "{OTHER_HASH}"]')
    assert good(text).clients["c"].token_sha256 == (HASH, OTHER_HASH)


FILES = [
    (b"[server\n", "line 1, column 8: Expected ']' at the end of a table declaration"),
    (b"a = 1\na = 2\n", "line 2, column 6: Cannot overwrite a value"),
    (b"[server]\nlisten = ", "line 2, column 10: Invalid value"),
    (b"a = \xff", "is not UTF-8 text (byte 5)"),
    (b"a = " + b"[" * 100_000, "nested too deeply"),
    (b"a = " + b"1" * 10_000, "nested too deeply, or with a number too long"),
]


@pytest.mark.parametrize(("content", "expected"), FILES, ids=[text for _, text in FILES])
def test_files_that_are_not_toml(content: bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert len(caught.value.mistakes) == 1
    assert caught.value.mistakes[0].startswith(f"{file}: {expected}")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigurationError) as caught:
            load(path, {})
        assert caught.value.mistakes == [f"{path}: cannot be read: {reason}"]


def test_byte_order_mark_of_windows_editors_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(BASE.replace("\n", "\r\n"), encoding="utf-8-sig")
    assert load(file, ENVIRON).upstream.url == "https://redash.example.com"

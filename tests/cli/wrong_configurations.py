"""Eighty configurations that do not work: what is wrong with each, the key that says so, and what to do about it.

A case is the small configuration with one change; `remedy` is what the message must tell the reader to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

URL: Final = 'url = "https://redash.example.com"'
KEY: Final = 'key_env = "KEY"'
HASH: Final = f'"{"ab" * 32}"'
CLIENT: Final = f'[clients.c]\ntoken_sha256 = [{HASH}]\ncredentials = ["a"]\n'


class Case(NamedTuple):
    """`replace`: each text in the small configuration by another; `add`: more at its end; `DIR` is the directory.

    `files`: content by name; a name in `PEM` for what openssl made. `modes`: permissions by name.
    """

    key: str
    remedy: str
    replace: Mapping[str, str] = {}
    add: str = ""
    files: Mapping[str, str] = {}
    modes: Mapping[str, int] = {}
    key_value: str = "k" * 40


def server(*lines: str) -> str:
    return "[server]\n" + "\n".join(lines) + "\n"


def upstream(line: str) -> dict[str, str]:
    return {URL: f"{URL}\n{line}"}


def client(line: str) -> dict[str, str]:
    return {'credentials = ["a"]': f'credentials = ["a"]\n{line}'}


TLS: Final = server('tls_cert = "cert.pem"', 'tls_key = "key.pem"')
RULE: Final = "[[cache.rules]]\n"
WARM: Final = '[[warm]]\nevery = "10m"\ncredential = "a"\n'

WRONG: Final[Mapping[str, Case]] = {
    # the file itself
    "no TOML": Case("line 1, column 10", "Expected", replace={"\n[upstream]": "[upstream\n"}),
    "text without quotes": Case("line 12, column 9", 'needs quotes: disk = "4GB"', add="[cache]\ndisk = 4GB\n"),
    "name with a space": Case(
        "line 8, column 16",
        r'needs quotes: \[clients."sales dashboard"\]',
        replace={"[clients.c]": "[clients.sales dashboard]"},
    ),
    "no UTF-8": Case("", "is not UTF-8", add="# \udcff"),
    "others can write the file": Case("", "run chmod o-w", modes={"config.toml": 0o646}),
    "unknown table": Case("serve", "did you mean 'server'", add='[serve]\nlisten = ":80"\n'),
    "unknown key": Case("server.lisen", "did you mean 'listen'", add=server('lisen = ":1"')),
    "key of another table": Case("server.max_entry", r"belongs in \[cache\]", add=server("max_entry = 1")),
    "list for a table": Case("log", r"write \[log\], not \[\[log\]\]", add="[[log]]\n"),
    # addresses
    "port without host": Case("server.listen", 'write "127.0.0.1:8080"', add=server('listen = "8080"')),
    "port too large": Case("server.listen", 'write "127.0.0.1:8080"', add=server('listen = "localhost:70000"')),
    "IPv6 without brackets": Case("server.listen", r'"\[::1\]:8080"', add=server('listen = "::1:80"')),
    "relative socket": Case("server.listen", '"unix:/run/name.sock"', add=server('listen = "unix:api.sock"')),
    "long socket": Case("server.listen", "at most 107 bytes", add=server(f'listen = "unix:/{"x" * 120}"')),
    "socket without directory": Case("server.listen", "make it", add=server('listen = "unix:DIR/none/api.sock"')),
    "file at the socket": Case(
        "server.listen", "move it elsewhere", add=server('listen = "unix:DIR/notes"'), files={"notes": "mine"}
    ),
    "one address for two": Case(
        "admin.listen", "each needs its own", add=server('listen = "[::1]:8080"') + '[admin]\nlisten = "[::1]:8080"\n'
    ),
    "address of another machine": Case(
        "server.listen", "this machine has no address 192.0.2.1; write one", add=server('listen = "192.0.2.1:8080"')
    ),
    "admin address of another machine": Case(
        "admin.listen", "write one that it has", add='[admin]\nlisten = "192.0.2.1:8081"\n'
    ),
    "name without address": Case(
        "server.listen", "write an address of this machine", add=server('listen = "name.invalid:8080"')
    ),
    "name that cannot be one": Case("server.listen", 'write "127.0.0.1', add=server(f'listen = "{"x" * 64}:8080"')),
    "no hosts": Case("server.hosts", "name some, or leave the key out", add=server("hosts = []")),
    "host with port": Case("server.hosts[0]", "without scheme, port and path", add=server('hosts = ["gw:8080"]')),
    "host as URL": Case("server.hosts[0]", "without scheme, port and path", add=server('hosts = ["https://gw"]')),
    "name as proxy": Case("server.trusted_proxies[0]", "one address, or", add=server('trusted_proxies = ["lb"]')),
    "everybody as proxy": Case(
        "server.trusted_proxies[0]", "name your proxies", add=server('trusted_proxies = ["::/0"]')
    ),
    "origin with path": Case(
        "server.cors_origins[0]", "scheme, host and port only", add=server('cors_origins = ["https://a/b"]')
    ),
    # TLS
    "certificate without key": Case(
        "server.tls_key", "server.tls_cert needs it", add=server('tls_cert = "cert.pem"'), files={"cert.pem": "first"}
    ),
    "key without certificate": Case(
        "server.tls_cert", "server.tls_key needs it", add=server('tls_key = "key.pem"'), files={"key.pem": "first key"}
    ),
    "no such certificate": Case(
        "server.tls_cert", "cannot be read: No such file", add=TLS, files={"key.pem": "first key"}
    ),
    "garbage for a certificate": Case(
        "server.tls_cert", "put it there", add=TLS, files={"cert.pem": "garbage", "key.pem": "first key"}
    ),
    "key for a certificate": Case(
        "server.tls_cert", "put it there", add=TLS, files={"cert.pem": "first key", "key.pem": "first key"}
    ),
    "broken certificate": Case(
        "server.tls_cert", "put it there", add=TLS, files={"cert.pem": "broken", "key.pem": "first key"}
    ),
    "garbage for a key": Case(
        "server.tls_key", "put the key of the certificate", add=TLS, files={"cert.pem": "first", "key.pem": "garbage"}
    ),
    "certificate for a key": Case(
        "server.tls_key", "put the key of the certificate", add=TLS, files={"cert.pem": "first", "key.pem": "first"}
    ),
    "key of another certificate": Case(
        "server.tls_key", "name the one that belongs", add=TLS, files={"cert.pem": "first", "key.pem": "second key"}
    ),
    "key with a passphrase": Case(
        "server.tls_key", "openssl pkey", add=TLS, files={"cert.pem": "first", "key.pem": "locked key"}
    ),
    "others can write the key": Case(
        "server.tls_key",
        "run chmod o-w",
        add=TLS,
        files={"cert.pem": "first", "key.pem": "first key"},
        modes={"key.pem": 0o602},
    ),
    "garbage for an authority": Case(
        "upstream.ca_file", "put the authority's", replace=upstream('ca_file = "ca"'), files={"ca": "garbage"}
    ),
    "no such authority": Case("upstream.ca_file", "cannot be read", replace=upstream('ca_file = "ca.pem"')),
    "directory for an authority": Case("upstream.ca_file", "Is a directory", replace=upstream('ca_file = "."')),
    # several addresses
    "one of several": Case("server.listen[1]", 'write "127.0.0.1:8080"', add=server('listen = ["[::1]:80", "x"]')),
    "no address": Case("server.listen", "leave the key out", add=server("listen = []")),
    "address twice": Case("server.listen[1]", "each needs its own", add=server('listen = ["[::1]:80", "[::1]:80"]')),
    "all and one": Case("server.listen[1]", "leave one", add=server('listen = ["0.0.0.0:8070", "127.0.0.1:8070"]')),
    "all and the console": Case("admin.listen", "leave one", add=server('listen = "0.0.0.0:8081"')),
    "socket in two spellings": Case(
        "server.listen[1]", "leave one", add=server('listen = ["unix:DIR/a.sock", "unix:DIR/./a.sock"]')
    ),
    "mode without socket": Case("server.socket_mode", 'write "unix:/path"', add=server('socket_mode = "0660"')),
    "mode in decimal": Case("server.socket_mode", "in quotes", add=server("socket_mode = 432")),
    "mode against its owner": Case("server.socket_mode", 'for example "0660"', add=server('socket_mode = "0060"')),
    "no such group": Case(
        "server.socket_group",
        "make it",
        add=server('listen = "unix:DIR/a.sock"', 'socket_group = "no-such-group"'),
    ),
    # the path of a proxy
    "path without slash": Case(
        "server.path_prefix", 'write for example "/redash"', add=server('path_prefix = "tools"')
    ),
    "path of the API": Case("server.path_prefix", "that the proxy has", add=server('path_prefix = "/api/x"')),
    "slug as path": Case(
        "server.path_prefix",
        "leave it out",
        replace={".example.com": ".example.com/acme"},
        add=server('path_prefix = "/acme/"'),
    ),
    # waits and sizes
    "no unit": Case("server.max_wait", 'write for example "500ms"', add=server('max_wait = "50"')),
    "wait of a day": Case("server.max_wait", "write at most 1h", add=server('max_wait = "1d"')),
    "endless draining": Case("server.drain_timeout", "write at most 1h", add=server('drain_timeout = "2h"')),
    "endless connecting": Case("upstream.connect_timeout", "at most 1h", replace=upstream('connect_timeout = "1d"')),
    "endless reading": Case("upstream.read_timeout", "at most 1h", replace=upstream('read_timeout = "1w"')),
    "endless queue": Case("upstream.queue_timeout", "at most 1h", replace=upstream('queue_timeout = "61m"')),
    "breaker for ever": Case("upstream.breaker_reset", "at most 1h", replace=upstream('breaker_reset = "1d"')),
    "no time to connect": Case("upstream.connect_timeout", "at least 1ms", replace=upstream('connect_timeout = "0s"')),
    "negative wait": Case("server.max_wait", "between 0", add=server("max_wait = -1")),
    "size without unit": Case("cache.memory", 'write for example "512KB"', add='[cache]\nmemory = "256"\n'),
    "no requests at once": Case(
        "upstream.max_requests", "whole number of at least 1", replace=upstream("max_requests = 0")
    ),
    "floor above ceiling": Case("cache.floor", "more than the ceiling", add="[cache]\nfloor = 10\nceiling = 5\n"),
    # Redash
    "no upstream": Case("upstream.url", "is missing", replace={URL: ""}),
    "no URL": Case("upstream.url", 'write for example "https://', replace={URL: 'url = "redash.example.com"'}),
    "URL with an empty label": Case("upstream.url", "cannot have", replace={URL: 'url = "http://redash..de"'}),
    "URL of the API": Case("upstream.url", "start page", replace={URL: 'url = "https://redash.example.com/api"'}),
    "URL with a password": Case("upstream.url", "leave them out", replace={URL: 'url = "https://a:b@redash"'}),
    "URL with a key": Case("upstream.url", "leave them out", replace={URL: 'url = "https://redash/?api_key=k"'}),
    "the gateway itself": Case(
        "upstream.url", "write the address of Redash", replace={URL: 'url = "http://localhost:8080"'}
    ),
    "the gateway itself, open to all": Case(
        "upstream.url",
        "write the address of Redash",
        replace={URL: 'url = "http://127.0.0.1"'},
        add=server('listen = "0.0.0.0:80"'),
    ),
    "its own admin listener": Case(
        "upstream.url", "write the address of Redash", replace={URL: 'url = "http://127.0.0.1:8081/"'}
    ),
    "no version": Case("upstream.version", 'write "auto"', replace=upstream('version = "ten"')),
    # keys
    "key in the file": Case("credentials.a.key", "key_env, or a file", replace={KEY: f'{KEY}\nkey = "abc"'}),
    "key in the file, by another name": Case(
        "credentials.a.api_key", "key_env, or a file", replace={KEY: 'api_key = "abc"'}
    ),
    "no source of the key": Case("credentials.a", "exactly one of key_env and key_file", replace={KEY: ""}),
    "two sources of the key": Case(
        "credentials.a", "exactly one", replace={KEY: f'{KEY}\nkey_file = "key"'}, files={"key": "k" * 40}
    ),
    "variable not set": Case("credentials.a.key_env", "NO_SUCH is not set", replace={KEY: 'key_env = "NO_SUCH"'}),
    "empty variable": Case("credentials.a.key_env", "is empty", key_value=""),
    "key with a blank": Case("credentials.a.key_env", "white space", key_value="k k"),
    "a gateway's token for a key": Case("credentials.a.key_env", "put a key of Redash", key_value="rg_" + "k" * 43),
    "no key file": Case("credentials.a.key_file", "cannot be read: No such", replace={KEY: 'key_file = "key"'}),
    "directory for a key": Case("credentials.a.key_file", "Is a directory", replace={KEY: 'key_file = "."'}),
    "others can write the Redash key": Case(
        "credentials.a.key_file",
        "run chmod o-w",
        replace={KEY: 'key_file = "key"'},
        files={"key": "k" * 40},
        modes={"key": 0o666},
    ),
    "kind of no key": Case("credentials.a.kind", "known: query, user", replace={'kind = "user"': 'kind = "admin"'}),
    "query's key without query": Case(
        "credentials.a.query", "needs the id of its query", replace={'kind = "user"': 'kind = "query"'}
    ),
    "user's key with query": Case("credentials.a.query", "leave it out", replace={KEY: f"{KEY}\nquery = 3"}),
    # clients
    "nobody": Case("clients", r"write \[clients.NAME\]", replace={CLIENT: ""}),
    "placeholder": Case("clients.c.token_sha256[0]", "`redash-gateway token`", replace={HASH: f'"{"0" * 64}"'}),
    "placeholder of the admin": Case(
        "admin.token_sha256", "`redash-gateway token`", add=f'[admin]\ntoken_sha256 = "{"0" * 64}"\n'
    ),
    "token for a hash": Case("clients.c.token_sha256[0]", "prints both", replace={HASH: '"rg_abc"'}),
    "token in the file": Case(
        "clients.c.token", r"`redash-gateway token`", replace={"token_sha256 = [": 'token = "rg_a"\ntoken_sha256 = ['}
    ),
    "hash for two": Case(
        "clients.d.token_sha256[0]",
        "each needs its own",
        add=f'[clients.d]\ntoken_sha256 = [{HASH}]\ncredentials = ["a"]\n',
    ),
    "no such credential": Case(
        "clients.c.credentials[0]", "did you mean 'a'|known: a", replace={'credentials = ["a"]': 'credentials = ["b"]'}
    ),
    "no query's key": Case(
        "clients.c.credentials[0]", "there is none", replace={'credentials = ["a"]': 'credentials = ["query"]'}
    ),
    "capability": Case("clients.c.can[1]", "did you mean 'execute'", replace=client('can = ["read", "exec"]')),
    "binding bypassed": Case(
        "clients.c.can", "leave one of the two out", replace=client('can = ["read", "adhoc"]\nqueries = [1]')
    ),
    "date in quotes": Case("clients.c.expires", "without quotes", replace=client('expires = "2027-06-30"')),
    "burst without rate": Case("clients.c.burst", 'rate = "50/s"', replace=client("burst = 5")),
    "rate without unit": Case("clients.c.rate", 'write for example "50/s"', replace=client('rate = "50"')),
    # what is stored, warmed, traced
    "no store": Case("cache.store", '"sqlite:PATH"', add='[cache]\nstore = "postgres://x"\n'),
    "directory of the store missing": Case(
        "cache.store", "make it, for the user", add='[cache]\nstore = "sqlite:none/gateway.db"\n'
    ),
    "file for the directory of the store": Case(
        "cache.store", "make it", add='[cache]\nstore = "sqlite:notes/gateway.db"\n', files={"notes": "mine"}
    ),
    "store of another program": Case(
        "cache.store", "choose another path", add='[cache]\nstore = "sqlite:notes"\n', files={"notes": "mine"}
    ),
    "directory for a store": Case("cache.store", "choose another path", add='[cache]\nstore = "sqlite:."\n'),
    "time zone": Case("cache.timezone", "did you mean 'Europe/Berlin'", add='[cache]\ntimezone = "Europe/Berln"\n'),
    "rule without queries": Case("cache.rules[0]", "needs queries, data_sources or tags", add=RULE + "floor = 1\n"),
    "nothing to warm": Case("warm[0]", "exactly one of query, dashboard and popular", add=WARM),
    "id in quotes": Case("warm[0].dashboard", "write ids without quotes", add=WARM + 'dashboard = "3"\n'),
    "warmed without key": Case("warm[0].credential", "known: a", add=WARM.replace('"a"', '"zz"') + "query = 1\n"),
    "tracing without the extra": Case(
        "tracing.endpoint",
        r"pip install '\.\[otel\]' in a checkout",
        add='[tracing]\nendpoint = "http://127.0.0.1:4318"\n',
    ),
    "event loop not installed": Case("server.event_loop", r"pip install uvloop", add=server('event_loop = "uvloop"')),
}

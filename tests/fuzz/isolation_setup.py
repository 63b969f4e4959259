"""The gateway's side of the isolation fuzz: clients, credentials and bindings, and how a reload changes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random

from support.calls import ADMIN_TOKEN, token

from gateway import config

from .isolation_redash import Redash

ANONYMOUS = ""
PEOPLE = ("ana", "ben", "cy", "bob", "vic", "own", "board", "keyed", "narrow", "writer", "reveal", "temp", "stranger")
"""Who has a token; no configuration knows that of `stranger`."""

DEFINITION_CHECK, STALE_IF_ERROR, METADATA_TTL = 60.0, 600.0, 5.0
MAX_WAIT = 1.0
_PLAIN = ("read", "execute")


@dataclass(frozen=True)
class Client:
    """A client's table; `people` have its tokens."""

    people: tuple[str, ...]
    credentials: tuple[str, ...]
    can: tuple[str, ...] = _PLAIN
    queries: frozenset[int] = frozenset()
    boards: frozenset[int] = frozenset()
    expires: float | None = None
    reveal: bool = False
    revalidates: bool = False

    @property
    def is_bound(self) -> bool:
        return bool(self.queries or self.boards)

    def toml(self, name: str) -> str:
        hashes = ", ".join(f'"{config.token_hash(token(person))}"' for person in self.people)
        lines = [f"[clients.{name}]", f"credentials = {_list(self.credentials)}", f"can = {_list(self.can)}"]
        lines += [f"token_sha256 = [{hashes}]"] if name != "anonymous" else []
        lines += [f"queries = {sorted(self.queries)}"] if self.queries else []
        lines += [f"dashboards = {sorted(self.boards)}"] if self.boards else []
        lines += ["text_parameters = true"] if not self.is_bound else []
        lines += ["reveal_keys = true"] if self.reveal else []
        lines += ['stale_while_revalidate = "5m"'] if self.revalidates else []
        if self.expires is not None:
            lines.append(f"expires = {datetime.fromtimestamp(self.expires, UTC).isoformat(timespec='seconds')}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Credential:
    """A Redash key: of a user, or of one query."""

    key: str
    user: str = ""
    query: int | None = None

    def toml(self, name: str) -> str:
        kind = 'kind = "user"' if self.query is None else f'kind = "query"\nquery = {self.query}'
        return f'[credentials.{name}]\n{kind}\nkey_env = "{_variable(name)}"'


@dataclass(frozen=True)
class Setup:
    """One configuration."""

    clients: Mapping[str, Client]
    credentials: Mapping[str, Credential]
    warm: tuple[int, str]

    def of(self, person: str, now: float) -> tuple[str, Client] | None:
        """Return the client whose token a person has, None if the token is not valid."""
        for name, client in self.clients.items():
            if person in client.people or (person == ANONYMOUS and name == "anonymous"):
                return (name, client) if client.expires is None or now < client.expires else None
        return None

    def credentials_of(self, client: Client) -> list[Credential]:
        """Return all credentials that a client may use, for one route or another."""
        own = [self.credentials[name] for name in client.credentials if name != "query"]
        return own + [c for c in self.credentials.values() if c.query is not None and "query" in client.credentials]

    def environment(self) -> dict[str, str]:
        """Return where the configuration finds its keys."""
        return {_variable(name): credential.key for name, credential in self.credentials.items()}

    def toml(self, url: str) -> str:
        tables = [_HEAD.format(url=url)]
        tables += [credential.toml(name) for name, credential in self.credentials.items()]
        tables += [client.toml(name) for name, client in self.clients.items()]
        query, credential = self.warm
        tables.append(f'[[warm]]\nquery = {query}\nevery = "1s"\ncredential = "{credential}"')
        return "\n".join(tables)


_HEAD = f"""
[server]
listen = "127.0.0.1:0"
drain_timeout = "2s"
max_wait = "{MAX_WAIT:.0f}s"
[admin]
listen = "127.0.0.1:0"
token_sha256 = "{config.token_hash(ADMIN_TOKEN)}"
[upstream]
url = "{{url}}"
read_timeout = "300ms"
queue_timeout = "2s"
max_executions = 16
breaker_reset = "5s"
[log]
access = false
[cache]
store = "sqlite:gateway.db"
definition_check = "{DEFINITION_CHECK:.0f}s"
stale_if_error = "{STALE_IF_ERROR:.0f}s"
metadata_ttl = "{METADATA_TTL:.0f}s"
failure_ttl = "0s"
"""


def _list(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _variable(name: str) -> str:
    return f"KEY_{name.upper().replace('-', '_')}"


def first_setup(redash: Redash) -> Setup:
    """Return the configuration that a fuzz begins with, and that some reloads return to; keys as they are now."""
    ids, sandbox = redash.ids, redash.sandbox
    every = (*_PLAIN, "adhoc")
    clients = {
        "ana": Client(("ana", "ben"), ("analyst",), every),
        "cy": Client(("cy",), ("analyst",), every),
        "bob": Client(("bob",), ("second",), every),
        "vic": Client(("vic",), ("viewer",)),
        "own": Client(("own",), ("analyst",), queries=frozenset({ids["plain"], ids["twin left"], ids["spaced"]})),
        "board": Client(("board",), ("analyst",), boards=frozenset(redash.boards[:1])),
        "keyed": Client(("keyed",), ("query", "second")),
        "narrow": Client(("narrow",), ("query",), queries=frozenset({ids["enum"], ids["picks"]})),
        "writer": Client(("writer",), ("admin",), (*_PLAIN, "write")),
        "reveal": Client(("reveal",), ("analyst",), reveal=True),
        "temp": Client(("temp",), ("analyst",)),
        "anonymous": Client((), ("viewer",), queries=frozenset({ids["plain"]})),
    }
    users = ("analyst", "second", "viewer", "admin")
    credentials = {user: Credential(sandbox.user_keys[user], user) for user in users}
    keyed = [ids[name] for name in ("enum", "plain", "picks")]
    credentials |= {f"q{query}": Credential(sandbox.query_key(query), query=query) for query in keyed}
    return Setup(clients, credentials, (ids["plain"], "analyst"))


# -- reloads


def _change(setup: Setup, name: str, client: Client) -> Setup:
    return replace(setup, clients={**setup.clients, name: client})


def _pick(setup: Setup, rng: Random) -> tuple[str, Client]:
    return rng.choice(sorted(setup.clients.items()))


def rebind(setup: Setup, redash: Redash, rng: Random, _: float) -> Setup:
    """Bind a client to other queries and dashboards."""
    name, client = _pick(setup, rng)
    if set(client.can) - set(_PLAIN):
        client = replace(client, can=_PLAIN)  # a binding together with `adhoc` is a mistake
    queries = frozenset(rng.sample(sorted(redash.ids.values()), rng.randint(0, 4)))
    boards = frozenset(rng.sample(redash.boards, rng.randint(0 if queries else 1, 1)))
    if all(n == "query" or setup.credentials[n].query is not None for n in client.credentials):
        boards, queries = frozenset(), queries or frozenset({redash.ids["enum"]})  # only users can read dashboards
    return _change(setup, name, replace(client, queries=queries, boards=boards))


def unbind(setup: Setup, _: Redash, rng: Random, __: float) -> Setup:
    """Let a client use all queries."""
    name, client = _pick(setup, rng)
    return _change(setup, name, replace(client, queries=frozenset(), boards=frozenset()))


def switch_credential(setup: Setup, redash: Redash, rng: Random, _: float) -> Setup:
    """Give a client another credential."""
    name, client = _pick(setup, rng)
    names = [n for n, c in setup.credentials.items() if c.query is None]
    chosen = rng.choice([(rng.choice(names),), ("query", rng.choice(names)), (rng.choice(names), rng.choice(names))])
    return _change(setup, name, replace(client, credentials=tuple(dict.fromkeys(chosen))))


def remove_client(setup: Setup, _: Redash, rng: Random, __: float) -> Setup:
    """Remove a client."""
    name, _client = _pick(setup, rng)
    if len(setup.clients) <= 4:
        return setup
    return replace(setup, clients={n: c for n, c in setup.clients.items() if n != name})


def give_name_away(setup: Setup, _: Redash, rng: Random, __: float) -> Setup:
    """Let two clients swap their tokens: each name belongs to somebody else now."""
    (one, first), (two, second) = rng.sample(sorted(setup.clients.items()), 2)
    if "anonymous" in (one, two):
        return setup
    swapped = {one: replace(first, people=second.people), two: replace(second, people=first.people)}
    return replace(setup, clients={**setup.clients, **swapped})


def rename_credential(setup: Setup, _: Redash, rng: Random, __: float) -> Setup:
    """Give a credential another name everywhere."""
    old = rng.choice(sorted(setup.credentials))
    new = f"{old}x" if len(old) < 12 else old.rstrip("x")

    def renamed(name: str) -> str:
        return new if name == old else name

    clients = {n: replace(c, credentials=tuple(map(renamed, c.credentials))) for n, c in setup.clients.items()}
    credentials = {renamed(name): credential for name, credential in setup.credentials.items()}
    return Setup(clients, credentials, (setup.warm[0], renamed(setup.warm[1])))


def refresh_keys(setup: Setup, redash: Redash, _: Random, __: float) -> Setup:
    """Take over the keys that Redash has now."""
    sandbox = redash.sandbox
    fresh = {
        name: replace(c, key=sandbox.query_key(c.query) if c.query is not None else sandbox.user_keys[c.user])
        for name, c in setup.credentials.items()
    }
    return replace(setup, credentials=fresh)


def expire(setup: Setup, _: Redash, rng: Random, now: float) -> Setup:
    """Let the tokens of a client expire soon."""
    name, client = _pick(setup, rng)
    return _change(setup, name, replace(client, expires=float(int(now) + rng.randint(-5, 90))))


def change_rights(setup: Setup, _: Redash, rng: Random, __: float) -> Setup:
    """Change what a client may do, and whether stale results are used while new ones are fetched."""
    name, client = _pick(setup, rng)
    can = ("read",) if "execute" in client.can else (*_PLAIN, *(() if client.is_bound else ("adhoc",)))
    return _change(setup, name, replace(client, can=can, revalidates=rng.random() < 0.5))


def start_again(_: Setup, redash: Redash, __: Random, ___: float) -> Setup:
    """Return to the first configuration."""
    return first_setup(redash)


def narrow(setup: Setup, redash: Redash, rng: Random, person: str) -> Setup:
    """Take the queries or the credential of a person's client away and give it others."""
    found = setup.of(person, 0.0)
    if found is None:
        return setup
    name, client = found
    users = [n for n, c in setup.credentials.items() if c.query is None]
    if rng.random() < 0.5:
        return _change(setup, name, replace(client, credentials=(rng.choice(users),)))
    query = rng.choice(sorted(redash.ids.values()))
    return _change(setup, name, replace(client, can=_PLAIN, queries=frozenset({query}), boards=frozenset()))


Reload = Callable[[Setup, Redash, Random, float], Setup]
RELOADS: tuple[Reload, ...] = (
    *(rebind,) * 3,
    unbind,
    *(switch_credential,) * 2,
    remove_client,
    give_name_away,
    rename_credential,
    refresh_keys,
    expire,
    change_rights,
    *(start_again,) * 4,
)

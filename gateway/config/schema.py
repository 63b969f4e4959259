"""The tables of the configuration file: one struct each; attribute names are the file's keys.

The type of a key says how it is parsed (`ParsedBy`) and whether a change takes a restart (`TakesRestart`).
Conditions on several keys are in `checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gateway.config import networks, stores, units, values
from gateway.config.redis_url import NO_PASSWORD, RedisAddress, redis_address
from gateway.config.units import Budget, Quiet, Rate, RuntimeFloor
from gateway.config.values import Listen
from gateway.secret import Secret

Capability = Literal["read", "execute", "adhoc", "purge", "write", "admin"]
EventLoop = Literal["auto", "asyncio", "uvloop"]

_NEVER_PRINTED = {"token_sha256", "store"}
"""Hashes of tokens, and a URL that may contain the password of Redis."""


class ParsedBy:
    """The function that turns the file's value into the attribute. `quiet`: no message shows the value."""

    def __init__(self, parse: Callable[[object], object], *, quiet: bool = False) -> None:
        self.parse = parse
        self.quiet = quiet


class NotEmpty:
    """If the list is written, it must not be empty: an empty list could mean none or all."""


class OrOne:
    """A list of one item may be written as that item."""


class TakesRestart:
    """A reload does not apply a change of this key. Keys without this mark are live after a reload.

    `only_between_none_and_some`: a reload does apply the change from one value to another.
    """

    def __init__(self, *, only_between_none_and_some: bool = False) -> None:
        self._only_between_none_and_some = only_between_none_and_some

    def applies(self, old: object, new: object) -> bool:
        """Whether this change takes a restart."""
        if self._only_between_none_and_some:
            return (old is None) != (new is None)
        return old != new


Seconds = Annotated[float, ParsedBy(units.duration)]
Floor = Annotated[float | RuntimeFloor, ParsedBy(units.floor)]
PositiveSeconds = Annotated[float, ParsedBy(units.positive_duration)]
Wait = Annotated[float, ParsedBy(units.wait)]
PositiveWait = Annotated[float, ParsedBy(units.positive_wait)]
Bytes = Annotated[int, ParsedBy(units.size)]
RateLimit = Annotated[Rate, ParsedBy(units.rate)]
WorkBudget = Annotated[Budget, ParsedBy(units.budget)]
Budgets = Annotated[tuple[WorkBudget, ...], NotEmpty(), OrOne()]
QuietHours = Annotated[Quiet, ParsedBy(units.quiet)]
Count = Annotated[int, ParsedBy(values.WholeNumber(1))]
CountOrZero = Annotated[int, ParsedBy(values.WholeNumber(0))]
Text = Annotated[str, ParsedBy(values.text)]
Address = Annotated[Listen, ParsedBy(values.listen)]
Addresses = Annotated[tuple[Address, ...], NotEmpty(), OrOne()]
TokenHash = Annotated[str, ParsedBy(values.sha256, quiet=True)]
Ids = Annotated[frozenset[Count], NotEmpty()]
Dashboard = Annotated[int | str, ParsedBy(values.dashboard)]


class Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, weakref=True):
    """One table of the file."""

    def __repr__(self) -> str:
        names = (name for name in self.__struct_fields__ if name not in _NEVER_PRINTED)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


class Server(Table, frozen=True, kw_only=True):
    """The API listener."""

    listen: Annotated[Addresses, TakesRestart()] = (Listen(host="127.0.0.1", port=8080),)
    socket_mode: Annotated[Annotated[str, ParsedBy(values.socket_mode)] | None, TakesRestart()] = None
    socket_group: Annotated[Annotated[str, ParsedBy(values.group)] | None, TakesRestart()] = None
    hosts: Annotated[tuple[Annotated[str, ParsedBy(values.host)], ...], NotEmpty()] = ("localhost", "127.0.0.1")
    path_prefix: Annotated[str, ParsedBy(values.path_prefix)] = ""
    cors_origins: tuple[Annotated[str, ParsedBy(values.origin)], ...] = ()
    max_wait: Wait = 50.0
    max_request_body: Bytes = 10**6
    max_watchers: CountOrZero = 10_000
    drain_timeout: Wait = 60.0
    idle_timeout: PositiveWait = 75.0
    tls_cert: Annotated[Path | None, TakesRestart(only_between_none_and_some=True)] = None
    tls_key: Path | None = None
    trusted_proxies: tuple[Annotated[str, ParsedBy(networks.proxy)], ...] = ()
    event_loop: Annotated[EventLoop, TakesRestart()] = "auto"

    @property
    def addresses(self) -> list[tuple[str, Listen]]:
        """Each address that can be read, with its dotted key."""
        keys = ["server.listen"] if len(self.listen) == 1 else [f"server.listen[{n}]" for n in range(len(self.listen))]
        return [(key, one) for key, one in zip(keys, self.listen, strict=True) if one is not None]


class Admin(Table, frozen=True, kw_only=True):
    """The admin listener."""

    listen: Annotated[Address, TakesRestart()] = Listen(host="127.0.0.1", port=8081)
    token_sha256: TokenHash | None = None


class Upstream(Table, frozen=True, kw_only=True):
    """The Redash server, timeouts, and the limits on its use."""

    url: Annotated[str, ParsedBy(values.base_url)]
    version: Annotated[str, ParsedBy(values.redash_version)] = values.AUTOMATIC
    connect_timeout: PositiveWait = 5.0
    read_timeout: PositiveWait = 60.0
    max_requests: Count = 16
    max_executions: Count = 8
    queue_timeout: Wait = 30.0
    ca_file: Path | None = None
    breaker_failures: Count = 5
    breaker_reset: PositiveWait = 10.0
    date_format: Text = "DD/MM/YY"
    date_time_format: Text = "DD/MM/YY HH:mm"


class Credential(Table, frozen=True, kw_only=True):
    """A Redash API key; `key` comes from the environment or a file, never from the configuration file itself."""

    kind: Literal["user", "query"]
    key: Secret
    query: Count | None = None
    key_env: Text | None = None
    key_file: Path | None = None


class Client(Table, frozen=True, kw_only=True):
    """A client. A bound or limit of `None` is not set here."""

    credentials: Annotated[tuple[Text, ...], NotEmpty()] = ()
    token_sha256: tuple[TokenHash, ...] = ()
    can: Annotated[frozenset[Capability], NotEmpty()] = frozenset({"read", "execute"})
    queries: Ids = frozenset()
    dashboards: Annotated[frozenset[Dashboard], NotEmpty()] = frozenset()
    expires: Annotated[float, ParsedBy(units.expiry)] | None = None
    query_token: bool = True
    reveal_keys: bool = False
    rate: RateLimit | None = None
    burst: Count | None = None
    max_executions: Count | None = None
    budget: Budgets = ()
    stale_over_budget: Seconds | None = None
    floor: Floor | None = None
    follow_schedule: bool | None = None
    ceiling: Seconds | None = None
    stale_while_revalidate: Seconds | None = None
    stale_if_error: Seconds | None = None
    text_parameters: bool = False

    @property
    def is_bound(self) -> bool:
        """Whether it may use only the queries and dashboards that its table names."""
        return bool(self.queries or self.dashboards)


class Rule(Table, frozen=True, kw_only=True):
    """Freshness for some queries; the rule does not change a bound that is `None`."""

    queries: Ids = frozenset()
    data_sources: Ids = frozenset()
    tags: Annotated[frozenset[Text], NotEmpty()] = frozenset()
    floor: Floor | None = None
    follow_schedule: bool | None = None
    ceiling: Seconds | None = None
    stale_while_revalidate: Seconds | None = None
    stale_if_error: Seconds | None = None


class Cache(Table, frozen=True, kw_only=True):
    """What is cached, where, how much and for how long."""

    store: Annotated[str, ParsedBy(stores.store, quiet=True), TakesRestart()] = "sqlite:redash-gateway.db"
    memory: Annotated[Bytes, TakesRestart()] = 256 * 10**6
    disk: Annotated[Bytes, TakesRestart()] = 4 * 10**9
    max_entry: Annotated[Bytes, TakesRestart()] = 64 * 10**6
    any_age_confirm: Seconds = 60.0
    definition_check: Seconds = 60.0
    metadata_ttl: Seconds = 5.0
    rendered_ttl: Seconds = 3600.0
    failure_ttl: Seconds = 2.0
    floor: Floor | None = None
    follow_schedule: bool | None = None
    ceiling: Seconds | None = None
    stale_while_revalidate: Seconds = 0.0
    metadata_stale_while_revalidate: Seconds = 0.0
    timezone: Annotated[str, ParsedBy(values.timezone)] = "UTC"
    stale_if_error: Seconds = 3600.0
    rules: tuple[Rule, ...] = ()


class Redis(Table, frozen=True, kw_only=True):
    """How the gateways that share a Redis use it; only with a `cache.store` that is one.

    `password` comes from the environment or a file, like a credential's key; it is empty if `cache.store` has one.
    """

    prefix: Annotated[str, ParsedBy(values.redis_name), TakesRestart()] = "redash-gateway"
    password: Secret = NO_PASSWORD
    username: Annotated[Text | None, TakesRestart()] = None
    password_env: Annotated[Text | None, TakesRestart()] = None
    password_file: Annotated[Path | None, TakesRestart()] = None
    ca_file: Annotated[Path | None, TakesRestart()] = None
    rates: Literal["shared", "gateway"] = "shared"
    name: Annotated[Annotated[str, ParsedBy(values.redis_name)] | None, TakesRestart()] = None


class Warm(Table, frozen=True, kw_only=True):
    """A query, or every query on a dashboard, that is kept fresh without requests; or what is asked for most."""

    query: Count | None = None
    dashboard: Dashboard | None = None
    popular: Annotated[int, ParsedBy(values.WholeNumber(1, most=1_000))] | None = None
    parameters: Annotated[dict[str, object], ParsedBy(values.parameters)] = {}
    every: PositiveSeconds | None = None
    within: PositiveSeconds | None = None
    budget: WorkBudget | None = None
    quiet: QuietHours | None = None
    credential: Text


class Log(Table, frozen=True, kw_only=True):
    """The log on standard error."""

    format: Annotated[Literal["text", "json"], TakesRestart()] = "text"
    access: bool = True


class Metrics(Table, frozen=True, kw_only=True):
    """Limits on what `/metrics` shows."""

    per_query: CountOrZero = 50


class Tracing(Table, frozen=True, kw_only=True):
    """OpenTelemetry; off without an endpoint."""

    endpoint: Annotated[Annotated[str, ParsedBy(values.web_url)] | None, TakesRestart()] = None


class Config(Table, frozen=True, kw_only=True):
    """The whole file."""

    server: Server = Server()
    admin: Admin = Admin()
    upstream: Upstream
    credentials: dict[str, Credential] = {}
    clients: dict[str, Client] = {}
    cache: Cache = Cache()
    redis: Redis = Redis()
    warm: tuple[Warm, ...] = ()
    log: Log = Log()
    metrics: Metrics = Metrics()
    tracing: Tracing = Tracing()

    @property
    def redis_address(self) -> RedisAddress:
        """The Redis that `cache.store` names, with the user and password of `[redis]` if the URL has none."""
        address, table = redis_address(self.cache.store), self.redis
        username = address.username or table.username or ""
        password = address.password if address.password.reveal() else table.password
        return msgspec.structs.replace(address, username=username, password=password)

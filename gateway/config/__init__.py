"""The configuration: a TOML file becomes frozen structs, or a list of all its mistakes.

Other rooms import from here, not from the modules.
"""

from gateway.config.load import admin_listen, load, parse, token_hash
from gateway.config.redis_url import RedisAddress
from gateway.config.restart import changes, new_keys, restart_needed
from gateway.config.schema import (
    Admin,
    Cache,
    Capability,
    Client,
    Config,
    Credential,
    Log,
    Metrics,
    Redis,
    Rule,
    Server,
    Tracing,
    Upstream,
    Warm,
)
from gateway.config.stores import SCHEMES as STORE_SCHEMES
from gateway.config.stores import is_redis, split_store
from gateway.config.summary import notes, summary
from gateway.config.units import Rate
from gateway.config.values import Listen

__all__ = [
    "STORE_SCHEMES",
    "Admin",
    "Cache",
    "Capability",
    "Client",
    "Config",
    "Credential",
    "Listen",
    "Log",
    "Metrics",
    "Rate",
    "Redis",
    "RedisAddress",
    "Rule",
    "Server",
    "Tracing",
    "Upstream",
    "Warm",
    "admin_listen",
    "changes",
    "is_redis",
    "load",
    "new_keys",
    "notes",
    "parse",
    "restart_needed",
    "split_store",
    "summary",
    "token_hash",
]

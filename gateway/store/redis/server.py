"""Finds the server (through Sentinel if there is one), connects to it, and judges whether it is one that we can use."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

from gateway.config import RedisAddress
from gateway.errors import StoreError
from gateway.store.redis.causes import no_connection, no_login
from gateway.store.redis.failures import RefusedError, UnavailableError, UnreachableError, translated

CONNECT_SECONDS: Final = 1.0
OLDEST: Final = 7
"""Major version: scripts with flags, and replicas that keep expired keys to themselves. Valkey says that it is 7.2."""

_FATAL: Final = (exceptions.AuthenticationError, exceptions.NoPermissionError)


class RedisOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The Redis of the configuration, and the name of this gateway there."""

    address: RedisAddress
    prefix: str = "redash-gateway"
    ca_file: Path | None = None
    name: str = ""
    upstream_url: str = ""
    login_keys: str = "redis.username and redis.password_file"
    """Of the configuration: where user and password are written."""


class Facts(msgspec.Struct, frozen=True):
    """What a server says of itself. Another `run_id`: it was restarted, or another server has taken its place."""

    run_id: str
    used_bytes: int
    limit_bytes: int
    """0: no limit."""
    policy: str
    """What Redis evicts by itself when it is full; it must be `noeviction`."""


class Server:
    """Opens connections to the master."""

    def __init__(self, options: RedisOptions) -> None:
        self.address = options.address
        self._options = options

    def use(self, address: RedisAddress) -> None:
        """Take the password over, from the next connection on; that of another address is not meant for this one."""
        if msgspec.structs.replace(address, password=self.address.password) == self.address:
            self.address = address

    async def connect(self, count: int) -> tuple[list[AbstractConnection], Facts]:
        """Open connections to one server, logged in, with the database selected; return also what it says of itself.

        Raises:
            UnavailableError: there is none, or not in time.
            StoreError: the operator must act: wrong password, no rights, a cluster, an old version.
        """
        connections: list[AbstractConnection] = []
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                host, port = await self._master()
                while len(connections) < count:
                    connections.append(await self._open(host, port, database=self.address.database))
                return connections, self._judged(parse_info(await _ask(connections[0], "INFO")))
        except BaseException as error:
            for connection in connections:
                await connection.disconnect(nowait=True)
            if isinstance(error, (exceptions.RedisError, OSError)):
                raise self._meaning(error) from None
            raise

    def _meaning(self, error: Exception) -> Exception:
        reply = translated(error)
        if isinstance(error, _FATAL) or isinstance(reply, RefusedError):
            is_login = isinstance(error, exceptions.AuthenticationError)
            why = no_login(error, self._options.login_keys) if is_login else str(error)
            return StoreError(f"{self.address} cannot be used: {why}")
        return UnavailableError(str(error)) if str(error) else UnreachableError("no answer in time")

    def _judged(self, info: Mapping[str, str]) -> Facts:
        if info.get("cluster_enabled") == "1":
            raise StoreError(f"{self.address} is a Redis Cluster; name a single server, or Sentinels")
        version = info.get("redis_version", "0")
        if int(version.partition(".")[0]) < OLDEST:
            raise StoreError(f"{self.address} is Redis {version}; {OLDEST}.0 or newer is needed")
        if info.get("role") != "master":
            raise UnavailableError("it is a replica just now")
        return facts_of(info)

    async def _master(self) -> tuple[str, int]:
        if not self.address.master:
            return self.address.hosts[0]
        reason = ""
        for host, port in self.address.hosts:
            try:
                async with asyncio.timeout(CONNECT_SECONDS / (len(self.address.hosts) + 1)):
                    return await self._asked(host, port)
            except (exceptions.RedisError, OSError, UnreachableError) as error:
                reason = str(error) or "no answer in time"
        raise UnavailableError(f"no Sentinel knows the master; the last one: {reason}")

    async def _asked(self, host: str, port: int) -> tuple[str, int]:
        try:
            return await self._asked_as(host, port, logged_in=False)
        except exceptions.AuthenticationError:  # it wants a password: mostly that of the servers
            return await self._asked_as(host, port, logged_in=True)

    async def _asked_as(self, host: str, port: int, *, logged_in: bool) -> tuple[str, int]:
        sentinel = await self._open(host, port, database=0, logged_in=logged_in)
        try:
            found = await _ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.address.master)
        finally:
            await sentinel.disconnect(nowait=True)
        if not found:
            raise exceptions.ConnectionError(f"it does not know {self.address.master}")
        return found[0].decode(), int(found[1])

    async def _open(self, host: str, port: int, *, database: int, logged_in: bool = True) -> AbstractConnection:
        options: dict[str, Any] = {"host": host, "port": port, "db": database, "protocol": 2, "driver_info": None}
        options.update(socket_timeout=None, socket_connect_timeout=CONNECT_SECONDS)
        if logged_in:
            options.update(username=self.address.username or None, password=self.address.password.reveal() or None)
            options.update(client_name=self._options.prefix)
        if self.address.tls:
            authorities = self._options.ca_file
            options.update(ssl_ca_certs=str(authorities) if authorities is not None else None)
        connection = SSLConnection(**options) if self.address.tls else Connection(**options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, exceptions.RedisError) and (why := no_connection(error, host, port)) is not None:
                raise UnreachableError(why) from None
            raise
        return connection


async def _ask(connection: AbstractConnection, *command: str) -> Any:
    await connection.send_command(*command, check_health=False)
    return await connection.read_response(disable_decoding=True)


def parse_info(info: bytes) -> dict[str, str]:
    """Return the fields of a reply to INFO."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines}


def facts_of(info: Mapping[str, str]) -> Facts:
    """Pick what we use from the fields of INFO."""
    return Facts(
        run_id=info.get("run_id", ""),
        used_bytes=int(info.get("used_memory", 0)),
        limit_bytes=int(info.get("maxmemory", 0)),
        policy=info.get("maxmemory_policy", ""),
    )

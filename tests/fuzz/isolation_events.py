"""What happens during the isolation fuzz: edits, revocations, outages, runs without the gateway, purges, restarts.

None of it depends on a response, so the same seed gives the same history.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Collection
from random import Random

from support.calls import token
from support.inside import is_connected
from support.world import World

from .isolation_redash import LEFT, RIGHT, SHARED, Redash

LOCKED = frozenset({"twin left", "twin right", "spaced", "closed", "options", "picks", "failing"})
"""Queries whose SQL stays: their rows are those of another query to somebody who compares less than all of it."""

OUTAGES = ("refused", "status", "unhealthy", "hang", "html", "garbage", "reset_before_headers", "truncate", "latency")


class Events:
    """Changes Redash and the gateway; each change is one method."""

    def __init__(self, redash: Redash, world: World) -> None:
        self._redash = redash
        self._world = world
        self._sandbox = redash.sandbox

    async def happen(self, rng: Random, among: Collection[str] = ()) -> str:
        """Let one thing happen, any or one of these; returns its name."""
        names = [name for name in _EVENTS if not among or name in among]
        name = rng.choices(names, [_EVENTS[name][0] for name in names])[0]
        await _EVENTS[name][1](self, rng)
        self._redash.note()
        return name

    # -- edits

    def _editable(self, rng: Random) -> int:
        return self._redash.ids[rng.choice(sorted(self._redash.ids.keys() - LOCKED))]

    async def edit(self, rng: Random) -> None:
        """Somebody edits the SQL in Redash."""
        query = self._editable(rng)
        self._sandbox.edit_query(query, query=self._redash.edit_sql(query))

    async def edit_here(self, rng: Random) -> None:
        """Somebody edits the SQL through the gateway."""
        query = self._editable(rng)
        body, headers = {"query": self._redash.edit_sql(query)}, {"Authorization": f"Key {token('writer')}"}
        await self._world.call("POST", f"/api/queries/{query}", body, client=None, headers=headers)

    async def move(self, rng: Random) -> None:
        """A query gets another source."""
        query = self._redash.ids[rng.choice(["plain", "left", "right", "number", "twin left", "twin right", "spaced"])]
        self._sandbox.edit_query(query, data_source_id=rng.choice([SHARED, LEFT, RIGHT]))

    async def change_parameter(self, rng: Random) -> None:
        """A parameter gets another default, or takes any text from now on (which view-only users may not send)."""
        query = self._redash.ids["enum"]
        options = copy.deepcopy(self._sandbox.queries[query].options)
        country = options["parameters"][0]
        if rng.random() < 0.7:
            country["value"] = rng.choice(["FR", "DE"])
        else:
            country["type"] = "enum" if country["type"] == "text" else "text"
        self._sandbox.edit_query(query, options=options)

    async def change_dropdown(self, rng: Random) -> None:
        """A query gets another dropdown, or the one of the beginning."""
        options = copy.deepcopy(self._sandbox.queries[self._redash.ids["picks"]].options)
        options["parameters"][0]["queryId"] = self._redash.ids[rng.choice(["options", "right"])]
        self._sandbox.edit_query(self._redash.ids["picks"], options=options)

    async def change_board(self, rng: Random) -> None:
        """A query is put on a dashboard, or taken off it."""
        database, board = self._sandbox.database, rng.choice(self._redash.boards)
        widgets = database.widgets_of(board)
        if len(widgets) > 2 and rng.random() < 0.6:
            del database.widgets[rng.choice(widgets).id]
            return
        query = rng.choice(sorted(self._redash.ids.values()))
        database.add_widget(board, database.visualizations_of(query)[0].id)

    # -- revocations

    async def revoke_source(self, rng: Random) -> None:
        """A group may not read a source any more."""
        source = self._sandbox.database.sources[rng.choice([SHARED, LEFT, LEFT, RIGHT])]
        if source.groups:
            del source.groups[rng.choice(sorted(source.groups))]

    async def grant_source(self, rng: Random) -> None:
        """A group may read a source."""
        source = self._sandbox.database.sources[rng.choice([SHARED, LEFT, RIGHT])]
        source.groups[rng.choice(sorted(self._redash.groups.values()))] = rng.random() < 0.3

    async def disable_user(self, rng: Random) -> None:
        """A user is disabled: Redash rejects the key."""
        user = rng.choice(sorted(self._sandbox.database.users))
        self._sandbox.database.users[user].disabled_at = self._sandbox.database.now()

    async def regenerate_key(self, rng: Random) -> None:
        """A query gets another key; the gateway knows the old one until a reload."""
        query = self._redash.ids[rng.choice(["enum", "plain", "picks"])]
        self._sandbox.edit_query(query, api_key=self._sandbox.database.new_key())

    async def rotate_key(self, rng: Random) -> None:
        """A user gets another key; the gateway knows the old one until a reload."""
        user = self._sandbox.database.users[rng.choice(sorted(self._sandbox.database.users))]
        user.api_key = self._sandbox.database.new_key()

    async def delete_query(self, rng: Random) -> None:
        """A query is gone: 404 for everybody."""
        self._sandbox.queries[rng.choice(sorted(self._redash.ids.values()))].org = 2

    def take_away(self, query: int, rng: Random) -> None:
        """Nobody but admins may see a query any more, for one reason or another."""
        source = self._sandbox.queries[query].data_source_id or 0
        if rng.random() < 0.5:
            self._sandbox.database.sources[source].groups.clear()
        else:
            self._sandbox.queries[query].org = 2
        self._redash.note()

    async def restore(self, _: Random) -> None:
        """Everybody has the rights of the beginning again."""
        self._redash.reset_groups()

    # -- runs and results without the gateway

    async def run_directly(self, rng: Random) -> None:
        """Somebody runs a query in Redash itself."""
        name = rng.choice(["plain", "left", "right", "twin left", "twin right", "spaced", "closed", "options", "enum"])
        query = self._redash.ids[name]
        await self._sandbox.execute_directly(query)

    async def set_back(self, rng: Random) -> None:
        """Redash's database is restored from a backup, which takes some time: result ids begin again."""
        self._world.clock.turn(10)
        newest = max(self._sandbox.database.results, default=0)
        self._sandbox.set_back(max(0, newest - rng.randint(1, 20)))
        self._redash.times_set_back += 1
        for name in rng.choices(["plain", "left", "right", "twin left", "number", "options"], k=4):
            await self._sandbox.execute_directly(self._redash.ids[name])

    async def lose_jobs(self, _: Random) -> None:
        """Redash's Redis is restarted."""
        self._sandbox.lose_jobs()

    # -- the gateway

    async def purge(self, rng: Random) -> None:
        """An operator purges a query or everything."""
        what = {"all": True} if rng.random() < 0.3 else {"query": rng.choice(sorted(self._redash.ids.values()))}
        await self._world.purge(what)

    # -- outages: these last, and are begun and ended between two steps

    async def begin_outage(self, rng: Random) -> str:
        """Let Redash fail in one way, and some time pass."""
        kind = rng.choice(OUTAGES)
        if kind == "refused":
            await self._sandbox.disconnect()
        else:
            self._sandbox.faults.add(kind, status=rng.choice([502, 503, 504]), seconds=0.02)
        self._redash.outage = kind
        if kind != "latency":
            self._redash.unavailable.add(self._world.clock.wall(), True)
        self._world.clock.turn(rng.choice([0, 0, 10, 40, 70, 300, 650]))
        return kind

    async def end_outage(self) -> None:
        """Let Redash work again."""
        self._sandbox.faults.clear()
        if not is_connected(self._sandbox):
            await self._sandbox.reconnect()
        self._redash.outage = ""


_EVENTS: dict[str, tuple[int, Callable[[Events, Random], Awaitable[None]]]] = {
    "edit": (8, Events.edit),
    "edit here": (4, Events.edit_here),
    "move": (5, Events.move),
    "parameter": (3, Events.change_parameter),
    "dropdown": (1, Events.change_dropdown),
    "board": (4, Events.change_board),
    "revoke source": (8, Events.revoke_source),
    "grant source": (3, Events.grant_source),
    "disable user": (2, Events.disable_user),
    "regenerate key": (2, Events.regenerate_key),
    "rotate key": (1, Events.rotate_key),
    "delete query": (3, Events.delete_query),
    "restore": (16, Events.restore),
    "run directly": (8, Events.run_directly),
    "set back": (3, Events.set_back),
    "lose jobs": (1, Events.lose_jobs),
    "purge": (2, Events.purge),
}
"""How often each happens."""

REVOCATIONS = frozenset({"revoke source", "disable user", "regenerate key", "rotate key", "delete query"})

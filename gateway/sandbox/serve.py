"""Running the sandbox alone, and a text that describes its content."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .sandbox import Sandbox
from .versions import NEWEST

_SHOWN = (
    ("by_country", "{}"),
    ("revenue_by_month", '{"period": {"start": "2024-01-01", "end": "2024-03-31"}}'),
    ("in_country", '{"country": "JP"}'),
    ("slow", "{}"),
    ("slow_seconds", '{"seconds": 5}'),
)


async def serve(
    host: str = "127.0.0.1",
    port: int = 5000,
    *,
    seed: int = 1,
    orders: int = 200_000,
    workers: int = 4,
    slug: str | None = None,
    redash: str = NEWEST,
    started: Callable[[Sandbox], None] | None = None,
) -> None:
    """Runs until cancelled. Calls `started` once it listens. Raises OSError if it cannot listen."""
    sandbox = Sandbox(seed=seed, workers=workers, orders=orders, slug=slug, redash=redash)
    await sandbox.start(host, port)
    sandbox.scheduler.start()
    try:
        if started is not None:
            started(sandbox)
        await asyncio.Event().wait()
    finally:
        await sandbox.stop()


def main(host: str, port: int, redash: str) -> int:
    """Runs until it is interrupted; prints what the sandbox contains."""

    def started(sandbox: Sandbox) -> None:
        print(describe(sandbox), flush=True)  # noqa: T201

    asyncio.run(serve(host, port, redash=redash, started=started))
    return 0


def describe(sandbox: Sandbox) -> str:
    """Keys and example queries, for printing."""
    keys = "\n".join(f"  {name:<9} {key}" for name, key in sandbox.user_keys.items())
    lines = []
    for short, parameters in _SHOWN:
        query = sandbox.queries[sandbox.named[short]]
        lines.append(f"  {query.id:>3}  {query.name}  parameters {parameters}")
    key, query_id = sandbox.user_keys["analyst"], sandbox.named["by_country"]
    boards = "\n".join(f"  {board.id:>3}  {board.name}" for board in sandbox.database.dashboards.values())
    return (
        f"Redash sandbox at {sandbox.url}, version {sandbox.version.number}\n\nKeys\n{keys}\n\n"
        f"Queries (of {len(sandbox.queries)})\n" + "\n".join(lines) + f"\n\nDashboards\n{boards}\n\nTry\n"
        f"  curl -H 'Authorization: Key {key}' {sandbox.url}/api/queries/{query_id}/results.json\n"
        f"  curl {sandbox.url}/sandbox/counters\n"
    )

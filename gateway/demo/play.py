"""Plays the demo: starts the servers, opens the dashboards, shows times and figures, ends with a verdict."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from gateway import config
from gateway.admin import formats
from gateway.app.event_loop import loop_factory
from gateway.app.operations import RuntimeOperations
from gateway.app.runtime import Runtime
from gateway.app.serve import run
from gateway.demo.dashboards import DASHBOARDS, GLANCED, PANELS, Round, Side, Wall
from gateway.demo.texts import COMMANDS, CONFIGURATION, TITLE
from gateway.errors import GatewayError, StoreError
from gateway.sandbox import Sandbox
from gateway.telemetry import log

ORDERS: Final = 200_000
DEFAULT_PORTS: Final = {"--port": 8080, "--admin-port": 8081, "--sandbox-port": 5000}
TICK_SECONDS: Final = 1.0
INTERRUPTED: Final = 130


class Ports(NamedTuple):
    """Where the demo listens; 0 is any free port."""

    gateway: int
    admin: int
    sandbox: int


class Tokens(NamedTuple):
    """The tokens of the three clients, and the operator's."""

    demo: str
    wall: str
    query: str
    admin: str


def main(port: int | None, admin_port: int | None, sandbox_port: int | None, *, once: bool = False) -> int:
    """Run until interrupted, or once to the verdict. Returns the exit status. A port of None is the default."""
    log.set_up("text")
    logging.getLogger("gateway.events").setLevel(logging.WARNING)  # the terminal shows the story
    given = (port, admin_port, sandbox_port)
    defaults = (0 if once else default for default in DEFAULT_PORTS.values())
    ports = Ports(*(default if one is None else one for one, default in zip(given, defaults, strict=True)))
    try:
        for option, one in zip(DEFAULT_PORTS, ports, strict=True):
            _refuse_busy(option, one)
        with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
            return runner.run(_run(ports, once=once))
    except (StoreError, GatewayError, OSError) as error:
        print(f"redash-gateway demo: {error}", file=sys.stderr)  # noqa: T201 - talks to a terminal
        return 1


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody reads it on a screen."""
    return stream.isatty()


def _refuse_busy(option: str, port: int) -> None:
    """Name the option before anything starts.

    Raises:
        GatewayError: the port is in use.
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            text = f"port {port} cannot be had ({error.strerror}); choose another one with {option} N, or any with 0"
            raise GatewayError(text) from None


async def _run(ports: Ports, *, once: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="redash-gateway-demo-") as directory:
        sandbox = Sandbox(orders=ORDERS)
        await sandbox.start(port=ports.sandbox)
        try:
            tokens = Tokens(*(f"rg_{secrets.token_urlsafe(32)}" for _ in range(4)))
            settings = _settings(sandbox, Path(directory), ports, tokens)
            runtime = Runtime(settings, operations=lambda runtime: RuntimeOperations(runtime, None))
            with ThreadPoolExecutor(len(PANELS) + len(GLANCED)) as pool:
                demo = Demo(runtime, sandbox, tokens, pool)
                await run(runtime, lambda: demo.play(once=once))
            return demo.status
        finally:
            await sandbox.stop()


class Demo:
    """What is shown while it runs."""

    def __init__(self, runtime: Runtime, sandbox: Sandbox, tokens: Tokens, pool: ThreadPoolExecutor) -> None:
        self._runtime = runtime
        self._sandbox = sandbox
        self._tokens = tokens
        self._wall = Wall(sandbox, pool)
        self.status = 0
        """The exit status; a verdict that has not been reached is none."""

    async def play(self, *, once: bool) -> None:
        """Open the dashboards without and with the gateway; then go on, unless it is for once."""
        self.status = INTERRUPTED if once else 0
        first, second = self._wall.panels
        redash = Side("without the gateway", self._sandbox.url, self._sandbox.user_keys["analyst"], first)
        gateway = Side("with the gateway", self._runtime.api_addresses[0].url, self._tokens.wall, second)
        print(self._text(TITLE), flush=True)  # noqa: T201
        glance = asyncio.create_task(self._wall.glance(gateway))  # so that the console has something to show
        try:
            without, with_it = [await self._wall.open_all(side, self._progress) for side in (redash, gateway)]
            if glance.done():
                glance.result()  # it has failed, and the verdict would hide it
        finally:
            glance.cancel()
            await asyncio.gather(glance, return_exceptions=True)
        self.status = self._print_verdict(without, with_it)
        if not once:
            print(self._text(COMMANDS), flush=True)  # noqa: T201
            await self._go_on(gateway)

    def _progress(self, so_far: Round, done: int) -> None:
        """Show how far a round is: on a terminal with every dashboard, elsewhere at its end."""
        is_last, bar = done == DASHBOARDS, "█" * done + "░" * (DASHBOARDS - done)
        line = f"  {so_far.name:<20} {bar}  {so_far.seconds:5.1f} s  {so_far.executions:>3} executions"
        if is_terminal(sys.stdout):
            print(f"\r{line}", end="\n" if is_last else "", flush=True)  # noqa: T201
        elif is_last:
            print(line, flush=True)  # noqa: T201

    def _print_verdict(self, without: Round, with_it: Round) -> int:
        reason = with_it.worse_than(without)
        if reason:
            print(f"\nVerdict: FAILED: {reason}.", flush=True)  # noqa: T201
            return 1
        times, avoided = without.seconds / with_it.seconds, 1 - with_it.executions / without.executions
        text = f"the same rows, {times:.1f} times as fast, {formats.percent(avoided)} of the executions avoided"
        print(f"\nVerdict: OK: {text}.", flush=True)  # noqa: T201
        return 0

    async def _go_on(self, gateway: Side) -> None:
        """Open a dashboard every second; on a terminal, the last line has the figures of now."""
        is_live = is_terminal(sys.stdout)
        try:
            while True:
                with contextlib.suppress(GatewayError):  # the page shows what fails
                    await self._wall.open_one(gateway)
                if is_live:
                    print(f"\r\x1b[K  {self._figures()}", end="", flush=True)  # noqa: T201
                await asyncio.sleep(TICK_SECONDS)
        finally:
            print("\n" if is_live else "", end="", flush=True)  # noqa: T201 - the shell goes on in a line of its own

    def _figures(self) -> str:
        report = self._runtime.operations.status()
        totals, share = report.totals, report.hour.hit_rate
        return (
            f"{formats.count(totals.requests)} requests · "
            f"{'–' if share is None else formats.percent(share)} without a run · "
            f"{formats.count(totals.executions)} executions · {report.running_count} running · "
            f"{formats.duration(totals.saved_seconds)} saved"
        )

    def _text(self, template: str) -> str:
        return template.format(
            orders=ORDERS,
            panels=len(PANELS),
            redash=self._sandbox.url,
            api=self._runtime.api_addresses[0].url,
            admin=self._runtime.admin_address.url,
            token=self._tokens.demo,
            admin_token=self._tokens.admin,
            query=self._sandbox.named["by_country"],
            slow_query=self._sandbox.named["slow"],
            slow=3,
        )


def _settings(sandbox: Sandbox, directory: Path, ports: Ports, tokens: Tokens) -> config.Config:
    query_key_id = sandbox.named["in_country"]
    text = CONFIGURATION.format(
        port=ports.gateway,
        admin_port=ports.admin,
        redash=sandbox.url,
        query_key_id=query_key_id,
        token_sha256=config.token_hash(tokens.demo),
        wall_token_sha256=config.token_hash(tokens.wall),
        query_token_sha256=config.token_hash(tokens.query),
        admin_token_sha256=config.token_hash(tokens.admin),
    )
    keys = {"DEMO_KEY": sandbox.user_keys["analyst"], "DEMO_QUERY_KEY": sandbox.query_key(query_key_id)}
    return config.parse(text, directory, keys, "demo")

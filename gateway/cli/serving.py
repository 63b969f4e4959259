"""The commands that run servers until they are stopped: serve, demo, sandbox."""

from __future__ import annotations

import argparse
import signal

from gateway.cli import places


def serve(arguments: argparse.Namespace) -> int:
    """Run the gateway."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can reload; by default it would end the process
    from gateway.app.serve import serve as run  # noqa: PLC0415 - heavy

    return run(arguments.config or places.find(), arguments.listen)


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from gateway import demo as module  # noqa: PLC0415 - heavy

    return module.main(arguments.port, arguments.admin_port, arguments.sandbox_port, once=arguments.once)


def sandbox(arguments: argparse.Namespace) -> int:
    """Run the sandbox alone."""
    from gateway import sandbox as module  # noqa: PLC0415 - heavy

    return module.main(arguments.host, arguments.port, arguments.redash)

"""The commands that run servers until they are stopped: serve, demo, sandbox."""

from __future__ import annotations

import argparse

from gateway.cli import places


def serve(arguments: argparse.Namespace) -> int:
    """Run the gateway."""
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

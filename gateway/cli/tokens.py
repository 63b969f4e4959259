"""`token`: a client token and its line for the configuration."""

from __future__ import annotations

import argparse
import secrets


def token(_: argparse.Namespace) -> int:
    """Print a new token and its hash."""
    from gateway.config import token_hash  # noqa: PLC0415 - heavy

    made = f"rg_{secrets.token_urlsafe(32)}"
    print(f"{made}\n\nGive this token to the client: it is shown only now. Line for the client's table:\n")
    print(f'token_sha256 = ["{token_hash(made)}"]', "\nIn [admin], for the operator: without brackets.", sep="\n")
    return 0

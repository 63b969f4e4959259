"""A small valid configuration for tests that write it to a file; its key is in the variable KEY."""

from __future__ import annotations

from typing import Final

SMALL: Final = f"""
[upstream]
url = "https://redash.example.com"

[credentials.a]
kind = "user"
key_env = "KEY"

[clients.c]
token_sha256 = ["{"ab" * 32}"]
credentials = ["a"]
"""

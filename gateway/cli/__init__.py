"""The commands: what they are called, their options, what they print, and their exit status.

`commands` has the table of all of them. Each imports what is heavy only when it runs.
"""

from gateway.cli.commands import main

__all__ = ["main"]

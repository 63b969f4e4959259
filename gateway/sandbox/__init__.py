"""A small server that speaks Redash's API over SQLite, for the demo, the tests and the bench. It is an
implementation of its own and imports nothing of the gateway, so that the two cannot share a mistake.
"""

from .faults import Fault, Faults
from .jobs import Hold
from .sample_objects import parameter
from .sandbox import Sandbox
from .serve import describe, main, serve
from .versions import NEWEST, VERSIONS, Version

__all__ = [
    "NEWEST",
    "VERSIONS",
    "Fault",
    "Faults",
    "Hold",
    "Sandbox",
    "Version",
    "describe",
    "main",
    "parameter",
    "serve",
]

"""A small server that speaks Redash's API over SQLite, for the demo, the tests and the bench. It is an
implementation of its own and imports nothing of the gateway, so that the two cannot share a mistake.
"""

from .faults import Fault, Faults
from .jobs import Hold
from .sample_objects import parameter
from .sandbox import Sandbox
from .serve import describe, serve

__all__ = ["Fault", "Faults", "Hold", "Sandbox", "describe", "parameter", "serve"]

"""Redash Gateway: a local caching gateway in front of the Redash API."""

__version__ = "0.1.0"

"""Calls to Redash: the `Upstream` protocol with its request and response, and the only HTTP client.

What a call means, and what becomes of its response, is decided by the rooms above.
"""

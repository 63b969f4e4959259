"""Sends requests to Redash: the `Upstream` protocol with its response, and the only HTTP client.

The rooms above decide what is sent and what follows from the response.
"""

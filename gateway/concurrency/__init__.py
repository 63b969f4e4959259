"""Tools for many callers at once: single flight, events, fair slots, turns, breaker, token bucket, growing files.

They know nothing of Redash's API, of HTTP or of results.
"""

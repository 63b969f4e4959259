"""Tools for many callers at once: one call for all of them, fair slots, the breaker, rate buckets, a file that grows.

They know nothing of Redash, of HTTP or of results.
"""

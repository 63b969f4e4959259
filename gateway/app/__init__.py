"""The process: the configured parts put together, listeners, signals, reload, TLS.

The commands that start it are in `cli`.
"""

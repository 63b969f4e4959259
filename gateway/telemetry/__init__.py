"""What became of requests, upstream calls and executions: one record each, made into metrics, log, traces and history.

The records themselves are in `outcome`. Pages that show them live in `admin`.
"""

"""Everything that is answered without running a query: definitions, bindings, metadata, stored results, fetches.

Runs of queries live in `executions`.
"""

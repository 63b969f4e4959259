"""Everything that needs no query run: definitions, bindings, metadata, stored results, fetches.

Query runs live in `executions`.
"""

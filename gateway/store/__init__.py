"""Where results are stored, and the ledger of jobs and executions: in memory, or in a SQLite file with memory in front.

`protocols` says what each must promise, `factory` makes them from `cache.store`, `compression` makes gzip bodies.
Nothing here decides whether a result is fresh; that is `policy`.
"""

from gateway.store.protocols import FrontStore, Ledger, Store

__all__ = ["FrontStore", "Ledger", "Store"]

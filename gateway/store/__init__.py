"""Where results are stored, the ledger of jobs and executions, and who leads which run.

`protocols` says what each must promise, `factory` makes them from `cache.store`, `compression` makes gzip bodies.
Nothing here decides whether a result is fresh; that is `policy`.
"""

from gateway.store.protocols import Claim, Fence, FrontStore, Held, Lease, LeaseLostError, Leases, Ledger, Store

__all__ = ["Claim", "Fence", "FrontStore", "Held", "Lease", "LeaseLostError", "Leases", "Ledger", "Store"]

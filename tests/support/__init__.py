"""What the tests of several rooms share: clocks, a gateway before a sandbox, its callers, processes."""

"""Several gateways share one Redis: `Link` is the way to it, `RedisStore` and `RedisLedger` are what stands in it.

Everything here behaves as if Redis were empty while it is down; no request waits for it longer than a moment.
"""

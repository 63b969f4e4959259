"""The API listener: connections, the fast path, reading requests, writing responses.

What a request means and how to respond is decided in `pipeline`. The admin listener lives in `admin`.
"""

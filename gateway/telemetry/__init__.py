"""Turns the records of `outcome` into metrics, logs, traces and the numbers of the status page.

The status page itself lives in `admin`.
"""

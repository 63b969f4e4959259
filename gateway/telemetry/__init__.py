"""Turns the records of `outcome` into metrics, logs, traces and the numbers of the console.

The console itself lives in `admin`.
"""

"""Runs of queries: at most one per key, from the look-up over the POST and the job to the stored result.

Reading what has been run before lives in `results`.
"""

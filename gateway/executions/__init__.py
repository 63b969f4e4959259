"""Query runs: at most one per key at a time, from the look-up to the POST, the job and the stored result.

Reading results of earlier runs lives in `results`.
"""

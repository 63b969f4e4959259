"""The soak: mixed load on a real gateway before a sandbox, with faults, kills, restarts and reloads from a seed.

It checks every response and everything that may be left over, and prints a table of verdicts.
"""

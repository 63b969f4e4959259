"""Chaos: many callers of a gateway behind a network that breaks responses in every way, from a seed.

Every response must come in time and be right, or an error; afterwards nothing may be left over.
"""

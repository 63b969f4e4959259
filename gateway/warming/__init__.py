"""The way without a caller: queries that are kept fresh by the clock, and what is popular, renewed before it expires.

It never happens at the expense of requests.
"""

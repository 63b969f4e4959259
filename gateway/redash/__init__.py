"""What Redash's API means: routes, requests, responses, parameters, SQL texts. Pure: time is an argument.

CONTRACT n in comments is a section of the recorded behaviour of Redash 26.08: 6 is executing, 7 Redash's own cache key,
8 results, 9 jobs.
"""

"""What Redash's API means: routes, bodies, max_age, parameters, jobs, SQL texts.

Pure: no await, no socket, no clock of its own. Sections of "the contract" in comments count the recorded behaviour of
Redash 26.08: CONTRACT 6 is executing, 7 Redash's own cache key, 8 results, 9 jobs, and so on.
"""

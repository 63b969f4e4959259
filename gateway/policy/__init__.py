"""Which client may do what, with which credential, under which key and limits: access, plan, quotas.

Pure: decisions depend on values and on the given time only. Nothing here waits, reads a file or calls Redash.
"""

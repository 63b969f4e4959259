"""Who may do what, by which credential, under which key and within which bounds: access, plan, quotas.

Pure: decides from values and the time it is given. Nothing here waits, reads a file or asks Redash.
"""

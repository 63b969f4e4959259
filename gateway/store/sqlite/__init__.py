"""`SqliteStore` and `SqliteLedger`: one SQLite file, with a directory of large bodies beside it.

`database` is the connection, `writer` groups commits, `write_buffer` holds accepted writes until they are committed,
`disk` is what is committed: rows and body files, their limit and their cleaning.
"""

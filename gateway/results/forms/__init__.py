"""Forms of results that the gateway makes from the stored JSON: data formats, pages, and parts of a table.

`making` is the way in. `table` reads the JSON as a stream, the other files write one form each; `worker` is the process
in which large ones are made.
"""

"""The status page: what became of the last hour's requests, as a page, as JSON, and as a stream of both's numbers."""

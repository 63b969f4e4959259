"""The URL of a request to Redash: the configured one, and the path and the query that we have built."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from yarl import URL

_LONGEST_KEPT: Final = 256
"""Characters of a URL that is kept; of a longer one most is the caller's, up to 16 KB."""


def url_of(url: str, path: str, query: str) -> URL:
    """Return the URL for a path below the organisation's `url`; nothing is encoded again."""
    return (_kept if len(url) + len(path) + len(query) <= _LONGEST_KEPT else _built)(url, path, query)


def _built(url: str, path: str, query: str) -> URL:
    base = URL(url)
    return URL.build(
        scheme=base.scheme,
        authority=base.raw_authority,
        path=base.raw_path.rstrip("/") + path,
        query_string=query,
        encoded=True,
    )


_kept = lru_cache(maxsize=1_024)(_built)

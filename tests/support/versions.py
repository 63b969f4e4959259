"""Which versions of Redash a test runs before."""

from __future__ import annotations

from typing import Final

import pytest

EVERY_KIND: Final = pytest.mark.parametrize(
    "redash_version", [pytest.param("8", marks=pytest.mark.long), pytest.param("10", marks=pytest.mark.long), "26"]
)
"""One version of each kind that matters to a cache; the old ones only in the complete run."""

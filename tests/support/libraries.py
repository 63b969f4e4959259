"""Libraries that only some tests need."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def library(name: str) -> Any:
    """Import a library, or skip; with GATEWAY_TEST_REQUIRE_ALL=1 a missing one is a failure."""
    if os.environ.get("GATEWAY_TEST_REQUIRE_ALL") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed")

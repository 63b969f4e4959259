"""How long the random tests are: CI runs their short form, GATEWAY_TEST_TIMES=10 one of ten times the length."""

from __future__ import annotations

import os
from typing import Final

TIMES: Final = int(os.environ.get("GATEWAY_TEST_TIMES", "1"))
"""The factor of their requests, schedules, machines and seeds. Limits of time do not grow with it: --timeout=0."""

"""The benchmark: gateway, nginx, Varnish and bare servers side by side on loopback."""

import sys
from pathlib import Path

# The recorded requests of clients belong to the tests; both must be the same.
sys.path.append(str(Path(__file__).parent.parent / "tests"))

"""Where the configuration is when no option says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from gateway.errors import ConfigurationError

VARIABLE: Final = "REDASH_GATEWAY_CONFIG"
PLACES: Final = (Path("config.toml"), Path("/etc/redash-gateway/config.toml"))
"""Relative ones are in the current directory."""


def find() -> Path:
    """Return the file that `REDASH_GATEWAY_CONFIG` names, else the first of `PLACES` that is there.

    Raises:
        ConfigurationError: there is none.
    """
    if (found := named_or_readable()) is not None:
        return found
    for place in PLACES:
        if place.exists():
            return place  # it cannot be read, and the error will say so
    looked = ", ".join(map(str, PLACES))
    text = f"redash-gateway: there is no configuration: looked for {looked}; name one with -c FILE or in {VARIABLE}"
    raise ConfigurationError([f"{text}; `redash-gateway init` writes one"])


def named_or_readable() -> Path | None:
    """Return the file that the variable names, else the first of `PLACES` that this user can read, else None."""
    if named := os.environ.get(VARIABLE, "").strip():
        return Path(named)
    return next((place for place in PLACES if os.access(place, os.R_OK)), None)

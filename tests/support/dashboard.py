"""The dashboard for Grafana, and what Grafana makes of its variables before it asks Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PATH: Final = Path(__file__).parents[2] / "deploy" / "grafana" / "redash-gateway.json"
DASHBOARD: Final[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))

ALL: Final = ".*"
"""What the variables send for "All", as the dashboard says (`allValue`)."""

SPAN: Final = "1m"
"""Stands for the time range, and for the interval that rates are taken over."""


@dataclass(frozen=True)
class Target:
    """One query of a panel."""

    panel: str
    expression: str
    legend: tuple[str, ...]
    """The labels that name its series."""
    is_range: bool


def targets() -> Iterator[Target]:
    """Every query of every panel, variables not replaced."""
    for panel in DASHBOARD["panels"]:
        for one in panel.get("targets", ()):
            legend = tuple(re.findall(r"\{\{(\w+)\}\}", one["legendFormat"]))
            yield Target(panel["title"], one["expr"], legend, one["range"])


def variables() -> list[dict[str, Any]]:
    """Those whose values come from Prometheus, in the order in which Grafana asks for them."""
    return [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]


def replaced(text: str, chosen: Mapping[str, Sequence[str]]) -> str:
    """Put the chosen values in, none being "All", as Grafana does for `=~`: escaped, and several as (a|b)."""
    text = text.replace("$__rate_interval", SPAN).replace("$__range", SPAN)
    for variable in variables():
        values = [re.escape(value).replace("\\", "\\\\") for value in chosen.get(variable["name"], ())]
        one = values[0] if len(values) == 1 else f"({'|'.join(values)})"
        text = text.replace(f"${variable['name']}", one if values else ALL)
    assert "$" not in text, text
    return text

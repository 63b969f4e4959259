"""Tables that compare servers: one row for each kind of request, one column for each server and each ratio."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from bench.replaying import Figures
from bench.report import Table


@dataclass(frozen=True)
class Ratio:
    """CPU time of one server through that of another; `target` is what it should be, unless each row says it."""

    server: str
    through: str
    target: str = ""

    @property
    def title(self) -> str:
        return f"{self.server} / {self.through}{f' ({self.target})' if self.target else ''}"


AGAINST_NGINX = (Ratio("gateway, uvloop", "nginx"), Ratio("gateway, asyncio", "nginx"))


def ratios(title: str, rows: list[Figures], wanted: tuple[Ratio, ...] = AGAINST_NGINX, *, rates: bool = True) -> Table:
    """Return CPU times, their ratios, and rates.

    The rows have `request`, `server`, `cpu_us`, `rate` and, where each row has its own, `target`.
    """
    found: dict[str, dict[str, Figures]] = {}
    for row in rows:
        found.setdefault(str(row["request"]), {})[_shown(row)] = row
    servers = list(dict.fromkeys(_shown(row) for row in rows))
    shown = [ratio for ratio in wanted if {ratio.server, ratio.through} <= set(servers)]
    targets = ["target"] if any("target" in row for row in rows) else []
    columns = ("", *servers, *(ratio.title for ratio in shown), *targets, *(f"{s}/s" for s in servers if rates))
    cells = []
    for name, of in found.items():
        cpu = [_cell(of, server, "cpu_us", ".1f") for server in servers]
        target = [str(next(iter(of.values())).get("target", ""))] if targets else []
        rate = [_cell(of, server, "rate", ".0f") for server in servers if rates]
        cells.append((name, *cpu, *(_ratio(of, ratio) for ratio in shown), *target, *rate))
    return Table(title, columns, cells)


def overview(title: str, rows: list[Figures], wanted: tuple[Ratio, ...] = AGAINST_NGINX) -> Table:
    """Return one row for each size and encoding: medians over all requests, and the median and worst ratio.

    The rows have what `ratios` needs, `size` and `encoding`.
    """
    servers = list(dict.fromkeys(_shown(row) for row in rows))
    columns = ("", "requests", *servers, *(f"{ratio.title}, median and worst" for ratio in wanted))
    cells = []
    for kind in dict.fromkeys((row["size"], row["encoding"]) for row in rows):
        found: dict[str, dict[str, float]] = {}
        for row in rows:
            if (row["size"], row["encoding"]) == kind:
                found.setdefault(str(row["request"]), {})[_shown(row)] = number(row["cpu_us"])
        cpu = [_median(of[server] for of in found.values() if server in of) for server in servers]
        pairs = [_spread(list(found.values()), ratio) for ratio in wanted]
        cells.append((", ".join(map(str, kind)), str(len(found)), *cpu, *pairs))
    return Table(title, columns, cells)


def _median(values: Iterable[float]) -> str:
    found = list(values)
    return f"{median(found):.1f}" if found else "–"


def _spread(found: list[dict[str, float]], ratio: Ratio) -> str:
    values = [of[ratio.server] / of[ratio.through] for of in found if of.get(ratio.server) and of.get(ratio.through)]
    return f"{median(values):.2f}, {max(values):.2f}" if values else "–"


def _shown(row: Figures) -> str:
    """Return the server's name; there is at most one nginx in a row, with the settings that suit it."""
    name = str(row["server"])
    return "nginx" if name.startswith("nginx") else name


def _cell(of: dict[str, Figures], server: str, figure: str, form: str) -> str:
    return format(number(of[server][figure]), form) if server in of else "–"


def _ratio(of: dict[str, Figures], ratio: Ratio) -> str:
    if ratio.server not in of or ratio.through not in of:
        return "–"
    through = number(of[ratio.through]["cpu_us"])
    return f"{number(of[ratio.server]['cpu_us']) / through:.2f}" if through else "–"


def number(value: object) -> float:
    """Return a figure as a number."""
    assert isinstance(value, int | float)
    return float(value)

"""The queries of the soak. Each shows its run and its value; one is edited, so it shows its version as well."""

from __future__ import annotations

import re

from support.made import RUN, Made, MadeResult

from gateway.sandbox import Sandbox

VALUES = ("A", "B", "C")
LARGE_ROWS = 20_000
_LINE = "-" * 60
_ENUM = {"name": "x", "type": "enum", "value": "A", "enumOptions": "\n".join(VALUES)}
_NUMBER = {"name": "x", "type": "number", "value": 0}
_VERSION = re.compile(r", (\d+) as version")
_TEXTS = {
    "stamp": f"select '{{{{ x }}}}' as x, {RUN}, {{version}} as version",
    "slow": f"select '{{{{ x }}}}' as x, {RUN}, sleep(0.7) as slept",
    "cancelled": f"select '{{{{ x }}}}' as x, {RUN}, sleep(0.8) as slept",
    "large": "with recursive part(n) as (select 1 union all select n + 1 from part where n < "
    f"{LARGE_ROWS}) select n, '{{{{ x }}}}' as x, {RUN}, '{_LINE}' as line from part",
    "once": f"select {{{{ x }}}} as x, {RUN}, sleep(({{{{ x }}}} % 8) / 20.0) as slept",
    "failing": "select '{{ x }}' as x from no_such_table",
}


class Queries:
    """The queries in the sandbox, by short name."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.made = Made(sandbox)
        self.ids = {name: self._add(name) for name in _TEXTS}

    def _add(self, name: str) -> int:
        parameter = _NUMBER if name == "once" else _ENUM
        owner = next(user.id for user in self.sandbox.database.users.values() if user.name.lower().endswith("admin"))
        return self.sandbox.add_query(f"Soak: {name}", self.text(name), parameters=[parameter], user_id=owner)

    @staticmethod
    def text(name: str, version: int = 0) -> str:
        """The template of a query; only `stamp` has versions."""
        return _TEXTS[name].replace("{version}", str(version))

    def sql(self, name: str, value: object) -> str:
        """The SQL for a value, as the query is now."""
        return self.sandbox.sql_of(self.ids[name], {"x": value})


def version_of(made: MadeResult) -> int:
    """The version of the query that made a result; 0 if it has none."""
    found = _VERSION.search(made.sql)
    return int(found[1]) if found else 0


def is_of(made: MadeResult, name: str, value: object) -> bool:
    """Whether a result is of this query with this value."""
    template = re.escape(_TEXTS[name]).replace(re.escape("{version}"), r"\d+")
    return re.fullmatch(template.replace(re.escape("{{ x }}"), re.escape(str(value))), made.sql) is not None

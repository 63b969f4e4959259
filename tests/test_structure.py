"""Who may import whom, and how large things may grow: the shape of the code as its README tells it.

Read from the source, not from what is installed. A new file must be given its place here first.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ROOT / "gateway"

LEVELS: Final = (
    ("body",),
    ("", "model", "outcome", "secret"),
    ("errors",),
    ("config", "redash", "concurrency"),
    ("policy", "store", "telemetry"),
    ("upstream",),
    ("results",),
    ("executions",),
    ("pipeline",),
    ("warming", "http"),
    ("admin",),
    ("app",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
"""The rooms from the ground up, as docs/architecture.md draws them: each may import what lies below it, and nothing on
its own level or above. `""` is the package itself, with the version."""

SANDBOX: Final = "sandbox"
"""Imports nothing of the rest; only `cli` and `demo` import it."""

MOST_MODULES: Final = 9
MOST_PACKAGES: Final = 16  # `warming` came when one module could not hold refresh ahead with its decisions
MOST_PARAMETERS: Final = 9

PURE: Final = frozenset({"", "body", "model", "outcome", "secret", "errors", "config", "redash", "policy"})
"""No await, no socket, no clock of its own: time is an argument."""

NO_NETWORK: Final = frozenset({"concurrency", "store", "results", "executions", "pipeline", "warming"})
"""Waits, but knows no network and no HTTP library."""

LIBRARIES: Final = frozenset({"aiohttp", "yarl", "requests", "urllib3", "httpx"})
HTTP: Final = LIBRARIES | {"http", "multidict"}
NETWORK: Final = frozenset({"socket", "ssl", "select", "selectors", "socketserver"})
WAITING: Final = frozenset({"asyncio", "concurrent", "threading", "multiprocessing", "subprocess", "signal"})
STORES: Final = frozenset({"aiosqlite", "sqlite3", "redis"})
SHOWING: Final = frozenset({"logging", "prometheus_client", "opentelemetry"})

FOREIGN: Final = {
    "pure": HTTP | NETWORK | WAITING | STORES | SHOWING | {"tempfile", "shutil", "random"},
    "no network": HTTP | NETWORK | {"prometheus_client", "opentelemetry"},
}
"""Top-level packages that a room of this kind may not import."""

ROUTE_TABLE: Final = "redash.routes"
"""The only file that writes paths of Redash's API; `redash.calls` builds requests from its rows."""

READS_FILES: Final = frozenset({"config.load", "config.references", "body"})
"""The configuration and the key files that it names; the files of bodies, which are read in threads."""

FILE_CALLS: Final = frozenset({"open", "read_text", "read_bytes", "write_text", "write_bytes", "stat", "exists"})
CLOCK_CALLS: Final = frozenset({"now", "utcnow", "today"})
LONGEST_FUNCTION: Final = 50
LONGEST_FILE: Final = 300


class File:
    """One source file: its dotted name below `gateway`, its syntax tree, and what it imports."""

    def __init__(self, path: Path) -> None:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    @property
    def part(self) -> str:
        """The file or folder directly below `gateway`."""
        return self.name.partition(".")[0]

    def foreign(self) -> set[str]:
        """Top-level names of everything imported that is not ours."""
        return {name.partition(".")[0] for name in self._imported(self.tree)} - {"gateway"}

    def own(self) -> set[str]:
        """Names below `gateway` of our own files that it imports, also those for types only."""
        names = {name.removeprefix("gateway").removeprefix(".") for name in self._imported(self.tree) if _is_own(name)}
        return {_file_of(name) for name in names} - {self.name}

    def _imported(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def _base(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        package = ["gateway", *filter(None, self.name.split("."))]
        up = node.level - 1 if self.is_package else node.level
        return ".".join([*package[: len(package) - up], *filter(None, [node.module])])


def _is_own(name: str) -> bool:
    return name == "gateway" or name.startswith("gateway.")


@cache
def files() -> dict[str, File]:
    return {file.name: file for file in map(File, sorted(SOURCE.rglob("*.py")))}


def rooms(*names: str) -> list[File]:
    return [file for file in files().values() if file.part in names]


def product() -> list[File]:
    """Everything but the sandbox."""
    return [file for file in files().values() if file.part != SANDBOX]


ROOMS_OF: Final = {"pure": PURE, "no network": NO_NETWORK}


def level_of(room: str) -> int:
    return next(number for number, level in enumerate(LEVELS) if room in level)


@cache
def _paths() -> frozenset[str]:
    names = (path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py"))
    return frozenset(".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names)


def _file_of(name: str) -> str:
    """`config.Client` → `config`, `model` → `model`, `__version__` → "" (the package itself)."""
    while name and name not in _paths():
        name = name.rpartition(".")[0]
    return name


def test_every_room_has_its_level() -> None:
    known = {SANDBOX, *(room for level in LEVELS for room in level)}
    assert {file.part for file in files().values()} == known, f"give it a level in {Path(__file__).name}"


def test_the_house_has_few_rooms() -> None:
    modules = [path for path in SOURCE.glob("*.py") if not path.name.startswith("__")]
    packages = [path for path in SOURCE.iterdir() if (path / "__init__.py").exists()]
    assert len(modules) <= MOST_MODULES
    assert len(packages) <= MOST_PACKAGES


@pytest.mark.parametrize("package", [path.parent.name for path in sorted(SOURCE.glob("*/__init__.py"))])
def test_every_package_says_what_lives_in_it(package: str) -> None:
    told = ast.get_docstring(files()[package].tree) or ""
    assert 1 <= len(told.splitlines()) <= 4


@pytest.mark.parametrize("room", [room for level in LEVELS for room in level])
def test_imports_go_down(room: str) -> None:
    wrong = [
        f"{file.name} imports {name}"
        for file in rooms(room)
        for name in sorted(file.own())
        if (part := files()[name].part) not in (room, SANDBOX) and level_of(part) >= level_of(room)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_sandbox_stands_alone() -> None:
    importers = {file.part for file in files().values() if any(files()[n].part == SANDBOX for n in file.own())}
    assert importers <= {SANDBOX, "cli", "demo"}
    assert {files()[name].part for file in rooms(SANDBOX) for name in file.own()} <= {SANDBOX}


@pytest.mark.parametrize("kind", FOREIGN)
def test_libraries_stay_where_they_belong(kind: str) -> None:
    found = ((file, file.foreign() & FOREIGN[kind]) for file in rooms(*ROOMS_OF[kind]))
    wrong = [f"{file.name}: {', '.join(names)}" for file, names in found if names]
    assert not wrong, "\n".join(wrong)


def test_only_the_store_knows_databases() -> None:
    assert {file.part for file in product() if file.foreign() & STORES} <= {"store"}


def test_only_upstream_is_an_http_client() -> None:
    clients = {
        file.part
        for file in product()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and (getattr(node, "attr", None) or getattr(node, "id", "")) == "ClientSession"
    }
    assert clients == {"upstream"}


def test_only_the_route_table_writes_paths_of_redash() -> None:
    """Docstrings and texts for people (they have blanks) may name a path; the two of the admin listener are its own."""
    wrong = [
        f"{file.name}:{node.lineno} {node.value!r}"
        for file in product()
        if file.name != ROUTE_TABLE
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "/api/" in node.value
        and not re.search(r"\s", node.value)
        and node.value not in ("/api/status", "/api/explain")
    ]
    assert not wrong, "\n".join(wrong)


def test_pure_files_wait_for_nothing() -> None:
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    wrong = [
        f"{file.name}:{node.lineno}"
        for file in rooms(*PURE)
        for node in ast.walk(file.tree)
        if isinstance(node, waiting) and not _in_protocol(file, node)
    ]
    assert not wrong, wrong


def _in_protocol(file: File, node: ast.AST) -> bool:
    """Whether it is declared by an interface: that says what others wait for, and waits itself for nothing."""
    protocols = (
        kind
        for kind in ast.walk(file.tree)
        if isinstance(kind, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in kind.bases)
    )
    return any(node in ast.walk(protocol) for protocol in protocols)


def test_pure_files_read_no_clock() -> None:
    """`datetime.time` is a value and welcome; the module `time` is a clock, and only `model.SystemClock` has one."""
    wrong = [
        f"{file.name}:{node.lineno}" for file in rooms(*PURE) for node in _clock_readings(file) if file.name != "model"
    ]
    assert not wrong, wrong
    clocks = [node for node in files()["model"].tree.body if getattr(node, "name", "") == "SystemClock"]
    inside = {id(node) for clock in clocks for node in ast.walk(clock)}
    outside = [
        node.lineno
        for node in ast.walk(files()["model"].tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
        and id(node) not in inside
    ]
    assert not outside, f"model.py reads a clock outside SystemClock in lines {outside}"


def _clock_readings(file: File) -> Iterator[ast.stmt | ast.expr]:
    for node in ast.walk(file.tree):
        is_clock = (isinstance(node, ast.Import) and any(alias.name == "time" for alias in node.names)) or (
            isinstance(node, ast.ImportFrom) and node.module == "time" and node.level == 0
        )
        if is_clock or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS
        ):
            assert isinstance(node, ast.stmt | ast.expr)
            yield node


def test_pure_files_touch_no_files() -> None:
    wrong = [
        f"{file.name}:{node.lineno} {name}"
        for file in rooms(*PURE)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call)
        and (name := getattr(node.func, "attr", None) or getattr(node.func, "id", "")) in FILE_CALLS
        and file.name not in READS_FILES
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("module", ["gateway.pipeline", "gateway.store.factory", "gateway.config"])
def test_the_inside_runs_without_the_http_library(module: str) -> None:
    """What the source forbids by name, held by what is really loaded, whoever imports it on the way."""
    code = f"import sys, {module}; print(*({set(LIBRARIES)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"{module} loads an HTTP library"


def test_there_are_no_import_cycles() -> None:
    """Imports for types count, too: a circle of types is a circle for the reader."""
    graph = {file.name: file.own() for file in files().values()}
    assert (cycle := _cycle(graph)) is None, " → ".join(cycle or [])


def test_rooms_form_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for file in files().values():
        graph.setdefault(file.part, set()).update({files()[name].part for name in file.own()} - {file.part})
    assert (cycle := _cycle(graph)) is None, " → ".join(cycle or [])


def _cycle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        found = next((c for other in sorted(graph.get(name, ())) if (c := walk(other, [*way, name]))), None)
        done.add(name)
        return found

    return next((cycle for name in sorted(graph) if (cycle := walk(name, []))), None)


def test_functions_are_short() -> None:
    long = [
        f"{file.name}.{node.name}: {lines} lines"
        for file in files().values()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert not long, "\n".join(long)


def test_files_are_short() -> None:
    long = [f"{f.name}: {lines} lines" for f in files().values() if (lines := len(f.text.splitlines())) > LONGEST_FILE]
    assert not long, "\n".join(long)


def test_constructors_take_few_parts() -> None:
    """A part that needs more than nine others does more than one thing."""
    many = [
        f"{file.name}.{kind.name}: {count} parameters"
        for file in files().values()
        for kind in ast.walk(file.tree)
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef)
        and method.name == "__init__"
        and (count := len(method.args.args) + len(method.args.kwonlyargs) - 1) > MOST_PARAMETERS
    ]
    assert not many, "\n".join(many)

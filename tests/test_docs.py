"""What the documents and the example file name exists, and what exists is named in README or on a page of docs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest
from msgspec.structs import fields
from support import reference_pages
from support.process import certificate
from support.world import World
from test_structure import LEVELS, PURE, SANDBOX

from gateway import __version__, cli, config, errors
from gateway.cli import admin_client, places
from gateway.errors import GatewayError, NotFound
from gateway.http import head
from gateway.outcome import MissReason
from gateway.policy.access import TOKEN_FIELDS
from gateway.redash.matching import match
from gateway.redash.routes import ROUTES, Capability

ROOT: Final = Path(__file__).parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES: Final = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
ARCHITECTURE: Final = PAGES["architecture"]
GUIDE: Final = "\n".join([README, *(text for name, text in PAGES.items() if name != "architecture")])
"""What operators and callers read."""
EXAMPLE: Final = (ROOT / "config.example.toml").read_text(encoding="utf-8")
CHANGELOG: Final = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
CONTRIBUTING: Final = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS: Final = ("README.md", "CONTRIBUTING.md", "deploy/README.md", *(f"docs/{name}.md" for name in PAGES))
CI: Final = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

STEPS: Final = ("admit", "parse", "define", "plan", "look up", "join", "execute", "store", "respond", "record")

PATH: Final = re.compile(r"(?<![\w.])/(?:api|ping|metrics|livez|readyz|purge|reload|events)\b[^\s`'\"|,;)]*")
ADMIN: Final = {"/metrics", "/livez", "/readyz", "/", "/events", "/api/status", "/api/explain", "/purge", "/reload"}


def code(language: str, text: str = GUIDE) -> list[str]:
    """The fenced blocks of a document in one language, without their indent."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"(?m)^{indent}", "", text) for indent, text in found]


def spans(text: str = GUIDE) -> list[str]:
    """What a document has between single backticks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^ *```.*?^ *```", "", text))


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    assert f"\n## {heading}\n" in text
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


# -- configuration -----------------------------------------------------------------------------------------------------


def tables() -> dict[str, type[msgspec.Struct]]:
    """Every table of the file by its name, lists of tables included."""
    return dict(_tables("", config.Config))


def _tables(above: str, struct: type[msgspec.Struct]) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    for field in fields(struct):
        for kind in (field.type, *get_args(field.type)):
            if isinstance(kind, type) and issubclass(kind, config.schema.Table):
                yield above + field.name, kind
                yield from _tables(f"{above}{field.name}.", kind)


def keys(struct: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in fields(struct)}


ALL_KEYS: Final = {key for struct in tables().values() for key in keys(struct)}


@pytest.mark.parametrize("name", tables())
def test_the_page_of_the_configuration_names_every_table(name: str) -> None:
    assert re.search(rf"(?m)^\| `\[+{re.escape(name)}(\.NAME)?\]+` \|", PAGES["configuration"])


def test_tables_that_are_named_exist() -> None:
    named = {
        name for text in (GUIDE, EXAMPLE) for name in re.findall(r"(?m)(?:^|`)#?\[{1,2}([a-z_.A-Z-]+)\](?!\()", text)
    }
    assert {
        ".".join(p for p in name.split(".") if p in ALL_KEYS | keys(config.Config)) for name in named
    } <= tables().keys()


@pytest.mark.parametrize("text", [GUIDE, EXAMPLE, CHANGELOG], ids=["guide", "example", "CHANGELOG"])
def test_keys_that_are_named_with_their_table_exist(text: str) -> None:
    names = "|".join(map(re.escape, sorted(tables(), key=len, reverse=True)))
    for table, key in re.findall(rf"(?<![\w./\[-])({names})\.([a-z_0-9]+)\b(?!\()", text):
        if key not in ("toml", "db", "py", "md", "rules"):
            assert key in keys(tables()[table]), f"{table}.{key}"


def test_keys_that_are_named_alone_exist() -> None:
    named = {found[1] for span in spans() if (found := re.fullmatch(r"([a-z_0-9]+) = .+", span))}
    assert named <= ALL_KEYS


def test_operation_names_every_key_that_takes_a_restart_and_no_other() -> None:
    marked = {
        f"{name}.{field.name}"
        for name, struct in tables().items()
        for field in fields(struct)
        if any(isinstance(note, config.schema.TakesRestart) for note in get_args(field.type))
    }
    sentence = PAGES["operation"].partition("Some keys take a restart")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+\.\w+)`", sentence)) == marked


def test_the_minimal_configuration_is_complete(tmp_path: Path) -> None:
    (block,) = code("toml", README)
    assert config.parse(_with_a_token(block), tmp_path, _variables(block)).clients


@pytest.mark.parametrize("block", code("toml"))
def test_configurations_that_a_page_shows_are_valid(block: str, tmp_path: Path) -> None:
    for name, table in REQUIRED.items():
        if f"[{name}" not in block:
            block += table
    assert config.parse(_with_a_token(block), tmp_path, _variables(block)).clients


REQUIRED: Final = {
    "upstream]": '\n[upstream]\nurl = "https://redash.example.com"\n',
    "credentials.": '\n[credentials.reporting]\nkind = "user"\nkey_env = "KEY"\n',
    "clients.": f'\n[clients.a]\ntoken_sha256 = ["{"0" * 64}"]\ncredentials = ["reporting"]\n',
}
"""What a configuration needs beside the tables that a page explains."""


def _with_a_token(block: str) -> str:
    """Do what a reader does with the placeholder, which is refused."""
    return block.replace("0" * 64, "ab" * 32)


def _variables(block: str) -> dict[str, str]:
    return dict.fromkeys(re.findall(r'(?:key|password)_env = "(\w+)"', block), "k" * 40)


@pytest.mark.parametrize("path", reference_pages.pages(), ids=lambda path: path.name)
def test_generated_tables_are_current(path: Path) -> None:
    command = "PYTHONPATH=tests python -m support.reference_pages"
    assert path.read_text(encoding="utf-8") == reference_pages.pages()[path], f"run `{command}` and commit the result"
    assert command in PAGES[path.stem]


def test_access_names_every_header_that_can_bring_a_token() -> None:
    text = section(PAGES["access"], "Clients, credentials, capabilities")
    assert [name for name in TOKEN_FIELDS if f"`{name}: " not in text] == []


def test_operation_names_every_scheme_of_stores() -> None:
    assert [scheme for scheme in config.STORE_SCHEMES if f"`{scheme}:" not in PAGES["operation"]] == []


# -- metrics -----------------------------------------------------------------------------------------------------------


async def test_the_guide_names_every_metric_and_no_other(world: World) -> None:
    async with world.session.get(f"{world.admin}/metrics") as response:
        text = await response.text()
    exported = set(re.findall(r"(?m)^# TYPE (redash_gateway_\w+) ", text))
    assert set(re.findall(r"\bredash_gateway_\w+", GUIDE)) == exported


async def test_the_table_of_metrics_has_every_metric_with_its_labels_and_no_other(
    bare: World, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    needs("openssl")
    cert, _ = certificate(tmp_path, "here")
    await bare.start(dashboard='expires = 2099-01-01\nbudget = "1h/h"', upstream=f'ca_file = "{cert}"')
    await bare.rows("by_country", max_age=0)  # so that every metric has a sample
    rows = re.findall(r"(?m)^\| (`redash_gateway_[^|]+) \|([^|]*)\|", section(PAGES["operation"], "Metrics"))
    table = {name: _labels(told) for names, told in rows for name in re.findall(r"redash_gateway_\w+", names)}
    exported: dict[str, set[str]] = {}
    for sample in await bare.metrics():
        name, _, labels = sample.partition("{")
        if name.startswith("redash_gateway_"):
            name = re.sub(r"_(bucket|sum|count)$", "", name)
            exported.setdefault(name, set()).update(set(re.findall(r'(\w+)="', labels)) - {"le"})
    assert table == exported


def _labels(told: str) -> set[str]:
    return {name for part in re.sub(r"\(.*?\)", "", told).split(",") if (name := part.strip())}


# -- commands ----------------------------------------------------------------------------------------------------------


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def commands(capsys: pytest.CaptureFixture[str]) -> set[str]:
    return set(re.findall(r"(?m)^    (\w+)(?: |$)", help_of(capsys)))


def test_operation_names_every_command_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    listed = re.findall(r"(?m)^\| `redash-gateway ([a-z]+)\b", section(PAGES["operation"], "Commands"))
    assert set(listed) == set(re.findall(r"\bredash-gateway ([a-z]+)\b", GUIDE)) == commands(capsys)


def test_other_texts_name_only_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for text in (EXAMPLE, CHANGELOG):
        assert set(re.findall(r"`redash-gateway ([a-z]+)\b", text)) <= commands(capsys)


def test_options_that_the_guide_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    helps = [help_of(capsys), *(help_of(capsys, name) for name in commands(capsys))]
    known = {option for text in helps for option in re.findall(r"--[a-z][a-z-]*", text)}
    ours = [span for span in spans() if span.startswith(("--", "redash-gateway"))]
    named = {option for span in ours for option in re.findall(r"(?<!\w)--[a-z][a-z-]*", span)}
    assert named - known == OF_ANOTHER_PROGRAM


OF_ANOTHER_PROGRAM: Final = {"--readme"}
"""Of `python -m bench`."""


# -- routes ------------------------------------------------------------------------------------------------------------


def exists(path: str) -> bool:
    """Whether it is a template of the route table, a path that the table matches, or one of the admin listener's."""
    path = path.partition("?")[0].rstrip(".")
    if path in ADMIN or path in {route.template for route in ROUTES}:
        return True
    for method in {route.method for route in ROUTES}:
        try:
            match(method, path)
        except GatewayError as error:
            if isinstance(error, NotFound):
                return False
            continue
        return True
    return False


@pytest.mark.parametrize("path", sorted(set(PATH.findall(GUIDE))))
def test_paths_that_the_guide_names_exist(path: str) -> None:
    assert exists(path)


async def test_admin_paths_that_operation_names_answer(world: World) -> None:
    rows = re.findall(r"(?m)^\| `(GET|POST) (/[^\s`]*)` \|", PAGES["operation"])
    assert {path for _, path in rows} == ADMIN
    for method, path in rows:
        async with world.session.request(method, world.admin + path, json={"all": True}) as response:
            assert response.status != 404, path
            assert response.status != 405, path


@pytest.mark.parametrize("capability", get_args(Capability))
def test_access_names_every_capability(capability: str) -> None:
    assert f"| `{capability}` |" in PAGES["access"]


# -- errors ------------------------------------------------------------------------------------------------------------


SEEN_BY_NOBODY: Final = {499: "our own client has left: only counted and logged"}


def statuses_in_the_table() -> set[int]:
    cells = re.findall(r"(?m)^\| ([\d, ]+) \|", section(PAGES["operation"], "Errors"))
    return {int(status) for cell in cells for status in cell.split(",")}


def test_the_table_has_the_status_of_every_error_and_no_other() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)]
    missing = [f"{kind.__name__}: {kind.status}" for kind in kinds if kind.status not in statuses_in_the_table()]
    assert missing == [], "the table of errors does not have these"
    assert sorted(statuses_in_the_table() - {kind.status for kind in kinds}) == [], "no error has these statuses"


def test_the_table_has_the_statuses_that_the_listener_itself_knows() -> None:
    missing = [
        f"{path.name}:{node.lineno}: {node.value}"
        for path in (ROOT / "gateway" / "http").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and 400 <= node.value < 600
        if node.value not in statuses_in_the_table() | SEEN_BY_NOBODY.keys()
    ]
    assert missing == [], "the table of errors does not have these"


def test_the_table_has_every_reason_of_a_rejection_and_no_other() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)]
    cells = re.findall(r"(?m)^\| [^|]+ \| ([`a-z_, ]+) \|", section(PAGES["operation"], "Errors"))
    assert {reason for cell in cells for reason in spans(cell)} == {kind.reason for kind in kinds}


# -- headers -----------------------------------------------------------------------------------------------------------


FRAMING: Final = {"connection", "content-length", "transfer-encoding", "date"}
"""What every HTTP server sends."""


def _headers(heading: str) -> set[str]:
    rows = PAGES["clients"].partition(f"| {heading} |")[2].partition("\n\n")[0]
    return {name.lower() for row in re.findall(r"(?m)^\| (`[^|]+) \|", rows) for name in spans(row)}


def test_clients_names_every_header_of_a_response_and_no_other() -> None:
    source = (ROOT / "gateway" / "http" / "head.py").read_text(encoding="utf-8")
    sent = {name.lower().replace("_", "-") for name in re.findall(r"\bhdrs\.(?!METH_|ORIGIN)(\w+)", source)}
    literals = re.findall(r'(?:"|\\n)([A-Z][\w-]+): ', source) + re.findall(r'\("([A-Z][\w-]+)",', source)
    sent |= {name.lower() for name in literals}
    assert _headers("header of a response") == sent - FRAMING


def test_clients_names_every_header_of_a_request_that_other_origins_may_send() -> None:
    allowed = {name.lower() for name in head._ALLOWED.split(", ")}
    named = _headers("header of a request")
    assert allowed <= named
    texts = [path.read_text(encoding="utf-8").lower() for path in (ROOT / "gateway").rglob("*.py")]
    read = "\n".join(texts)
    assert [name for name in named if name not in read and f"hdrs.{name.replace('-', '_')}" not in read] == []


# -- alerts ------------------------------------------------------------------------------------------------------------


def test_operation_says_what_to_do_for_every_alert_and_no_other() -> None:
    alerts = (ROOT / "deploy" / "prometheus" / "redash-gateway.alerts.yml").read_text(encoding="utf-8")
    names = re.findall(r"(?m)^ +- alert: (\w+)$", alerts)
    assert re.findall(r"(?m)^### (.+)$", section(PAGES["operation"], "Alerts")) == names


def test_the_runbook_of_every_alert_is_a_heading_of_operation() -> None:
    # Whoever is woken at night follows this link: it must lead to what to do about this very alert.
    alerts = (ROOT / "deploy" / "prometheus" / "redash-gateway.alerts.yml").read_text(encoding="utf-8")
    links = re.findall(r'(?m)^ +runbook_url: "https://redash-gateway\.example\.com/(\w+)/#([\w-]+)"$', alerts)
    names = re.findall(r"(?m)^ +- alert: (\w+)$", alerts)
    assert links == [("operation", name.lower()) for name in names]
    assert {anchor for _, anchor in links} <= _anchors(PAGES["operation"])


def test_the_console_page_says_what_every_reason_of_a_miss_means() -> None:
    reasons = re.findall(r"(?m)^\| `(\w+)` \|", section(PAGES["console"], "Why a miss"))
    assert sorted(reasons) == sorted(get_args(MissReason))


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_a_document_links_to_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not ((ROOT / name).parent / link).is_file()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_headings_that_a_document_links_to_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", text)
    pages = {page: (ROOT / name).parent / page if page else ROOT / name for page, _ in links}
    known = {page: _anchors(path.read_text(encoding="utf-8")) for page, path in pages.items()}
    assert [f"{page}#{anchor}" for page, anchor in links if anchor not in known[page]] == []


def _anchors(text: str) -> set[str]:
    """The anchors of all headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^ *```.*?^ *```", "", text))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_sources_that_a_document_names_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = [span for span in spans(text) if re.fullmatch(r"(gateway|tests|bench|deploy|docs)/\S*", span)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_source_distribution_has_every_document_and_its_links() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"][
        "include"
    ]
    named = {name.partition("/")[0] for name in DOCUMENTS}
    named |= {link.partition("/")[0] for link in re.findall(r"\]\(([^)#:]+)\)", README)}
    assert sorted(named - set(included)) == []


# -- docs/architecture.md ----------------------------------------------------------------------------------------------


def test_architecture_has_every_room_with_its_level_and_no_other() -> None:
    rows = re.findall(r"(?m)^\| (\d+) \| `(\w+)` \|", section(ARCHITECTURE, "Rooms"))
    levels = [[room for room in level if not room.startswith("__") and room] for level in LEVELS]
    assert rows == [(str(number), room) for number, level in enumerate(levels, 1) for room in level]
    assert f"`{SANDBOX}`" in section(ARCHITECTURE, "Rooms")


def test_architecture_draws_the_levels_in_their_order() -> None:
    (drawing,) = re.findall(r"(?s)```text\n(.*?)```", section(ARCHITECTURE, "Directions"))
    levels = [{room for room in level if not room.startswith("__") and room} for level in LEVELS]
    assert [set(line.split()) for line in reversed(drawing.splitlines())] == [level for level in levels if level]


def test_architecture_names_the_pure_rooms() -> None:
    (named,) = re.findall(r"Pure rooms \(([^)]+)\)", ARCHITECTURE)
    assert set(spans(named)) == PURE - {""}


def test_architecture_draws_the_steps_of_the_pipeline_in_their_order() -> None:
    (drawing,) = re.findall(r"(?s)```text\n(.*?)```", section(ARCHITECTURE, "The way of a request"))
    assert [step.lower() for step in re.findall(r"\b(?:LOOK UP|[A-Z]{4,})\b", drawing)] == list(STEPS)


def test_files_and_names_in_architecture_exist() -> None:
    missing = [
        f"{path} {name}".strip()
        for path, name in re.findall(r"\b((?:\w+/)*\w+\.py)\b(?:`(?: in| \()? ?`(\w+)`)?", ARCHITECTURE)
        if not (file := next((base / path for base in (ROOT, ROOT / "gateway") if (base / path).exists()), None))
        or not re.search(rf"\b{name}\b", file.read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_tests_that_are_named_in_documents_exist() -> None:
    existing = {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    files = {path.stem for path in ROOT.glob("tests/**/*.py")}
    named = {name for text in (ARCHITECTURE, CONTRIBUTING) for name in re.findall(r"\btest_\w+", text)}
    assert sorted(named - existing - files) == []


# -- everything else ---------------------------------------------------------------------------------------------------


def test_readme_tells_the_way_in_the_words_of_the_pipeline() -> None:
    text = (ROOT / "gateway" / "pipeline.py").read_text(encoding="utf-8")
    told = re.findall(r"(?m)^\| \*\*([\w ]+)\*\* \|", README)
    assert tuple(told) == STEPS
    assert ", ".join(STEPS) in text.partition('"""')[2].partition('"""')[0]


def test_the_variables_that_readme_names_are_those_that_the_commands_read() -> None:
    named = set(re.findall(r"\bREDASH_GATEWAY_\w+", GUIDE))
    assert named
    assert named == {admin_client.TOKEN_VARIABLE, places.VARIABLE}


def test_ci_runs_the_test_command_of_readme() -> None:
    (command,) = (block.strip() for block in code("sh", README) if "pytest" in block)
    run = command.rpartition("&& ")[2].rpartition("/")[2]
    extras = re.findall(r"'\.\[(.+?)\]'", command)[0].split(",")
    assert re.search(rf"(?m)^GATEWAY_TEST_REQUIRE_ALL=1 .*\b{re.escape(run)} -m ''$", CI)
    assert set(extras) <= set(re.findall(r"'\.\[(.+?)\]'", CI)[0].split(","))


def test_the_test_command_of_readme_installs_what_tests_import_first() -> None:
    """A module that is missing then stops the whole run; what a test imports itself only skips this test."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    installed = {_distribution(line) for line in [*project["dependencies"], *extras["test"]]}
    installed |= {_distribution(line) for name in ("aiohttp",) for line in metadata.requires(name) or ()}
    files = [*ROOT.glob("gateway/**/*.py"), *ROOT.glob("tests/**/test_*.py"), *ROOT.glob("tests/support/*.py")]
    imported = {name for path in files for name in _imported_first(path)} - sys.stdlib_module_names - {"gateway"}
    of = metadata.packages_distributions()
    assert [name for name in sorted(imported) if name in of and not {*map(_normal, of[name])} & installed] == []


def _distribution(requirement: str) -> str:
    return _normal(re.split(r"[^\w.-]", requirement)[0])


def _normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported_first(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_ci_knows_the_package_of_every_program_that_tests_need() -> None:
    asked = {
        name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r'needs\("([^"]+)"\)', path.read_text())
    }
    assert asked <= set(re.findall(r"(?m)^ +\[([\w-]+)\]=", CI))


def test_performance_names_every_part_of_the_benchmark_and_no_other() -> None:
    sections = re.findall(r'(?m)^    "(\w+)": \w+\.measure,$', (ROOT / "bench" / "__main__.py").read_text())
    rows = PAGES["performance"].partition("| part | what is measured |")[2].partition("\n\n")[0]
    assert sections
    assert re.findall(r"(?m)^\| (\w+) \|", rows) == sections
    assert re.findall(r"(?m)^<!-- (\w+) -->$", PAGES["performance"]) == ["machine", *sections]
    assert re.findall(r"(?m)^<!-- (\w+) -->$", README) == ["machine", "clients"]


def test_readme_is_short_and_links_to_every_page() -> None:
    assert len(README.splitlines()) <= 250
    assert [name for name in PAGES if f"](docs/{name}.md)" not in README] == []


def test_the_changelog_tells_of_this_version() -> None:
    assert re.search(rf"(?m)^## \[{re.escape(__version__)}\]", CHANGELOG)
    headings: set[Any] = set(re.findall(r"(?m)^### (.+)$", CHANGELOG))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_image_runs_a_command_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r'(?m)^CMD \["(\w+)"', (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert found
    assert found[1] in commands(capsys)

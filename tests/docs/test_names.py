"""What documents, files and comments name exists, and what exists is named: what tests/test_docs.py leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, get_args

from aiohttp import hdrs
from support.documents import DOCUMENTS, ROOT, blocks, name_of
from test_docs import CHANGELOG, EXAMPLE, GUIDE, PAGES, section, spans

from gateway import outcome
from gateway.cli.commands import COMMANDS
from gateway.errors import UpstreamRefused
from gateway.http import problems
from gateway.http.request_key import MEANINGFUL
from gateway.outcome import CacheResult, ExecutionResult
from gateway.redash.routes import ROUTES, Capability
from gateway.store.redis import scripts
from gateway.telemetry import exposition, levels, metrics

SOURCES: Final = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "gateway").rglob("*.py"))}
SOURCE: Final = "\n".join(SOURCES.values())
DEPLOYED: Final = {
    path: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "deploy").rglob("*"))
    if path.is_file() and path.name != ".gitignore"
}
TEXTS: Final = {
    **{name_of(path): path.read_text(encoding="utf-8") for path in DOCUMENTS},
    **{str(path.relative_to(ROOT)): text for path, text in (SOURCES | DEPLOYED).items()},
    "CHANGELOG.md": CHANGELOG,
    "config.example.toml": EXAMPLE,
    "Dockerfile": (ROOT / "Dockerfile").read_text(encoding="utf-8"),
}
"""Everything that an operator or a developer may read."""

# -- names of any kind -------------------------------------------------------------------------------------------------

OF_OTHERS: Final = {
    "process_cpu_seconds_total": "of every process that Prometheus scrapes",
    "proxy_cache": "of nginx",
    "runbook_url": "of alerts",
}


def test_names_in_code_font_are_those_of_the_code() -> None:
    named = {span for span in spans() if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", span)}
    ours = {name for name in named if not name.startswith(("redash_gateway_", "p_"))}
    assert {name for name in ours if not re.search(rf"\b{name}\b", SOURCE)} == OF_OTHERS.keys()


def test_metrics_that_any_text_names_are_in_the_table_of_operation() -> None:
    table = set(re.findall(r"`(redash_gateway_\w+)`", section(PAGES["operation"], "Metrics")))
    for name, text in TEXTS.items():
        named = set(re.findall(r"\bredash_gateway_\w+(?<!_)", text)) - {"redash_gateway_session"}  # a cookie
        assert {re.sub(r"_(bucket|sum|count)$", "", one) for one in named} <= table, name


# -- commands ----------------------------------------------------------------------------------------------------------

OPTIONS: Final = {c.name: {flag for o in c.flat for flag in o.flags} | {"--help"} for c in COMMANDS}


def uses(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each use of a command in a text, with the options that follow it on its line or in its list of arguments."""
    text = re.sub(r"\\\n\s*", " ", text)
    for command, rest in re.findall(r"redash-gateway ([a-z]+)\b([^`\n|;&)]*)", text):
        yield command, re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest.partition(" -- ")[0])


def test_an_option_stands_behind_a_command_that_has_it() -> None:
    wrong = [
        f"{name}: {command} {option}"
        for name, text in TEXTS.items()
        for command, options in uses(text)
        for option in options
        if command in OPTIONS and option not in OPTIONS[command]
    ]
    assert wrong == []


# -- the environment ---------------------------------------------------------------------------------------------------

TERMINAL: Final = {"TERM": "what kind of terminal it is: every program reads it"}


def test_the_page_of_commands_names_every_variable_that_is_read_and_no_other() -> None:
    read = set(re.findall(r"""environ(?:\.get|\.pop)?[\[(]"([A-Z_]+)\"""", SOURCE)) | {"TMPDIR"}
    read |= set(re.findall(r'(?m)^\w*VARIABLE(?:: Final)? = "([A-Z_]+)"', SOURCE)) - {"REDASH_API_KEY"}
    rows = re.findall(
        r"(?m)^\| (`[A-Z].*?) \|", PAGES["command-line"].partition("| variable |")[2].partition("\n\n")[0]
    )
    assert {name for row in rows for name in spans(row)} == read - TERMINAL.keys()


# -- routes ------------------------------------------------------------------------------------------------------------


def test_methods_that_stand_before_a_path_are_those_of_the_route() -> None:
    known = {(route.method, re.sub(r"\{\w+\}", "*", route.template)) for route in ROUTES}
    known |= set(re.findall(r"(?m)^\| `(GET|POST) (/[^\s`]*)` \|", section(PAGES["operation"], "The admin listener")))
    for method, path in re.findall(r"`(GET|POST|DELETE) (/(?:api|ping)[^`\s?]*)", GUIDE):
        plain = re.sub(r"\{\w+\}|(?<=/)\d+(?=/|$)", "*", path)
        assert (method, plain) in known or "..." in path, f"{method} {path}"


def test_the_admin_listener_has_the_paths_that_operation_and_console_name_and_no_other() -> None:
    texts = [text for path, text in SOURCES.items() if path.parent.name == "admin"]
    routed = {path for text in texts for path in re.findall(r'web\.(?:get|post)\("(/[^"]*)"', text)}
    routed |= {path for text in texts for path in re.findall(r'"(/\w+)": self\._\w+', text)}
    routed |= {f"/{name}" for text in texts for name in re.findall(r'Asset\("([\w.]+)"\)', text)}
    named = set(re.findall(r"(?m)^\| `(?:GET |POST )?(/[^`]*)`", PAGES["operation"] + PAGES["console"]))
    (others,) = re.findall(r"(?ms)^\*\*Other paths\.\*\*(.*?)\n\n", PAGES["console"])
    named |= set(re.findall(r"`(/[^`]*)`", others)) | {"/livez", "/readyz"}
    assert {re.sub(r"42|<id>|\{.*\}", "*", path) for path in named} == {re.sub(r"\{.*\}", "*", path) for path in routed}


def test_access_has_the_capabilities_of_the_routes_and_no_other() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \|", PAGES["access"].partition("| capability |")[2].partition("\n\n")[0])
    assert rows == list(get_args(Capability))


# -- requests and responses --------------------------------------------------------------------------------------------


def test_clients_names_every_header_of_a_request_that_is_read() -> None:
    read = {name.lower() for name in MEANINGFUL}
    for path, text in SOURCES.items():
        if path.parent.name in ("http", "policy"):
            found = re.findall(r'headers\.get(?:all)?\((?:hdrs\.(\w+)|"([\w-]+)")', text)
            found += re.findall(r"()\b(?:\"([\w-]+)\"|hdrs\.\w+) in request\.headers", text)
            read |= {(constant.replace("_", "-") or name).lower() for constant, name in found}
            read |= {c.replace("_", "-").lower() for c in re.findall(r"hdrs\.(\w+) in request\.headers", text)}
    rows = PAGES["clients"].partition("| header of a request |")[2].partition("\n\n")[0]
    named = {name.lower() for row in re.findall(r"(?m)^\| (`[^|]+) \|", rows) for name in spans(row)}
    framing = {hdrs.TRANSFER_ENCODING.lower(), hdrs.CONTENT_LENGTH.lower()}
    assert read - named - {"", *framing} == set()


def test_clients_names_every_member_of_an_error() -> None:
    text = section(PAGES["clients"], "Errors that callers see").partition("\n\n")[0]
    members = set(re.findall(rb'"(\w+)": ', problems.problem(400, "", "", "")))
    assert {name.decode() for name in members} == set(spans(text)) - {"application/problem+json"}


def test_freshness_has_every_part_of_cache_status_and_no_other() -> None:
    table = PAGES["freshness"].partition("| `Cache-Status: ")[2].partition("\n\n")[0]
    rows = re.findall(r"(?m)^\| (`.*?`) \|", table)
    parts = {part.strip() for row in rows for span in spans(row) for part in span.split(";")}
    forwards = {f"fwd={value}" for value in {*outcome._FORWARD.values(), "uri-miss", "bypass", "method"}}
    details = {f"detail={text}" for text in re.findall(r'record_stale\(.*"([\w-]+)"\)', SOURCE)}
    details |= {f"detail={text}" for text in re.findall(r'(?:self\._stale|use_stale)\(.*"([\w-]+)"[,)]', SOURCE)}
    details |= {"detail=…", f"detail={UpstreamRefused.reason}"}
    known = forwards | details | {"hit", "stored", "collapsed", "fwd=…"}
    assert {part for part in parts if not part.startswith("ttl=")} == known


VALUES: Final = {
    "redash_gateway_saved_executions_total": metrics.SAVED,
    "redash_gateway_saved_execution_seconds_total": metrics.SAVED,
    "redash_gateway_executions_total": get_args(ExecutionResult),
    "redash_gateway_upstream_failures_total": metrics.UPSTREAM_FAILURES,
    "redash_gateway_certificate_expiry_timestamp_seconds": ("server.tls_cert", "upstream.ca_file"),
    "redash_gateway_waiting": levels.WAITS,
    "redash_gateway_warm_runs_total": levels.WARM,
    "redash_gateway_refresh_ahead_total": exposition.REFRESH_AHEAD,
}
"""The values of labels that the table of metrics lists."""


def test_the_table_of_metrics_lists_the_values_of_labels() -> None:
    rows = re.findall(
        r"(?m)^\| `(redash_gateway_\w+)` \|[^|]*\(([^|]+)\)[^|]*\|", section(PAGES["operation"], "Metrics")
    )
    assert {name: tuple(spans(values)) for name, values in rows} == VALUES
    (sentence,) = re.findall(r"(?m)^`cache` is (.+?)\.", PAGES["operation"])
    assert tuple(spans(sentence)) == get_args(CacheResult)


# -- files -------------------------------------------------------------------------------------------------------------


def test_every_file_of_deploy_is_named_there_with_its_folder_or_in_a_file_that_is() -> None:
    text = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    named = {ROOT / "deploy" / span for span in spans(text) if "/" in span}
    mentioned = "\n".join(DEPLOYED[path] for path in named & DEPLOYED.keys())
    left = [
        str(path.relative_to(ROOT))
        for path in DEPLOYED
        if not named & {path, *path.parents} and path.name not in mentioned + text and path.name != "README.md"
    ]
    assert left == []


def test_names_in_redis_that_an_upgrade_leaves_are_of_an_older_format() -> None:
    (command,) = [block.text for block in blocks() if "--scan --pattern" in block.text]
    (pattern,) = re.findall(r"redash-gateway:(\d+):\*", command)
    assert f"format {pattern}:" in PAGES["several-machines"].partition(command)[0].replace("\n", " ")
    assert 1 <= int(pattern) < scripts.FORMAT

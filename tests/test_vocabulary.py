"""One vocabulary: words of earlier versions that the field's standard terms have replaced do not come back.

Words of everyday English (answer, keep, look, away) are refused only as names of some kind, and in fixed phrases.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
CODE: Final = sorted([*ROOT.glob("gateway/**/*.py"), *ROOT.glob("bench/**/*.py")])
TEXTS: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
SETTINGS: Final = sorted([ROOT / "config.example.toml", ROOT / "Dockerfile", *ROOT.glob("deploy/*/redash-gateway.*")])

INSTEAD: Final = {
    r"\btell(er|ing)s?\b": "telemetry, recording",
    r"\btold of\b|\b(is|are|was|were) told\b": "recorded, reported",
    r"\bobtain(s|ed|ing)?\b": "look up",
    r"\bhit.?lanes?\b|\bby lane\b": "fast path",
    r"\bknown answers?\b|\bknownanswers\b": "cached response",
    r"\bsightings?\b": "request, admission filter",
    r"\balike\b": "the same, OutcomeBatch",
    r"\bupstreamwatch\b": "UpstreamHealth",
    r"\b(is|are|while|when) (away|ill)\b(?! from)": "unavailable, unhealthy",
    r"\bin doubt\b": "invalidated",
    r"\bbarred\b": "denied",
    r"\bbehind the (answer|response)\b": "in the background",
    r"\bordinary way\b": "normal path",
    r"\bruns that callers did not cost\b": "query runs avoided",
}
"""What is refused in docstrings, comments, texts and names (read as words), and what to write instead."""

CLASSES: Final = {
    "Asked": "RequestContext",
    "Call": "UpstreamRequest",
    "Known": "CachedResponse",
    "Meaning": "RequestKey",
    "Operating": "Operations",
    "Program": "Runtime",
    "Reading": "ResultReader",
    "Shown": "StoredResult",
}
FUNCTIONS: Final = {
    "answer": "respond",
    "forget": "delete",
    "happen": "set",
    "keep": "put",
    "land": "aclose",
    "look": "get",
    "tell": "record",
}
VALUES: Final = {
    "answer": "response",
    "answered": "responded, requests",
    "answers": "responses",
    "asked": "context",
    "lane": "fast_path",
    "told": "recorded",
    "x": "execution",
}
"""What public classes, functions, and arguments or attributes are not called, and what they are called instead."""


def refused(text: str) -> list[str]:
    """Each refused phrase in a text, with what to write instead."""
    return [
        f"{found[0]!r}: write {instead}"
        for pattern, instead in INSTEAD.items()
        for found in re.finditer(pattern, text, re.IGNORECASE)
    ]


def words(name: str) -> str:
    """`HitLane` and `hit_lane` as "hit lane"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Comments and strings of a file with their lines; docstrings are strings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE"):
            yield token.start[0], " ".join(token.string.split())


def names(tree: ast.Module) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Every name that a file defines, with its line and the names that its kind must not have."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef():
                yield node.lineno, node.name, CLASSES
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name, FUNCTIONS
            case ast.arg():
                yield node.lineno, node.arg, VALUES
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr, VALUES
            case ast.AnnAssign(target=ast.Name() as target):
                yield target.lineno, target.id, VALUES


@pytest.mark.parametrize("path", CODE, ids=[str(path.relative_to(ROOT)) for path in CODE])
def test_code_speaks_the_standard_words(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    wrong = [f"line {line}: {what}" for line, text in prose(source) for what in refused(text)]
    for line, name, instead in names(ast.parse(source)):
        wrong += [f"line {line}: {name}: {what}" for what in refused(words(name))]
        if (plain := name.lstrip("_") if instead is not CLASSES else name) in instead:
            wrong.append(f"line {line}: {name}: write {instead[plain]}")
    assert not wrong, "\n".join(wrong)


def test_files_have_standard_names() -> None:
    files = [path.relative_to(ROOT) for path in (*CODE, *ROOT.glob("tests/**/*.py"))]
    wrong = [f"{path}: {what}" for path in files for what in refused(words(path.stem))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [*TEXTS, *SETTINGS], ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_speak_the_standard_words(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = [f"line {number}: {what}" for number, line in enumerate(lines, 1) for what in refused(line)]
    assert not wrong, "\n".join(wrong)


def test_the_search_finds_what_it_should() -> None:
    samples = ["Telling", "told of", "hit lane", "hitlane", "HitLane", "KnownAnswers", "Redash is away", "barred"]
    assert [sample for sample in samples if not refused(words(sample))] == []
    allowed = [
        "asked for",
        "the answer to a question",
        "keeps",
        "known",
        "takes away from it",
        "a doubt",
        "bars of a chart",
    ]
    assert [text for text in allowed if refused(text)] == []

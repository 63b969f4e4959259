"""Every code block of README and docs is run by a test, or says why it is not."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.documents import DOCUMENTS, Block, blocks, name_of, recipe

from gateway.config import token_hash


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block.page}-{block.language}")
def test_every_block_is_a_configuration_or_a_recipe_or_says_why_it_is_not_run(block: Block) -> None:
    if block.language == "toml":
        assert not block.mark, "test_configurations_that_a_page_shows_are_valid reads every block of TOML"
        return
    assert block.mark in ("recipe", "not run"), block.text
    assert block.mark == "recipe" or len(block.told.split()) >= 5, "a reason is a sentence"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_code_stands_nowhere_but_in_blocks_that_have_a_language(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    fences = re.findall(r"(?m)^ *(?:```|~~~)(\w*)", text)
    assert fences[::2] == [block.language for block in blocks() if block.page == name_of(path)]
    assert fences[1::2] == [""] * len(fences[::2])
    outside = re.sub(r"(?ms)^ *```.*?^ *```$", "", text)
    assert re.findall(r"\n\n(?: {4}|\t)\S.*", outside) == [], "an indented block"


def test_every_recipe_is_run_and_every_recipe_that_is_run_exists() -> None:
    told = {block.told for block in blocks() if block.mark == "recipe"}
    run = {
        name
        for path in Path(__file__).parent.glob("*.py")
        for name in re.findall(r'recipe\("([\w-]+)"\)', path.read_text())
    }
    assert run == told


def test_a_recipe_that_two_pages_show_is_the_same_on_both() -> None:
    shown = {(block.told, block.text) for block in blocks() if block.mark == "recipe"}
    assert sorted(name for name, count in Counter(name for name, _ in shown).items() if count > 1) == []


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "python"], ids=lambda block: block.told)
def test_python_that_is_not_run_is_python(block: Block) -> None:
    assert ast.parse(block.text).body


def test_the_expression_of_the_hit_share_is_promql(tmp_path: Path, needs: Callable[[str], str]) -> None:
    rules = tmp_path / "rules.yml"
    expression = " ".join(recipe("hit-share").split())
    rules.write_text(f"groups:\n- name: docs\n  rules:\n  - record: docs:hit_share\n    expr: '{expression}'\n")
    subprocess.run([needs("promtool"), "check", "rules", str(rules)], check=True, capture_output=True, timeout=60)


def test_the_hash_of_a_token_is_what_the_configuration_has(needs: Callable[[str], str]) -> None:
    command, environment = [needs("bash"), "-ec", recipe("hash")], {**os.environ, "TOKEN": "rg_a_token"}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[0] == token_hash("rg_a_token")

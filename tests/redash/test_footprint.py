"""What is remembered of callers' requests is bounded in bytes, whatever the requests look like."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref

import pytest

from gateway.policy.memo import IdentityMemo
from gateway.policy.values import fitted
from gateway.redash import requests
from gateway.redash.footprint import footprint, weight
from gateway.redash.matching import match
from gateway.redash.requests import Execute, ExecuteText, parse_operation

MATCH = match("POST", "/api/queries/1/results")


@pytest.mark.parametrize("unit", ["[],", "{},", '"ab",', "1000,", '{"a":1},', "[[]],", "1.5,", '"é1",', "null,"])
def test_the_weight_of_a_text_is_about_what_its_json_takes(unit: str) -> None:
    text = f"[{unit * 20_000}0]"
    gc.collect()
    tracemalloc.start()
    value = json.loads(text)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.9 * taken <= weight(text.encode()) <= 12 * taken  # of "null,", which takes nothing but its place
    assert footprint(value) >= 0.9 * taken


def test_parsed_operations_that_are_remembered_have_a_bound_in_bytes() -> None:
    # Lists take twenty times their text: 4,096 bodies of 4 KB took 400 MB, refused ones too.
    body = b'{"parameters": {"a": [' + b"[]," * 1_200 + b"0]}, "
    gc.collect()
    tracemalloc.start()
    for number in range(400):
        parse_operation(MATCH, "", body + f'"max_age": {number}}}'.encode())
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1.5 * requests._KNOWN_BYTES


def test_an_operation_that_is_repeated_is_parsed_once() -> None:
    body = b'{"max_age": 4711}'
    assert parse_operation(MATCH, "", body) is parse_operation(MATCH, "", body)


def test_what_is_computed_from_an_operation_keeps_it_not_alive() -> None:
    memo: IdentityMemo[int] = IdentityMemo(1_000)
    other = Execute(2, None, {}, None)
    operation = Execute(1, None, {"a": "x" * 1_000_000}, None)
    alive = weakref.ref(operation)
    assert memo.get((operation, other, None), lambda: 1) == 1
    assert memo.get((operation, other, None), lambda: 2) == 1, "computed once"
    del operation
    assert alive() is None
    assert not memo._values, "another object may get its id"


def test_a_request_that_was_fitted_to_its_query_is_not_kept() -> None:
    # Free SQL and unchanged values are their own result: a memo of it would keep 4,096 bodies of 1 MB.
    operation = ExecuteText(1, "select 1 -- " + "x" * 1_000_000, None, {})
    alive = weakref.ref(operation)
    assert fitted(operation, None) is operation
    assert fitted(operation, None) is operation
    del operation
    assert alive() is None

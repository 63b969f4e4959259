"""Large results whose ends are not enough: in the order of an old Redash, or with JSON that is not strict."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from gateway.body import Body
from gateway.errors import UpstreamUnusable
from gateway.redash.responses import PARSE_LIMIT, ResultHead, parse_result_or_job

HEAD = {"id": 5, "query_hash": "0" * 32, "query": "select 1", "data_source_id": 1, "runtime": 0.5}


def result(rows: int, cell: str) -> bytes:
    """A result with its members in another order, as Redash 8 writes them."""
    many = ",".join([f'{{"n": {cell}, "text": "of some letters, and some more"}}'] * rows)
    members = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in HEAD.items())
    at = '"retrieved_at": "2026-11-23T20:55:26.762Z"'
    return f'{{"query_result": {{{at}, "data": {{"rows": [{many}], "columns": []}}, {members}}}}}'.encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "body"


def test_a_large_result_in_another_order_is_parsed_without_its_rows(file: Path) -> None:
    # Parsing all of it took twenty times its size in memory, and stopped all other threads for 20 ms per MB.
    file.write_bytes(result(200_000, "1"))
    body = Body(size=file.stat().st_size, path=file)
    assert body.size > 8 * 2**20
    tracemalloc.start()
    head = parse_result_or_job(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(head, ResultHead)
    assert (head.id, head.query, head.runtime) == (5, "select 1", 0.5)
    assert most < 2 * 2**20, "the first and the last bytes only"


@pytest.mark.parametrize("cell", ["NaN", '"\\ud800"'])
def test_rows_that_are_not_strict_json_are_skipped_as_well(file: Path, cell: str) -> None:
    for rows in (10, 20_000):
        file.write_bytes(result(rows, cell))
        body = Body(size=file.stat().st_size, path=file)
        assert (body.size > PARSE_LIMIT) is (rows > 10)
        assert isinstance(parse_result_or_job(body), ResultHead)


@pytest.mark.parametrize("many", ["1,", '"a",'])
def test_work_in_single_steps_is_bounded(file: Path, many: str) -> None:
    # What is no usual row takes a step of Python for each value: 100 MB took minutes.
    file.write_bytes(result(1, "1").replace(b'"columns": [', b'"columns": [' + many.encode() * 500_000 + b"1"))
    body = Body(size=file.stat().st_size, path=file)
    began = time.thread_time()
    head = parse_result_or_job(body)
    assert isinstance(head, ResultHead)
    assert head.id == 5
    assert time.thread_time() - began < 2
    file.write_bytes(file.read_bytes().replace(many.encode(), b"NaN,", 1))
    with pytest.raises(UpstreamUnusable):
        parse_result_or_job(Body(size=file.stat().st_size, path=file))


def test_an_empty_file_is_no_result(file: Path) -> None:
    file.write_bytes(b"")
    with pytest.raises(UpstreamUnusable):
        parse_result_or_job(Body(size=0, path=file))


@pytest.mark.parametrize("runtime", ["1e308", "-1", "1e300", "99999999999", "1.5e9"])
def test_a_runtime_that_no_run_can_have_counts_as_none(file: Path, runtime: str) -> None:
    # Sums of such times became infinite, and the console failed for as long as they were in them.
    usual = result(10, "1").replace(b'"runtime": 0.5', b'"runtime": ' + runtime.encode())
    large = (
        b'{"query_result": {"id": 5, "query_hash": "%s", "query": "select 1", "data": {"rows": [%s], "columns": []}, '
        % (b"0" * 32, b", ".join([b'{"n": 1}'] * 100_000))
        + b'"data_source_id": 1, "runtime": %s, "retrieved_at": "2026-11-23T20:55:26.762Z"}}' % runtime.encode()
    )
    file.write_bytes(large)
    for body in (Body.of(usual), Body(size=len(large), path=file)):
        head = parse_result_or_job(body)
        assert isinstance(head, ResultHead)
        assert (head.id, head.runtime) == (5, 0.0)

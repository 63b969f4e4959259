"""Large results whose ends are not enough: in the order of an old Redash, or with JSON that is not strict."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from gateway.errors import UpstreamUnusable
from gateway.model import Body
from gateway.redash.responses import LARGEST_ODD, PARSE_LIMIT, ResultHead, parse_result_or_job

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
    assert body.size > 2 * LARGEST_ODD
    tracemalloc.start()
    head = parse_result_or_job(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(head, ResultHead)
    assert (head.id, head.query, head.runtime) == (5, "select 1", 0.5)
    assert most < 2 * 2**20, "the first and the last bytes only"


@pytest.mark.parametrize("cell", ["NaN", '"\\ud800"'])
def test_json_that_is_not_strict_is_parsed_up_to_a_size(file: Path, cell: str) -> None:
    for rows, fits in ((10, True), (PARSE_LIMIT // 40, True), (LARGEST_ODD // 40, False)):
        file.write_bytes(result(rows, cell))
        body = Body(size=file.stat().st_size, path=file)
        assert (body.size <= LARGEST_ODD) == fits
        if fits:
            assert isinstance(parse_result_or_job(body), ResultHead)
        else:
            with pytest.raises(UpstreamUnusable, match="too large"):
                parse_result_or_job(body)


def test_an_empty_file_is_no_result(file: Path) -> None:
    file.write_bytes(b"")
    with pytest.raises(UpstreamUnusable):
        parse_result_or_job(Body(size=0, path=file))

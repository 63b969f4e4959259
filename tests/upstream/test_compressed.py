"""What Redash, or a proxy before it, sends compressed is inflated within bounds."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from security.front import Front, Seen, Stub, Upstream, client, credential

ROWS = {"columns": [{"name": "text"}], "rows": [{"text": f"{random.Random(n).random()}"} for n in range(40_000)]}
RESULT = {
    "query_result": {
        "id": 7,
        "query_hash": "ab",
        "query": "select 1",
        "data": ROWS,
        "data_source_id": 1,
        "runtime": 0.1,
        "retrieved_at": "2026-11-26T12:00:00.000Z",
    }
}
PLAIN = json.dumps(RESULT).encode()
BOMB = PLAIN.replace(b'"rows": [', b'"rows": [' + b" " * 200_000_000, 1)
FIELDS = {
    "Content-Type": "application/json",
    "Content-Encoding": "gzip",
    "Content-Disposition": "attachment; filename=r_2026_11_26.json",
}


def bytes_below(directory: Path) -> int:
    """The bytes of all files of bodies."""
    return sum(file.stat().st_size for file in directory.rglob("*.bodies/*") if file.is_file())


@pytest.mark.parametrize(("body", "status", "most"), [(PLAIN, 200, len(PLAIN)), (BOMB, 502, 100_000_000)])
async def test_a_compressed_result_is_inflated_in_proportion_to_what_came(
    tmp_path: Path, body: bytes, status: int, most: int
) -> None:
    compressed = gzip.compress(body, 9)

    def answer(seen: Seen) -> Stub:
        return Stub(200, compressed, FIELDS) if "query_results" in seen.path else Stub(404)

    async with Upstream(answer) as upstream:
        front = Front(tmp_path, upstream.url)
        front.write(client("user"), credential(tmp_path, "user"), cache='max_entry = "1MB"')
        async with front:
            path = "/api/query_results/7"
            try:
                reply = await front.call("GET", path, client="user")
            except Exception:  # it had begun, and broke off
                assert status == 502
            else:
                assert reply.status == status
                assert len(reply.body) <= most
            assert bytes_below(tmp_path) <= most

"""Cache keys: one function each for store, flight, ledger and purge."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from gateway.model import Entry, Key, digest
from gateway.redash.arguments import encode_arguments
from gateway.redash.json_text import canonical
from gateway.redash.requests import Execute, ExecuteText

KEY_VERSION: Final = b"1"


def execution_key(scope: str, operation: Execute | ExecuteText) -> Key:
    """The cache key: one function for store, flight, ledger and purge."""
    arguments = canonical([list(pair) for pair in operation.arguments]) if operation.arguments else b"[]"
    if isinstance(operation, ExecuteText):
        sql = [canonical(operation.data_source_id), canonical(operation.text), canonical(operation.rest), arguments]
        return digest(KEY_VERSION, b"text", scope.encode(), *sql)
    limit = {None: b"-", True: b"1", False: b"0"}[operation.auto_limit]
    query_id = str(operation.query_id).encode()
    kind = b"refresh" if operation.refresh else b"execute"
    return digest(KEY_VERSION, kind, scope.encode(), query_id, canonical(operation.parameters), limit, arguments)


def result_key(scope: str, result_id: int, form: str) -> Key:
    """The key under which a result is stored by its id."""
    return digest(KEY_VERSION, b"result", scope.encode(), str(result_id).encode(), form.encode())


def rendering_key(result: Entry, form: str) -> Key:
    """The key under which the CSV, TSV or XLSX of exactly this result is stored."""
    return digest(KEY_VERSION, result_key(result.scope, result.result_id, form), result.identity)


@lru_cache(maxsize=4_096)
def definition_key(scope: str, query_id: int) -> Key:
    """The key under which a query's definition is stored."""
    return digest(KEY_VERSION, b"definition", scope.encode(), str(query_id).encode())


def metadata_key(scope: str, path: str, arguments: tuple[tuple[str, str], ...], *, reveal_keys: bool) -> Key:
    """The key of a metadata response; responses with Redash's keys in them never share one with those without."""
    shown = b"keys" if reveal_keys else b"-"
    return digest(KEY_VERSION, b"metadata", scope.encode(), path.encode(), encode_arguments(arguments).encode(), shown)

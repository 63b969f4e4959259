"""Results whose members stand in any order, as Redash up to version 8 writes them: read without their rows."""

from __future__ import annotations

import json
from typing import Final

import msgspec

from gateway.body import Body
from gateway.redash.limits import Id, Short
from gateway.redash.outline import TooManyStepsError, before_inner, outline
from gateway.redash.template import LONGEST_TEXT

__all__ = ["TooManyStepsError", "parse_before_rows", "parse_without_rows"]

_PIECE_BYTES: Final = 64 * 1024
_LONGEST_OUTLINE: Final = 6 * LONGEST_TEXT
"""JSON needs up to six bytes for a character of the SQL."""


class BeforeRows(msgspec.Struct, frozen=True):
    """The members of a result that stand before its rows."""

    id: Id | None = None
    query_hash: Short = ""
    query: str | None = None
    data_source_id: object = None
    runtime: object = None
    data: object = None

    @property
    def reduced(self) -> bool:
        """Whether none is of a full result; its SQL may still come behind the rows."""
        return self == BeforeRows(data={})


class _Beginning(msgspec.Struct):
    query_result: BeforeRows


def parse_before_rows(data: bytes) -> BeforeRows | None:
    """Parse the first bytes of a result. None if they are none, or if they end before the rows begin."""
    try:
        return msgspec.convert(before_inner(data), _Beginning).query_result
    except (ValueError, RecursionError):
        return None


def parse_without_rows(body: Body) -> object:
    """Parse a body of any length; what is nested as deeply as rows is left out. Reads the file if the body is one.

    Raises:
        TooManyStepsError: it is nested or divided in a way that takes too long to read.
        ValueError: it is not JSON, or too long without its rows.
        RecursionError: it is nested too deeply.
    """
    return json.loads(outline(body.pieces(_PIECE_BYTES), _LONGEST_OUTLINE))

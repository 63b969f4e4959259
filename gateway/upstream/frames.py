"""Errors of aiohttp's are kept with bodies; here they are freed of what they hold."""

from __future__ import annotations


def without_frames(error: BaseException) -> BaseException:
    """Take the tracebacks from an error of aiohttp's and from its causes, and return it.

    aiohttp keeps the error of a body with the body: all frames that read it, and what these hold, would stay as long.
    """
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error

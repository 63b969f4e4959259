"""What can come of a command besides its reply. Exceptions of redis-py are translated into these at the edge."""

from __future__ import annotations

from redis import exceptions


class UnavailableError(Exception):
    """Redis cannot be asked now, or did not answer in time. What was sent may have been executed."""


class UnreachableError(UnavailableError):
    """There is no connection to the server, or nobody answers there."""


class DeniedError(UnavailableError):
    """The user lacks a right, so gateways cannot share this Redis until an administrator has given it back."""


class RefusedError(Exception):
    """Redis answered with an error. The text is Redash-free and key-free: Redis' own words."""


class FullError(RefusedError):
    """Redis has no memory left for it."""


class NoScriptError(RefusedError):
    """Redis does not know a script by its hash yet."""


LACKS = "its user lacks a right"

_DENIALS = ("The user executing the script can't", "ACL failure in script")
"""What Redis says of a command in a script: such an error has no code of its own in 7.0."""

_GONE = (exceptions.ReadOnlyError, exceptions.BusyLoadingError, exceptions.MasterDownError)
"""It answers, but as a replica, or before it has read its file: not the server that the gateways share."""


def translated(reply: object) -> object:
    """Return the reply of a command, or the exception of ours that it means."""
    if not isinstance(reply, Exception):
        return reply
    if isinstance(reply, exceptions.NoPermissionError) or any(words in str(reply) for words in _DENIALS):
        return DeniedError(f"{LACKS}: {reply}")
    if isinstance(reply, exceptions.NoScriptError):
        return NoScriptError(str(reply))
    if isinstance(reply, exceptions.OutOfMemoryError):
        return FullError(str(reply))
    if isinstance(reply, _GONE) or not isinstance(reply, exceptions.ResponseError):
        return UnavailableError(str(reply))
    return RefusedError(str(reply))

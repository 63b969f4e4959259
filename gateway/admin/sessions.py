"""Sessions of browsers that have signed in with the admin token. Pure and bounded: time is an argument (monotonic)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

LIFE_SECONDS: Final = 8 * 3600.0
IDLE_SECONDS: Final = 3600.0
MOST_SESSIONS: Final = 100
"""One more ends the one that was used least recently."""


class Session:
    """One browser. `csrf` is in its forms, `notice` is shown once, on the next page."""

    __slots__ = ("began", "csrf", "notice", "token_sha256", "used")

    def __init__(self, token_sha256: str, now: float) -> None:
        self.token_sha256 = token_sha256  # of the admin token that it began with
        self.csrf = secrets.token_urlsafe(32)
        self.began = self.used = now
        self.notice = ""

    def is_form_of(self, csrf: str) -> bool:
        """Whether a form with that value is one of this session."""
        return hmac.compare_digest(csrf.encode("utf-8", "surrogateescape"), self.csrf.encode())

    def take_notice(self) -> str:
        """Return what the last action has to say, once."""
        notice, self.notice = self.notice, ""
        return notice


class Sessions:
    """All sessions, by the SHA-256 of the value in the browser's cookie: the value itself is not kept."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, token_sha256: str, now: float) -> str:
        """Begin one and return the value of its cookie."""
        value = secrets.token_urlsafe(32)
        self._sessions[_digest(value)] = Session(token_sha256, now)
        if len(self._sessions) > MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda name: self._sessions[name].used)]
        return value

    def find(self, value: str, token_sha256: str | None, now: float, *, use: bool = True) -> Session | None:
        """Return the session of a cookie; `token_sha256` is that of the admin token in force: another one ends it.

        `use` counts as a use of the session.
        """
        session = self._sessions.get(_digest(value))
        if session is None:
            return None
        over = now - session.began > LIFE_SECONDS or now - session.used > IDLE_SECONDS
        if over or session.token_sha256 != token_sha256:
            self.end(value)
            return None
        session.used = now if use else session.used
        return session

    def end(self, value: str) -> None:
        """End the session of a cookie, if there is one."""
        self._sessions.pop(_digest(value), None)


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()

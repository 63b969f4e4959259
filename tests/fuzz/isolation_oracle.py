"""Judges each response of the isolation fuzz from its bytes, by what README and docs promise and nothing else.

It knows who held which right at which time, and uses nothing of the gateway.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from support.calls import token
from support.http import Reply
from support.world import SECRETS

from .isolation_redash import Mark, QueryState, Redash, Rights, Timeline, marks_in, objects_in
from .isolation_requests import ARGUMENT, Sent
from .isolation_setup import (
    DEFINITION_CHECK,
    METADATA_TTL,
    PEOPLE,
    STALE_IF_ERROR,
    Client,
    Credential,
    Setup,
)

DASHBOARD_REREAD = 60.0
""""The queries of a dashboard are read again after a minute.\""""

SLOP = 0.5
"""Seconds by which clocks may differ: real time passes while a request is on its way."""

_CREATES = frozenset({"post", "refresh", "get", "adhoc"})
CANARY = 1.0
"""Seconds for which a verdict on Redash's health counts."""

_DROPDOWNS = frozenset({"dropdown", "dropdowns"})
_BY_HASH = _DROPDOWNS | {"latest"}
_HASHED_ALIKE = {"x y": ("xy",), "xy": ("x y",)}
_BY_ID = frozenset({"by id", "nested"})
_OF_CURRENT_VERSION = frozenset({"post", "refresh", "get", "adhoc"})
_JOB = re.compile(rb'"job": \{"id": "([0-9a-f-]{36})"')
_RUN = re.compile(r"[?&]run=([0-9a-f-]{36})")


@dataclass(frozen=True)
class Owner:
    """Who started a job, and what its rows must be of."""

    names: frozenset[str]
    sent: Sent
    times_set_back: int


class Oracle:
    """Every check returns what is wrong, "" where nothing is."""

    def __init__(self, redash: Redash, setups: Timeline[Setup]) -> None:
        self._redash = redash
        self._setups = setups
        self._owners: dict[str, Owner] = {}

    def judge(self, sent: Sent, reply: Reply) -> list[str]:
        """Return all that is wrong with a response."""
        head = "\n".join(f"{name}: {value}" for name, value in reply.headers.items()).encode()
        body = b"\n".join(_members(reply.body)) if reply.body[:2] == b"PK" else reply.body
        if reply.status == 307 and sent.carrier == ARGUMENT:  # a redirect has to repeat the URL, token included
            head = head.replace(token(sent.person).encode(), b"")
        wrong = [self._secrets(sent, head + b"\n" + body), self._admission(sent, reply)]
        wrong += [self._row(sent, mark) for mark in marks_in(body)]
        wrong += [self._object(sent, query, METADATA_TTL) for query in objects_in(body)]
        wrong += [self._object(sent, query, DEFINITION_CHECK) for query in objects_in(head)]
        wrong += [self._new_job(sent, job) for job in jobs_in(reply) if sent.kind in _CREATES]
        if sent.job:
            wrong.append(self._known_job(sent, reply))
        if reply.status == 500 and b"request_id" in reply.body:
            wrong.append("internal error of the gateway")
        return [text for text in wrong if text]

    # -- keys and tokens

    def _secrets(self, sent: Sent, shown: bytes) -> str:
        hidden = self._redash.keys | {token(person) for person in PEOPLE} | SECRETS
        if any(client.reveal for _, client, _ in self._clients(sent)):
            # It may see the keys of Redash's objects, except those that the gateway itself keeps.
            hidden = {c.key for setup in self._during(sent) for c in setup.credentials.values()} - self._changed(sent)
            hidden |= {token(person) for person in PEOPLE}
        return "a key or token" if any(secret.encode() in shown for secret in hidden) else ""

    def _changed(self, sent: Sent) -> set[str]:
        """Return the keys that were not the gateway's during the whole request."""
        setups = self._during(sent)
        always = set.intersection(*({c.key for c in setup.credentials.values()} for setup in setups))
        return {c.key for setup in setups for c in setup.credentials.values()} - always

    # -- who calls

    def _during(self, sent: Sent, since: float = 0.0) -> list[Setup]:
        return self._setups.during(max(sent.started, since), sent.ended)

    def _clients(self, sent: Sent, since: float = 0.0) -> Iterator[tuple[str, Client, Setup]]:
        """Yield what the sender was at any time during the request, or after a moment within it."""
        for setup in self._during(sent, since):
            found = setup.of(sent.person, sent.started)
            if found is not None:
                yield *found, setup

    def _admission(self, sent: Sent, reply: Reply) -> str:
        if reply.status < 400 and not any(True for _ in self._clients(sent)):
            return "a response for an invalid token"
        return ""

    # -- rows

    def _row(self, sent: Sent, mark: Mark) -> str:
        owners = self._owners_of(sent, mark)
        if (foreign := _other_than_requested(sent, mark)) != "":
            return f"{foreign}: {mark}"
        born = self._redash.born.get(mark.run, 0.0)
        for _, client, setup in self._clients(sent, born):
            if not self._covers(client, sent, owners):
                continue
            # Where the dropdown is a query of the client's own, Redash alone says whether the key in use sees it.
            named = (
                sent.kind == "dropdowns" and client.is_bound and self._covers(client, replace(sent, kind=""), owners)
            )
            if any(self._may(credential, sent, mark, owners, named) for credential in setup.credentials_of(client)):
                return ""
        return f"a row without a right to it: {mark} of queries {sorted(owners)}"

    def _owners_of(self, sent: Sent, mark: Mark) -> set[int]:
        """Return the queries that a row may be of. Redash finds "latest" and dropdowns by a hash that is blind to white
        space, and a dropdown shows no SQL by which a gateway could tell."""
        return self._owners_by_hash(mark) if sent.kind in _DROPDOWNS else self._owners_by_label([mark.label], mark)

    def _owners_by_hash(self, mark: Mark) -> set[int]:
        return self._owners_by_label([mark.label, *_HASHED_ALIKE.get(mark.label, ())], mark)

    def _owners_by_label(self, labels: Iterable[str], mark: Mark) -> set[int]:
        found = [self._redash.owners.get((label, mark.version, mark.source), set()) for label in labels]
        return set().union(*found)

    def _covers(self, client: Client, sent: Sent, queries: Iterable[int]) -> bool:
        """Whether the binding of a client covers one of these queries."""
        if not client.is_bound:
            return True
        allowed = set(client.queries)
        for rights in self._redash.rights.during(sent.started - DASHBOARD_REREAD - SLOP, sent.ended):
            allowed |= {query for board in client.boards for query in rights.boards[board]}
        if sent.kind == "dropdowns" and sent.query in allowed:
            for rights in self._rights(sent, DEFINITION_CHECK):
                allowed |= rights.queries[sent.query].dropdowns
        return not allowed.isdisjoint(queries)

    def _rights(self, sent: Sent, window: float, since: float = 0.0) -> list[Rights]:
        """Return the rights by which a response may have been judged: `window` is how old they may be."""
        start = sent.started - SLOP
        if any(self._redash.unavailable.during(start - CANARY, sent.ended)):
            window += STALE_IF_ERROR
        return self._redash.rights.during(max(start - window, since), sent.ended)

    def _may(self, credential: Credential, sent: Sent, mark: Mark, owners: set[int], named: bool) -> bool:
        """Whether Redash has given these rows to this key, and would have lately, in this form."""
        if (credential.key, mark.run) not in self._redash.given:
            return False
        if sent.kind == "latest":
            owners = self._owners_by_hash(mark)  # Redash shows it below every query that its hash is of
        if credential.query is not None and credential.query not in owners and sent.kind != "dropdowns":
            return False
        denied = self._denied(credential, sent, owners)
        if sent.kind in _DROPDOWNS:
            return self._may_dropdown(credential, sent, owners, named)
        return any(
            _shows(rights, credential, sent, mark, owners) for rights in self._rights(sent, DEFINITION_CHECK, denied)
        )

    def _may_dropdown(self, credential: Credential, sent: Sent, owners: set[int], named: bool) -> bool:
        """In Redash access to the *query* decides, whatever its latest result is of, and a query may declare others as
        its dropdowns (CONTRACT 12)."""
        shown = {sent.query} if named or sent.kind == "dropdown" else owners
        if any(_sees(credential, r, query) for r in self._rights(sent, METADATA_TTL) for query in shown):
            return True
        declared = self._rights(sent, DEFINITION_CHECK + METADATA_TTL) if sent.kind == "dropdowns" else []
        return any(_declares(rights, credential, sent, owners) for rights in declared)

    def _denied(self, credential: Credential, sent: Sent, owners: set[int]) -> float:
        """Return when Redash refused all these queries to this key, in an earlier phase; 0.0 where it did not."""
        refusals = [self._redash.denied.get((credential.key, query), (0, 0.0)) for query in owners] or [(0, 0.0)]
        phase, at = min(refusals)
        return at if phase < sent.phase else 0.0

    # -- objects

    def _object(self, sent: Sent, query: int, window: float) -> str:
        if "/public/" in sent.path:  # whose token is the right to it
            return ""
        for _, client, setup in self._clients(sent):
            if not self._covers(client, sent, {query}):
                continue
            for credential in setup.credentials_of(client):
                deleted = sent.kind == "dashboard"  # a dashboard goes on showing what it shows
                alone = sent.kind not in ("dashboard", "other")  # those show several, of which one was refused
                denied = self._denied(credential, sent, {query}) if alone else 0.0
                seen = self._rights(sent, window, denied)
                if any(_sees(credential, rights, query, deleted=deleted) for rights in seen):
                    return ""
        held = [
            (name, client, [c.key[:4] for c in s.credentials_of(client)]) for name, client, s in self._clients(sent)
        ]
        return f"the object of query {query}: {held}, {self._redash.rights.last}"

    # -- jobs

    def _new_job(self, sent: Sent, job: str) -> str:
        if job in self._redash.jobs():
            return f"a job id of Redash: {job}"
        if job in self._owners:
            return f"the job id of an earlier request: {job}"
        names = frozenset(name for name, _, _ in self._clients(sent))
        self._owners[job] = Owner(names, sent, self._redash.times_set_back)
        return ""

    def _known_job(self, sent: Sent, reply: Reply) -> str:
        """A job is its client's: the name and the token are both the same, and it is bound to no other query."""
        if reply.status not in (200, 307, 422):
            return ""
        owner = self._owners.get(sent.job)
        if owner is None:
            return f"an unknown job: {sent.job}"
        if not any(
            name in owner.names and (owner.sent.person in client.people or not owner.sent.person) and covered
            for name, client, _ in self._clients(sent)
            for covered in [self._covers(client, sent, {owner.sent.query})]
        ):
            return f"the job of {owner.sent.person} ({', '.join(sorted(owner.names))}): {sent.job}"
        return self._result_of_job(owner, reply) if sent.kind == "job" else ""

    def _result_of_job(self, owner: Owner, reply: Reply) -> str:
        result = reply.job.get("query_result_id")
        if result is None or owner.times_set_back != self._redash.times_set_back:
            return ""
        wrong = [_other_than_requested(owner.sent, mark) for mark in self._redash.result_marks(result)]
        return next((f"the job of a request names {text}" for text in wrong if text), "")


def jobs_in(reply: Reply) -> list[str]:
    """Return the job ids that a response gives to its caller."""
    found = [job.decode() for job in _JOB.findall(reply.body[:200])]
    return found + _RUN.findall(reply.headers.get("Location", "")) if reply.status == 307 else found


def result_ids(reply: Reply) -> list[int]:
    """Return the result ids in a response."""
    try:
        shown = reply.json
    except ValueError:
        return []
    if not isinstance(shown, dict):
        return []
    found = [shown.get("latest_query_data_id")]
    for name, member in (("job", "query_result_id"), ("query_result", "id")):
        part = shown.get(name)
        found += [part.get(member)] if isinstance(part, dict) else []
    return [result for result in found if isinstance(result, int)]


def _members(archive: bytes) -> Iterator[bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as book:
        yield from (book.read(name) for name in book.namelist())


def _other_than_requested(sent: Sent, mark: Mark) -> str:
    expected = {sent.label, *(_HASHED_ALIKE.get(sent.label or "", ()) if sent.kind in _BY_HASH else ())}
    if sent.label is not None and mark.label not in expected:
        return "a row of another query"
    if sent.value is not None and mark.value != sent.value:
        return "a row of other values"
    if sent.source is not None and mark.source != sent.source:
        return "a row of another source"
    return ""


def _shows(rights: Rights, credential: Credential, sent: Sent, mark: Mark, owners: set[int]) -> bool:
    """Whether Redash would show these rows to this key in this form."""
    if sent.kind == "adhoc":
        return mark.source in rights.runs.get(credential.key, ())
    existing = [rights.queries[query] for query in owners if rights.queries[query].exists]
    if sent.kind in _OF_CURRENT_VERSION:
        existing = [q for q in existing if (q.version, q.source) == (mark.version, mark.source)]
    if credential.query is not None:
        return any(q.key == credential.key for q in existing)
    if not existing and sent.kind not in _BY_ID:
        return False
    return mark.source in rights.reads.get(credential.key, ())


def _declares(rights: Rights, credential: Credential, sent: Sent, owners: set[int]) -> bool:
    """Whether a query that this key may see declares one of these as a dropdown."""
    return _sees(credential, rights, sent.query) and not rights.queries[sent.query].dropdowns.isdisjoint(owners)


def _sees(credential: Credential, rights: Rights, query: int, *, deleted: bool = False) -> bool:
    state: QueryState = rights.queries[query]
    if not (state.exists or deleted):
        return False
    if credential.query is not None:
        return state.key == credential.key and credential.query == query
    return state.source in rights.reads.get(credential.key, ())

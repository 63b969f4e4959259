"""The checker: whether a history is one of gateways that keep their promises. It knows nothing of how they do it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from .findings import Findings
from .history import (
    AFTER,
    ALONE,
    CUT,
    ITSELF,
    KILLED,
    NEVER,
    PAUSED,
    REDIS_EMPTIED,
    SLOW,
    Asked,
    Change,
    History,
    Post,
)

DEFINITION_CHECK: Final = 2.0
"""Seconds after which an edit that was made in Redash itself is noticed: the gateways are configured so."""

REACHES_ALL: Final = 1.0
"""Seconds after which a purge, an edit through a gateway and a revocation hold on all gateways that are connected."""

_ROUNDING: Final = 0.01
_SLOP: Final = 1.0
"""Seconds by which a busy machine may be late with what has a time of its own."""

_AT_ONCE: Final = 0.5
"""Seconds that pass between a response of Redash and the record of it in Redis, at most."""

_JUST_NOW: Final = 1.0
"""Seconds between the end of a pause and what a process does because it does not know of the pause yet."""

_ROWS: Final = ("post", "wait", "form", "hop")
_CREATES: Final = ("post", "wait", "form")
_ABOUT_JOBS: Final = ("poll", "hop", "cancel")
_UNKNOWN: Final = (404, 503)
"""How a gateway says that it cannot know a job, or not now."""

_OUTAGE: Final = (502, 503, 504)
_RESULT_KINDS: Final = (*_ROWS, "poll")

Verdict = Iterator[str]
"""Texts of what is wrong."""

_JOINED_CANCEL = "its run joined a job in Redash that was just being cancelled"


class Judge:
    """One look at one history."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.findings = Findings(tuple(RULES))
        self._rule = ""
        self._created = {a.job: a for a in history.asked if a.job and a.kind in _CREATES}
        self._cancelled = {a.job: a.asked for a in history.asked if a.kind == "cancel"}

    def judge(self) -> Findings:
        """Apply every rule."""
        for rule, check in RULES.items():
            self._rule = rule
            self.findings.found[rule].extend(check(self))
        return self.findings

    def _judged(self) -> None:
        self.findings.judged[self._rule] += 1

    def _excuse(self, reason: str) -> None:
        self.findings.excused[self._rule][reason] += 1

    # -- executions

    def one_execution(self) -> Verdict:
        """Two requests to execute the same SQL with the same key, and the second came before the first's run ended."""
        by_key: dict[tuple[str, str], list[Post]] = defaultdict(list)
        for post in sorted(self.history.posts, key=lambda post: post.at):
            if not post.job:  # Redash had a result
                continue
            self._judged()
            earlier = by_key[post.key, post.sql]
            for first in earlier:
                if self.history.ended[first.job] > post.at:
                    yield from self._overlap(first, post)
            earlier.append(post)

    def _overlap(self, first: Post, second: Post) -> Verdict:
        reason = self._why_two(first, second)
        if reason:
            self._excuse(reason)
        else:
            ended = self.history.ended[first.job]
            yield f"{second} while {first} ran until {ended:.3f}"

    def _why_two(self, first: Post, second: Post) -> str:
        history = self.history
        leaders, followers = self._senders(first), self._senders(second)
        if any(history.troubled({None}, first.at - AFTER, second.at)):
            return "Redis was down, paused or emptied"
        if any(history.troubled(leaders | followers, first.at - AFTER, second.at, CUT, ALONE)):
            return "one of the two was cut off"
        if any(history.troubled({ITSELF}, first.at - AFTER, second.at, SLOW)):
            return "Redash itself was too slow to say when they came"
        if any(first.at - DEFINITION_CHECK - _SLOP <= edit.answered <= second.at for edit in self._edits(first.query)):
            return "the query was edited, and who knows of it joins no run of before"
        recorded = first.answered + _AT_ONCE
        if any(history.troubled(leaders, first.at - _ROUNDING, recorded, KILLED)):
            return "the leader was killed before its job was recorded"
        if any(history.troubled(leaders, first.at - _ROUNDING, recorded, PAUSED)):
            return "the leader was paused before its job was recorded"
        if any(history.troubled(followers, second.at - _JUST_NOW, second.at, PAUSED)):
            return "the leader was paused between its check and its POST"
        return ""

    def _senders(self, post: Post) -> set[int | None]:
        """Which gateways it may have come from: nobody knows once its connection is closed."""
        return {*self.history.leases} if post.gateway is None else {post.gateway}

    def _edits(self, query: str) -> list[Change]:
        return [edit for edit in self.history.edits if edit.query == query]

    # -- rows

    def no_older_than_allowed(self) -> Verdict:
        """The age counts from the end of the run in Redash to the moment of asking."""
        for a in self._with_result():
            if a.max_age is None:
                continue
            self._judged()
            age = a.since - self.history.results[a.result or 0].ended
            if age > a.max_age + _ROUNDING:
                yield f"rows {age:.3f} s old: {a}"

    def what_was_requested(self) -> Verdict:
        """Rows are those of a result in Redash, of the query and for the value that were requested."""
        for a in self.history.asked:
            if a.result is None:
                continue
            self._judged()
            result = self.history.results.get(a.result)
            if not a.exact or result is None or (result.query, result.value) != (a.query, a.value):
                yield f"{result}: {a}"

    def none_across_scopes(self) -> Verdict:
        """Redash itself has given this result to this client's key before."""
        for a in self._shown():
            self._judged()
            given = self.history.given.get((self.history.keys[a.client], a.result or 0), [])
            if not any(at <= a.answered for at in given):
                yield f"Redash never gave it to this key: {a}"

    def none_after_a_purge(self) -> Verdict:
        """What is served from the store after a purge came from Redash after it."""
        for a in self._shown():
            if not a.hit:
                continue
            for purge in self._in_force(self.history.purges, a, a.asked):
                self._judged()
                given = self.history.given.get((self.history.keys[a.client], a.result or 0), [])
                if not any(purge.asked <= at <= a.answered for at in given):
                    yield f"stored before the purge {purge}: {a}"

    def none_of_an_old_definition(self) -> Verdict:
        """An edit counts after `definition_check`; one through a gateway at once, on all that are connected."""
        for a in self._with_result():
            result = self.history.results[a.result or 0]
            self._judged()
            newer = [edit for edit in self._edits(a.query) if edit.version > result.version]
            if any(edit.answered < a.since - DEFINITION_CHECK - _SLOP for edit in newer):
                yield f"version {result.version}, {newer[0]} was long before: {a}"
            elif a.hit and any(self._in_force(newer, a, a.since)):
                yield f"version {result.version}, {newer[0]} was announced: {a}"

    def _in_force(self, changes: list[Change], a: Asked, asked: float) -> Iterator[Change]:
        """Changes through a gateway that this request's gateway must have learned of, since both were connected."""
        for change in changes:
            if change.gateway is None or change.query not in ("", a.query):
                continue
            if asked < change.answered + REACHES_ALL:
                continue
            if not self.history.connected(change.gateway, change.asked, change.answered + _AT_ONCE):
                continue
            if self.history.connected(a.gateway, change.asked, a.answered):
                yield change

    def _with_result(self) -> Iterator[Asked]:
        """Those whose rows were made or chosen for this request."""
        return (a for a in self.history.asked if a.kind in _RESULT_KINDS and a.result in self.history.results)

    def _shown(self) -> Iterator[Asked]:
        return (a for a in self.history.asked if a.result is not None and a.status == 200)

    # -- clients

    def revoked_clients_get_nothing(self) -> Verdict:
        """A client that was taken out of the configuration is refused, and no other is."""
        for a in self.history.asked:
            if not a.status:
                continue
            mine = [r for r in self.history.revocations if r.client == a.client]
            refused = a.status in (401, 403)
            for revoked in mine:
                if a.answered <= revoked.ended and any(self._in_force([revoked], a, a.asked)):
                    self._judged()
                    if not refused:
                        yield f"in spite of {revoked}: {a}"
            if refused and not any(r.asked <= a.answered and self._is_back(r, a) >= a.asked for r in mine):
                yield f"refused: {a}"

    def _is_back(self, revoked: Change, a: Asked) -> float:
        """Until when a gateway may refuse a client that is back again: longer, if it was cut off or down."""
        troubles = self.history.troubled({a.gateway, None}, revoked.ended - AFTER, a.answered)
        return max([revoked.restored, *(trouble.ended for trouble in troubles)]) + AFTER

    # -- responses

    def everybody_is_answered(self) -> Verdict:
        """Each request has a response in its time, in which the pauses of its gateway do not count."""
        for a in self.history.asked:
            self._judged()
            if a.status == 0:
                if any(self.history.troubled({a.gateway}, a.asked, a.answered, KILLED)):
                    self._excuse("the gateway was killed")
                elif self._revoked_meanwhile(a):
                    self._excuse("the client was revoked, so the connection was closed")
                else:
                    yield f"no response: {a}"
            elif a.answered - a.asked - self._paused(a) > a.patience:
                yield f"{a.answered - a.asked:.1f} s: {a}"

    def _revoked_meanwhile(self, a: Asked) -> bool:
        return any(
            change.client == a.client and change.asked <= a.answered and change.answered + AFTER >= a.asked
            for change in self.history.revocations
        )

    def _paused(self, a: Asked) -> float:
        pauses = self.history.troubled({a.gateway, ITSELF}, a.asked, a.answered, PAUSED, SLOW)
        return sum(min(p.ended, a.answered) - max(p.began, a.asked) + _JUST_NOW for p in pauses)

    def no_request_fails(self) -> Verdict:
        """No response is an error, whatever happens to Redis or to other gateways."""
        for a in self.history.asked:
            self._judged()
            if a.status in (0, 200, 307, 401, 403) or (a.status in _UNKNOWN and a.kind in _ABOUT_JOBS):
                continue  # judged by the other rules
            pauses = self.history.troubled({a.gateway, ITSELF}, a.asked - 5, a.answered, PAUSED, SLOW)
            if a.status in _OUTAGE and any(pauses):
                self._excuse("the gateway or the sandbox was paused")
            elif a.status == 422 and self._met_a_cancel(a):
                self._excuse(_JOINED_CANCEL)
            elif a.status == 422 and self._cancelled.get(a.job, NEVER) < a.answered:
                self._excuse("its job was cancelled while it waited")
            else:
                yield str(a)

    def _met_a_cancel(self, a: Asked) -> bool:
        """Whether its run joined a job in Redash while the cancel of another run with that job was on its way.

        Redash joins POSTs of the same text, also with other keys, and then both runs end. One gateway alone has this
        race, too. A gateway that is cut off cannot even know of the other run. It takes a poll to notice the end.
        """
        made = self._created.get(a.job, a)
        for post in self._posts_for(a):
            deleted = self.history.deleted.get(post.job, NEVER)
            if not (made.since <= deleted + _SLOP and post.at <= min(deleted, a.answered)):
                continue
            joined = any(p.job == post.job and p.at < post.at for p in self.history.posts)
            alone = any(self.history.troubled({post.gateway}, deleted - _AT_ONCE, deleted, CUT, ALONE))
            if alone or (joined and deleted <= post.answered + _SLOP):
                return True
        return False

    def _posts_for(self, a: Asked) -> Iterator[Post]:
        key, value = self.history.keys[a.client], f"'{a.value}' as x"
        return (p for p in self.history.posts if p.job and (p.key, p.query) == (key, a.query) and value in p.sql)

    def every_job_is_good(self) -> Verdict:
        """A job id is known on every gateway, and ends in a result unless it was cancelled."""
        for a in self.history.asked:
            if a.kind not in _ABOUT_JOBS or a.status not in (200, 307, *_UNKNOWN):
                continue
            self._judged()
            if a.status in _UNKNOWN:
                yield from self._unknown(a)
            elif a.kind == "poll" and a.job_status == 4 and self._cancelled.get(a.job, a.answered) >= a.answered:
                if self._met_a_cancel(a):
                    self._excuse(_JOINED_CANCEL)
                else:
                    yield f"it failed: {a}"

    def _unknown(self, a: Asked) -> Verdict:
        created = self._created.get(a.job)
        if created is None:
            yield f"nobody made it: {a}"
        elif self._lost(created, a):
            self._excuse(
                "a gateway was cut off" if a.asked < self.history.calm else "the record is lost, or out of reach"
            )
        else:
            yield f"unknown, made by {created}: {a}"

    def _lost(self, created: Asked, polled: Asked) -> bool:
        """Whether a gateway may not know a job. The one that made it knows it until it dies, the others while all are
        connected; when all is calm, they know it unless it died before it was back.
        """
        history = self.history
        kills = history.troubled({created.gateway}, created.asked, polled.asked, KILLED)
        killed = next((kill for kill in kills if kill.began > created.asked), None)
        if killed is None and created.gateway == polled.gateway:
            return False
        if polled.asked < history.calm:
            among = (created.gateway, polled.gateway)
            return not all(history.connected(gateway, created.asked, polled.answered) for gateway in among)
        if polled.status != 404:  # it cannot say just now
            return not history.connected(polled.gateway, polled.asked, polled.answered)
        emptied = history.troubled({None}, created.asked, polled.asked, REDIS_EMPTIED)
        if any(emptied) and self._killed_since(created.asked):  # it may have been the one that led the run
            return True
        if killed is None:
            return False
        before = history.troubled({created.gateway, None}, created.asked - AFTER, killed.began)
        return any(trouble != killed and trouble.kind != PAUSED for trouble in before)

    def _killed_since(self, moment: float) -> bool:
        return any(trouble.kind == KILLED and trouble.began > moment for trouble in self.history.troubles)

    def every_job_ends(self) -> Verdict:
        """When all is over, the last response about each job says that it has ended."""
        last: dict[str, Asked] = {}
        for a in self.history.asked:
            if a.kind == "poll" and a.status in (200, 404):
                last[a.job] = a
        for job, created in self._created.items():
            self._judged()
            if job not in last:
                yield f"nobody asked for it again: {created}"
            elif last[job].status == 200 and last[job].job_status not in (
                3,
                4,
            ):  # whether it may be lost is judged above
                yield f"it never ended: {last[job]}"

    def leases_are_freed(self) -> Verdict:
        """When all is over, no gateway holds a lease."""
        for gateway, held in self.history.leases.items():
            self._judged()
            if held:
                yield f"gateway {gateway} holds {held:g}"


RULES: Final[dict[str, Callable[[Judge], Verdict]]] = {
    "one execution per key and moment": Judge.one_execution,
    "no rows older than allowed": Judge.no_older_than_allowed,
    "the rows that were requested": Judge.what_was_requested,
    "no rows across scopes": Judge.none_across_scopes,
    "nothing stored before a purge": Judge.none_after_a_purge,
    "nothing of an old definition": Judge.none_of_an_old_definition,
    "nothing for a revoked client": Judge.revoked_clients_get_nothing,
    "everybody is answered in time": Judge.everybody_is_answered,
    "no request fails": Judge.no_request_fails,
    "every job id is known, and gives a result": Judge.every_job_is_good,
    "every job ends": Judge.every_job_ends,
    "all leases are freed": Judge.leases_are_freed,
}

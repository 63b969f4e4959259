"""The judge finds what it should: each history here breaks one promise, or has a reason why it is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .history import (
    ALONE,
    CUT,
    ITSELF,
    KILLED,
    PAUSED,
    REDIS_EMPTIED,
    REDIS_PAUSED,
    SLOW,
    Asked,
    Change,
    History,
    Post,
    Result,
    Trouble,
)
from .judge import RULES, Judge

KEYS = {"dashboard": "key a", "second": "key a", "writer": "key b"}
SQL = "select 'short.v0' as version, 'A' as x"
POLL = Asked(
    kind="poll", gateway=1, asked=102.0, answered=102.1, since=100.0, query="short", value="A", job="j", job_status=3
)
POST = Asked(
    kind="post", gateway=0, asked=100.0, answered=100.1, since=100.0, query="short", value="A", max_age=0, job="j"
)
HIT = Asked(
    kind="post",
    gateway=2,
    asked=103.0,
    answered=103.1,
    since=103.0,
    query="short",
    value="A",
    max_age=60,
    result=7,
    hit=True,
)


def good() -> History:
    """A run that one gateway leads, a poll of another one, and a hit on the third."""
    made = History(keys=KEYS, leases={0: 0.0, 1: 0.0, 2: 0.0}, calm=150.0)
    made.asked = [POST, replace(POLL, max_age=0, result=7), HIT]
    made.posts = [Post(0, "key a", SQL, 100.02, 100.04, "redash 1")]
    made.ended = {"redash 1": 101.0}
    made.results = {7: Result("short", 0, "A", 101.0)}
    made.given["key a", 7] = [101.1]
    return made


def found(history: History) -> dict[str, list[str]]:
    return {rule: texts for rule, texts in Judge(history).judge().found.items() if texts}


def excuses(history: History) -> set[str]:
    findings = Judge(history).judge()
    assert not findings.texts
    return {reason for counts in findings.excused.values() for reason in counts}


def test_a_good_history_is_good() -> None:
    assert found(good()) == {}
    assert excuses(good()) == set()


def test_every_rule_has_a_line_in_the_table() -> None:
    assert [line for line in Judge(good()).judge().table().splitlines()[1:] if line[:44].strip() in RULES]
    assert len(Judge(good()).judge().table().splitlines()) == len(RULES) + 1


# -- executions

SECOND = Post(1, "key a", SQL, 100.5, 100.52, "redash 2")


def twice(*troubles: Trouble, second: Post = SECOND) -> History:
    made = good()
    made.posts.append(second)
    made.ended["redash 2"] = 101.5
    made.troubles = list(troubles)
    return made


def test_a_second_execution_at_the_same_moment_is_found() -> None:
    assert found(twice()).keys() == {"one execution per key and moment"}


def test_another_key_and_another_sql_and_a_later_moment_are_no_second_execution() -> None:
    for second in (
        replace(SECOND, key="key b"),
        replace(SECOND, sql="select 2"),
        replace(SECOND, at=101.01),
        replace(SECOND, job=""),
    ):
        assert found(twice(second=second)) == {}


def test_a_second_execution_needs_its_own_trouble() -> None:
    """A trouble of somebody else, or of another time, is no reason."""
    for trouble in (
        Trouble(CUT, 2, 99.0, 105.0),
        Trouble(CUT, 1, 90.0, 92.0),
        Trouble(PAUSED, 0, 100.9, 105.0),
        Trouble(PAUSED, 1, 90.0, 98.0),
        Trouble(KILLED, 0, 100.9, 105.0),
        Trouble(REDIS_PAUSED, None, 100.9, 105.0),
    ):
        assert found(twice(trouble)), trouble


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (Trouble(CUT, 1, 99.0, 105.0), "one of the two was cut off"),
        (Trouble(ALONE, 0, 99.0, 105.0), "one of the two was cut off"),
        (Trouble(REDIS_EMPTIED, None, 100.3, 100.3), "Redis was down, paused or emptied"),
        (Trouble(SLOW, ITSELF, 98.0, 100.2), "Redash itself was too slow to say when they came"),
        (Trouble(KILLED, 0, 100.1, 105.0), "the leader was killed before its job was recorded"),
        (Trouble(PAUSED, 0, 100.1, 108.0), "the leader was paused before its job was recorded"),
        (Trouble(PAUSED, 1, 91.0, 100.4), "the leader was paused between its check and its POST"),
    ],
)
def test_why_there_may_be_two(trouble: Trouble, reason: str) -> None:
    assert excuses(twice(trouble)) == {reason}


def test_a_post_of_an_unknown_gateway_may_be_that_of_any() -> None:
    unknown = replace(SECOND, gateway=None)
    assert found(twice(second=unknown))
    assert found(twice(Trouble(CUT, 2, 90.0, 92.0), second=unknown))
    assert excuses(twice(Trouble(CUT, 2, 99.0, 105.0), second=unknown)) == {"one of the two was cut off"}


def test_an_edit_in_between_is_a_reason_for_two() -> None:
    """Redash runs the new text for a gateway that has not noticed the edit yet; who has cannot join that."""
    made = twice()
    made.posts = [replace(post, query="short") for post in made.posts]
    for at, query, is_reason in ((99.0, "short", True), (90.0, "short", False), (99.0, "long", False)):
        made.edits = [Change(None, at, at, query, 0)]
        assert bool(found(made)) != is_reason


# -- rows


def changed(**changes: object) -> History:
    """The good history with another last response."""
    made = good()
    made.asked[-1] = replace(HIT, **changes)  # type: ignore[arg-type]
    return made


def test_rows_that_are_too_old_are_found() -> None:
    assert found(changed(max_age=1)).keys() == {"no rows older than allowed"}
    assert found(changed(max_age=2)) == {}


def test_a_poll_is_judged_from_the_moment_of_its_post() -> None:
    made = good()
    made.results[7] = Result("short", 0, "A", 99.9)
    assert found(made).keys() == {"no rows older than allowed"}


def test_rows_of_another_query_or_value_or_not_whole_are_found() -> None:
    for changes in ({"value": "B"}, {"query": "long"}, {"exact": False}, {"result": 8}):
        assert "the rows that were requested" in found(changed(**changes)), changes


def test_rows_across_scopes_are_found() -> None:
    assert found(changed(client="writer")).keys() == {"no rows across scopes"}
    assert found(changed(client="second")) == {}


def purged(*troubles: Trouble, at: float = 101.5, query: str = "") -> History:
    made = good()
    made.purges = [Change(1, at, at + 0.1, query)]
    made.troubles = list(troubles)
    return made


def test_what_was_stored_before_a_purge_is_found() -> None:
    assert found(purged()).keys() == {"nothing stored before a purge"}
    assert found(purged(query="short")).keys() == {"nothing stored before a purge"}


def test_a_purge_counts_for_its_query_and_after_a_second_and_until_redash_gives_the_result_again() -> None:
    assert found(purged(query="long")) == {}
    assert found(purged(at=102.2)) == {}
    made = purged()
    made.given["key a", 7].append(102.5)
    assert found(made) == {}


def test_a_purge_needs_both_gateways_to_be_connected() -> None:
    assert found(purged(Trouble(CUT, 1, 99.0, 105.0))) == {}
    assert found(purged(Trouble(CUT, 2, 99.0, 105.0))) == {}
    assert found(purged(Trouble(CUT, 0, 99.0, 105.0))) != {}


def edited(at: float, gateway: int | None) -> History:
    made = good()
    made.edits = [Change(gateway, at, at + 0.1, "short", 1)]
    return made


def test_rows_of_an_old_definition_are_found() -> None:
    """The good history has a POST at 100 and a hit at 103."""
    assert found(edited(99.5, None)).keys() == {"nothing of an old definition"}
    assert found(edited(100.5, None)) == {}, "in Redash itself: noticed after the definition check"
    assert found(edited(100.5, 1)).keys() == {"nothing of an old definition"}
    assert found(edited(102.5, 1)) == {}, "it has a second to get round"


# -- clients


def revoked(status: int, *, since: float = 101.0, ended: float = 110.0) -> History:
    made = changed(status=status, client="second", result=None, hit=False)
    made.revocations = [Change(1, since, since + 0.1, client="second", ended=ended, restored=ended + 0.1)]
    return made


def test_a_revoked_client_that_is_served_is_found() -> None:
    assert found(revoked(200)).keys() == {"nothing for a revoked client"}
    assert found(revoked(401)) == {}


def test_a_client_that_is_refused_without_a_reason_is_found() -> None:
    assert found(revoked(401, since=104.0)).keys() == {"nothing for a revoked client"}
    assert found(revoked(401, since=90.0, ended=95.0)).keys() == {"nothing for a revoked client"}


# -- responses and jobs


def test_a_late_response_is_found() -> None:
    assert found(changed(answered=108.5)).keys() == {"everybody is answered in time"}
    late = changed(answered=108.5)
    late.troubles = [Trouble(PAUSED, 2, 103.0, 107.0)]
    assert found(late) == {}
    late.troubles = [Trouble(SLOW, ITSELF, 103.0, 107.0)]
    assert found(late) == {}


def test_a_request_without_a_response_is_found() -> None:
    lost = changed(status=0, result=None, hit=False)
    assert found(lost).keys() == {"everybody is answered in time"}
    lost.troubles = [Trouble(KILLED, 1, 103.05, 104.0)]
    assert found(lost).keys() == {"everybody is answered in time"}
    lost.troubles = [Trouble(KILLED, 2, 103.05, 104.0)]
    assert excuses(lost) == {"the gateway was killed"}


def test_an_error_is_found() -> None:
    for status in (400, 404, 422, 429, 500, 502, 503, 504):
        failed = changed(status=status, result=None, hit=False)
        assert found(failed).keys() == {"no request fails"}, status
    failed.troubles = [Trouble(CUT, 2, 103.0, 104.0), Trouble(REDIS_PAUSED, None, 103.0, 104.0)]
    assert found(failed).keys() == {"no request fails"}


def test_a_cancelled_run_is_excused_only_where_its_job_in_redash_was_just_being_cancelled() -> None:
    """Redash joins a POST to a run that another key is cancelling, and both end."""
    failed = good()
    failed.asked[1] = replace(POLL, job_status=4)
    ours = replace(failed.posts[0], query="short")
    earlier, later = replace(ours, key="key b", at=99.9), replace(ours, key="key b", at=100.1)
    reason = "its run joined a job in Redash that was just being cancelled"
    failed.posts, failed.deleted = [ours, earlier], {"redash 1": 100.3}
    assert reason in excuses(failed)
    failed.deleted = {"redash 1": 101.9}
    assert found(failed).keys() == {"every job id is known, and gives a result"}, "long after it had joined"
    failed.troubles = [Trouble(CUT, 0, 101.5, 103.0)]
    assert reason in excuses(failed)
    failed.posts, failed.deleted, failed.troubles = [ours, later], {"redash 1": 100.3}, []
    assert found(failed).keys() == {"every job id is known, and gives a result"}, "the other one has joined it"


def test_a_caller_that_waits_for_a_job_which_its_client_cancels_is_excused() -> None:
    failed = good()
    failed.asked.append(replace(POLL, kind="hop", status=422, result=None, asked=104.0, answered=106.0))
    assert found(failed).keys() == {"no request fails"}
    failed.asked.append(replace(POLL, kind="cancel", asked=105.0, answered=105.1, result=None, job_status=0))
    assert excuses(failed) == {"its job was cancelled while it waited"}


def polled(*troubles: Trouble, asked: float = 151.0, **changes: object) -> History:
    """The good history with one more poll, after all is calm."""
    made = good()
    changes = {"gateway": 2, **changes}
    made.asked.append(replace(POLL, asked=asked, answered=asked + 0.1, **changes))  # type: ignore[arg-type]
    made.troubles = list(troubles)
    return made


def test_an_unknown_job_is_found() -> None:
    cut = Trouble(CUT, 0, 99.0, 110.0)
    assert found(polled(status=404)).keys() == {"every job id is known, and gives a result"}
    assert found(polled(cut, status=404)), "its gateway has been back for long"
    assert excuses(polled(cut, asked=105.0, status=404)) == {"a gateway was cut off"}
    assert found(polled(cut, asked=105.0, status=404, gateway=0)), "it made the job itself"
    assert found(polled(status=503)).keys() == {"every job id is known, and gives a result"}
    assert excuses(polled(Trouble(CUT, 2, 150.5, 153.0), status=503)) == {"the record is lost, or out of reach"}
    died = Trouble(KILLED, 0, 105.0, 106.0)
    assert found(polled(died, status=404)), "it died when the job was recorded"
    emptied = Trouble(REDIS_EMPTIED, None, 120.0, 120.0)
    assert found(polled(emptied, status=404)), "its gateway and the leader live, and write it again"
    assert excuses(polled(emptied, replace(died, gateway=1), status=404)) == {"the record is lost, or out of reach"}
    assert excuses(polled(cut, died, status=404)) == {"the record is lost, or out of reach"}


def test_a_job_that_fails_is_found() -> None:
    assert found(polled(job_status=4)).keys() == {"every job id is known, and gives a result"}
    cancelled = polled(job_status=4)
    cancelled.asked.append(replace(POLL, kind="cancel", asked=150.0, answered=150.1, job_status=0))
    assert found(cancelled) == {}


def test_a_job_that_never_ends_is_found() -> None:
    assert found(polled(job_status=2)).keys() == {"every job ends"}
    forgotten = good()
    forgotten.asked.append(replace(POST, job="other"))
    assert found(forgotten).keys() == {"every job ends"}


def test_a_lease_that_is_kept_is_found() -> None:
    kept = good()
    kept.leases[1] = 1.0
    assert found(kept).keys() == {"all leases are freed"}

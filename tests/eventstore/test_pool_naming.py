"""The fold of a pool's calls, as routers keep it: words that came late change nothing, for ever."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import ErrorInfo, Requeued, Resolution, RetryScheduled
from aegisipc.eventstore.frames import CallOptions, Mark
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.pool_naming import MAX_LETTERS, Letters, named_in, scheduled_in
from tests.eventstore.test_endings import A, Story, states

ELSE = "about something else"


def error(code: str, **details: Any) -> bytes:
    return encode(ErrorInfo(code=code, message=code, details=details))


def requeued(dead_seq: int) -> bytes:
    return encode(Requeued(author="ann", reason="mended", dead_seq=dead_seq, timeout_ms=1000))


def resolution(seq: int) -> bytes:
    return encode(Resolution(source="operator", author="ann", reason="asked", doubt_seq=seq))


def retry(attempt: int, claimed_seq: int) -> bytes:
    busy = ErrorInfo(code="busy", message="busy")
    return encode(RetryScheduled(attempt=attempt, due_ns=1, error=busy, claimed_seq=claimed_seq))


@pytest.fixture(params=[True, False])
def story(request: pytest.FixtureRequest) -> Story:
    """A pool's log, folded with bodies and without."""
    return Story(POOL_GROUP, keep_bodies=request.param)


def claimed(story: Story) -> int:
    """A call is claimed; returns where."""
    story.calls(A)
    story.pen((Mark.CLAIMED, A, None))
    return len(story.records)


def dead_and_back(story: Story) -> int:
    """A call is a dead letter and runs again; returns where it was one."""
    story.calls(A)
    story.pen((Mark.DEAD_LETTERED, A, error("dead_lettered")))
    letter = len(story.records)
    story.calls(A, options=CallOptions(requeue=(letter, "c1")), client="w1")
    story.pen((Mark.REQUEUED, A, requeued(letter)))
    assert states(story) == (CallState.ACCEPTED, CallState.ACCEPTED)
    return letter


@pytest.mark.parametrize(
    ("mark", "body"),
    [
        (Mark.CANCELLED, error("cancelled", started=False)),
        (Mark.DEAD_LETTERED, error("dead_lettered", claimed_seq=999)),
        (Mark.IN_DOUBT, error("in_doubt", claimed_seq=999)),
        (Mark.RETRY_SCHEDULED, retry(1, 0)),
        (Mark.RETRY_SCHEDULED, b"nonsense"),
    ],
)
def test_what_is_not_about_the_claim_leaves_a_claimed_call_as_it_is(
    story: Story, mark: Mark, body: bytes
) -> None:
    claim = claimed(story)
    story.pen((mark, A, body), writer="i2")
    assert states(story) == (CallState.STARTED, CallState.STARTED)
    assert story.fold.anomalies == {ELSE: 1}
    story.pen((Mark.IN_DOUBT, A, error("in_doubt", claimed_seq=claim)), writer="i2")
    assert states(story) == (CallState.IN_DOUBT, CallState.IN_DOUBT)


def test_what_names_the_claim_counts(story: Story) -> None:
    claim = claimed(story)
    story.pen((Mark.RETRY_SCHEDULED, A, retry(1, claim)))
    assert states(story) == (CallState.RETRY_WAIT, CallState.RETRY_WAIT)
    story.pen((Mark.CANCELLED, A, error("cancelled", started=True)))
    assert states(story) == (None, CallState.CANCELLED)


def test_a_resolution_of_an_earlier_doubt_ends_no_later_one(story: Story) -> None:
    doubts: list[int] = []
    for claim in (claimed(story), 0):
        if claim == 0:
            story.pen((Mark.NOT_EXECUTED, A, resolution(doubts[0])))
            story.pen((Mark.CLAIMED, A, None))
        story.pen((Mark.IN_DOUBT, A, error("in_doubt", claimed_seq=claim)))
        doubts.append(len(story.records))
    story.pen((Mark.NOT_EXECUTED, A, resolution(doubts[0])))
    assert states(story) == (CallState.IN_DOUBT, CallState.IN_DOUBT)
    story.pen((Mark.NOT_EXECUTED, A, resolution(doubts[1])))
    assert states(story) == (CallState.ACCEPTED, CallState.ACCEPTED)


def test_a_call_that_came_back_and_ended_is_not_opened_again_by_a_late_word(story: Story) -> None:
    letter = dead_and_back(story)
    story.pen((Mark.SUCCEEDED, A, b"r"))
    story.calls(A, options=CallOptions(requeue=(letter, "c1")), client="w2")
    story.pen((Mark.REQUEUED, A, requeued(letter)), writer="i2")
    assert states(story) == (None, CallState.SUCCEEDED)
    assert story.fold.anomalies == {ELSE: 1}


def test_only_the_latest_dead_letter_can_be_dealt_with(story: Story) -> None:
    first = dead_and_back(story)
    story.pen((Mark.DEAD_LETTERED, A, error("dead_lettered")), writer="i2")  # about the first life
    assert states(story) == (CallState.ACCEPTED, CallState.ACCEPTED)
    story.pen((Mark.DEAD_LETTERED, A, error("dead_lettered", dead_seq=first)))
    second = len(story.records)
    story.calls(A, options=CallOptions(requeue=(second, "c1")), client="w1")
    story.pen((Mark.DISCARDED, A, resolution(first)))
    story.pen((Mark.REQUEUED, A, requeued(first)))
    assert states(story) == (None, CallState.DEAD_LETTERED)
    story.pen((Mark.DISCARDED, A, resolution(second)))
    story.pen((Mark.REQUEUED, A, requeued(second)))
    assert states(story) == (None, CallState.DISCARDED)
    assert story.fold.concluded[Mark.DISCARDED] == 1


def test_dead_letters_over_the_limit_are_forgotten_and_every_word_about_them_counts() -> None:
    letters = Letters()
    for number in range(MAX_LETTERS + 1):
        letters.note(number.to_bytes(16), 0)
    assert letters.is_about((0).to_bytes(16), Mark.REQUEUED, requeued(5))
    assert not letters.is_about((1).to_bytes(16), Mark.REQUEUED, requeued(5))


@pytest.mark.parametrize(
    "body", [None, b"", b"\xc1", encode(7), encode({"a": "x"}), encode({"a": {"b": True}})]
)
def test_nonsense_names_nothing(body: bytes | None) -> None:
    assert named_in(body, "a", "b") == 0
    said = scheduled_in(body)
    assert said is None or said == (0, 0, 0)

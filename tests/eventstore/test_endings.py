"""What may become of a call beside an answer: another attempt, a dead letter, a duplicate, an end by request.
The fold of a group and the history of a single call agree.
"""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore.bodies import ErrorInfo, Requeued, RequeuedCall, Resolution, RetryScheduled
from aegisipc.eventstore.calls import NOTHING, Folded, GroupCalls
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import CancelRequested, GroupPromoted, encode_event
from aegisipc.eventstore.frames import (
    CLOSING,
    DEAD_MARKS,
    FINAL,
    OUTCOMES,
    CallEntry,
    CallFrame,
    CallOptions,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.histories import CallHistory, accepted_in
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.eventstore.keys import KeyIndex, KeyOwner, Segment, encode_segment, key_hash, keyed_body
from aegisipc.eventstore.lifecycles import CALL, CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Outcomes, Sessions
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of

S = subjects_of("test")
AT_NS = 1_763_000_000_000_000_000
_ids = CallIds(1)
A, B = (_ids.next(AT_NS // 1_000_000) for _ in range(2))
ERROR = ErrorInfo(code="venue_busy", message="try again")
RETRY = encode(RetryScheduled(attempt=1, due_ns=AT_NS + 500, error=ERROR))


class Story:
    """Writes the log of one group, and folds it in both ways."""

    def __init__(self, group: str = "acc", *, keep_bodies: bool = True) -> None:
        self.group = group
        is_pool = group == POOL_GROUP
        self.fold = GroupCalls(
            keep_bodies=keep_bodies, outcomes=Outcomes(), is_fenced=not is_pool, keys=KeyIndex()
        )
        self.records: list[Record] = []
        if not is_pool:
            promoted = GroupPromoted(epoch=1, holder="i1", incarnation="x", cause="first", decided_by="r")
            self.record(S.fence("orders", group), encode_event(promoted))
            self.fold.hold("i1", 1)

    def calls(self, *ids: bytes, options: CallOptions | None = None, client: str = "c1") -> Folded:
        entries = [CallEntry(call_id, "place", 1500, "r", options) for call_id in ids]
        frame = CallFrame(1, len(self.records) + 1, 1, entries, [b"args"] * len(ids))
        return self.record(S.call("orders", self.group, client), encode_calls(frame))

    def pen(self, *facts: tuple[Mark, bytes, bytes | None], writer: str = "i1", epoch: int = 1) -> Folded:
        frame = PenFrame(
            2,
            len(self.records) + 1,
            0 if self.group == POOL_GROUP else epoch,
            [PenEntry(mark, call_id) for mark, call_id, _ in facts],
            [body for _, _, body in facts],
        )
        is_dead = any(mark in DEAD_MARKS for mark, _, _ in facts)
        subject = (S.dead if is_dead else S.pen)("orders", self.group, writer)
        return self.record(subject, encode_pen(frame))

    def cancel(self, *ids: bytes) -> Folded:
        event = CancelRequested(call_ids=tuple(map(format_call_id, ids)), author="ops", reason="typo")
        return self.record(S.cancel("orders", self.group, "ops"), encode_event(event))

    def record(self, subject: str, payload: bytes) -> Folded:
        seq = len(self.records) + 1
        self.records.append(Record(seq, subject, payload, AT_NS + seq))
        return self.fold.apply(self.records[-1], S.parse(subject))

    def history(self, call_id: bytes = A) -> CallHistory:
        sessions = Sessions()
        found = (accepted_in(r, S, sessions, call_id) for r in self.records if ".call." in r.subject)
        history = CallHistory(S, next(call for call in found if call is not None))
        for record in self.records:
            if record.seq < history.call.seq and record.subject == history.fence:
                history.apply(record)
        for record in self.records:
            if record.seq > history.call.seq:
                history.apply(record)
        return history


def states(story: Story, call_id: bytes = A) -> tuple[CallState | None, CallState]:
    call = story.fold.open.get(call_id)
    return call.state if call is not None else None, story.history(call_id).state


# -- the vocabulary ---------------------------------------------------------------------------------------


def test_what_closes_a_call_and_what_is_final() -> None:
    assert {CallState(m.name.lower()) for m in FINAL} | {CallState.DISCARDED} == CALL.final
    assert OUTCOMES - {Mark.IN_DOUBT} == CLOSING
    assert {Mark.DEAD_LETTERED} == CLOSING - FINAL


# -- another attempt --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_bodies", [True, False])
@pytest.mark.parametrize("claimed", [True, False])
def test_an_attempt_that_failed_leaves_the_call_open_until_the_next_one(
    *, keep_bodies: bool, claimed: bool
) -> None:
    story = Story(keep_bodies=keep_bodies)
    story.calls(A)
    if claimed:
        story.pen((Mark.CLAIMED, A, None))
    (call,) = story.pen((Mark.RETRY_SCHEDULED, A, RETRY)).retrying
    assert states(story) == (CallState.RETRY_WAIT, CallState.RETRY_WAIT)
    assert (call.tries, call.retry_at_ns, call.claimed_by) == (1, AT_NS + 500, None)
    story.pen((Mark.CLAIMED, A, None))
    assert states(story) == (CallState.STARTED, CallState.STARTED)


def test_a_retry_whose_body_cannot_be_read_is_due_at_once() -> None:
    story = Story()
    story.calls(A)
    (call,) = story.pen((Mark.RETRY_SCHEDULED, A, b"\xc1")).retrying
    assert (call.tries, call.retry_at_ns) == (1, call.since_ns)


def test_a_call_in_doubt_is_not_tried_again() -> None:
    story = Story()
    story.calls(A)
    story.pen((Mark.CLAIMED, A, None))
    story.pen((Mark.IN_DOUBT, A, None))
    assert story.pen((Mark.RETRY_SCHEDULED, A, RETRY)).retrying == ()
    assert states(story) == (CallState.IN_DOUBT, CallState.IN_DOUBT)


# -- dead letters -----------------------------------------------------------------------------------------


def requeued(dead_seq: int, **call: Any) -> bytes:
    was = {"client": "c1", "method": "place", "resource": "r", "key": "k", "priority": 2, "body": b"args"}
    return encode(
        Requeued(
            author="ops",
            reason="venue is back",
            dead_seq=dead_seq,
            timeout_ms=2000,
            call=RequeuedCall(**was | call),
        )
    )


@pytest.mark.parametrize("keep_bodies", [True, False])
def test_a_dead_letter_is_closed_and_opened_again_as_it_was(*, keep_bodies: bool) -> None:
    story = Story(keep_bodies=keep_bodies)
    story.calls(A)
    story.pen((Mark.RETRY_SCHEDULED, A, RETRY))
    story.pen((Mark.DEAD_LETTERED, A, encode(ERROR)))
    assert states(story) == (None, CallState.DEAD_LETTERED)
    dead_seq = len(story.records)
    (call,) = story.pen((Mark.REQUEUED, A, requeued(dead_seq))).reopened
    assert states(story) == (CallState.ACCEPTED, CallState.ACCEPTED)
    assert (call.client, call.method, call.resource, call.key, call.priority) == ("c1", "place", "r", "k", 2)
    assert call.body == (b"args" if keep_bodies else b"")
    assert (call.tries, call.seq) == (0, dead_seq + 1)
    assert call.deadline_ns == AT_NS + dead_seq + 1 + 2_000_000_000 == story.history().call.deadline_ns
    assert story.fold.outcomes is not None
    assert story.fold.outcomes.get(A) is None
    assert story.history().outcome is None
    story.pen((Mark.SUCCEEDED, A, b"done"))
    assert states(story) == (None, CallState.SUCCEEDED)


def test_a_requeue_that_holds_no_call_opens_none() -> None:
    story = Story()
    story.calls(A)
    story.pen((Mark.DEAD_LETTERED, A, None))
    for body in (None, b"\xc1", encode({"author": "a"})):
        assert story.pen((Mark.REQUEUED, A, body)).reopened == ()
    assert story.fold.open == {}


def test_only_the_holder_requeues() -> None:
    story = Story()
    story.calls(A)
    story.pen((Mark.DEAD_LETTERED, A, None))
    assert story.pen((Mark.REQUEUED, A, requeued(2)), writer="i2") is NOTHING
    assert states(story) == (None, CallState.DEAD_LETTERED)


def test_an_open_call_is_not_requeued() -> None:
    story = Story()
    story.calls(A)
    assert story.pen((Mark.REQUEUED, A, requeued(2))).reopened == ()
    assert states(story) == (CallState.ACCEPTED, CallState.ACCEPTED)


def test_a_discarded_dead_letter_is_final() -> None:
    story = Story()
    story.calls(A)
    story.pen((Mark.DEAD_LETTERED, A, None))
    said = encode(Resolution(source="operator", author="ops", reason="known"))
    story.pen((Mark.DISCARDED, A, said))
    assert states(story) == (None, CallState.DISCARDED)
    assert story.fold.concluded[Mark.DISCARDED] == 1
    assert story.history().is_final
    assert not story.fold.anomalies


def test_nothing_but_a_requeue_brings_a_dead_letter_back() -> None:
    for mark in set(Mark) - {Mark.REQUEUED, Mark.DISCARDED}:
        story = Story()
        story.calls(A)
        story.pen((Mark.DEAD_LETTERED, A, None))
        story.pen((mark, A, b""))
        assert states(story) == (None, CallState.DEAD_LETTERED)


# -- in a pool, a dead letter comes in a frame again ------------------------------------------------------


def test_in_a_pool_a_dead_letter_is_open_again_once_somebody_says_that_it_counts() -> None:
    story = Story(POOL_GROUP)
    story.calls(A)
    story.pen((Mark.DEAD_LETTERED, A, None))
    dead_seq = len(story.records)
    assert story.calls(A, options=CallOptions(requeue=(dead_seq, "c1")), client="w1").opened == []
    assert story.fold.open == {}
    said = encode(Requeued(author="ops", dead_seq=dead_seq, timeout_ms=1500))
    (call,) = story.pen((Mark.REQUEUED, A, said)).reopened
    assert call.client == "c1"
    assert states(story) == (CallState.ACCEPTED, CallState.ACCEPTED)


def test_in_a_pool_a_requeue_of_an_earlier_dead_letter_does_not_count() -> None:
    story = Story(POOL_GROUP)
    story.calls(A)
    story.pen((Mark.DEAD_LETTERED, A, None))
    said = encode(Requeued(author="ops", dead_seq=1, timeout_ms=1500))
    story.pen((Mark.REQUEUED, A, said))
    assert story.history().state is CallState.DEAD_LETTERED


def test_in_an_owned_group_a_frame_requeues_nothing() -> None:
    story = Story()
    story.calls(A, options=CallOptions(requeue=(7, "c1")))
    assert story.fold.open == {}
    assert story.fold.anomalies["requeued by a frame"] == 1


def test_dead_letters_that_came_again_and_never_counted_are_bounded() -> None:
    story = Story(POOL_GROUP)
    for _ in range(1100):
        story.calls(_ids.next(AT_NS // 1_000_000), options=CallOptions(requeue=(7, "c1")))
    assert len(story.fold.requeueing) == 1024


# -- keys -------------------------------------------------------------------------------------------------


def test_a_key_is_its_owners_until_it_is_released() -> None:
    story = Story()
    story.calls(A, options=CallOptions(key="k"))
    assert story.fold.open[A].key == "k"
    key, digest = key_hash("k"), b"d" * 16
    story.pen((Mark.KEYED, A, keyed_body(key, digest)))
    assert story.fold.keys is not None
    assert story.fold.keys.find(key) == KeyOwner(A, digest)
    story.pen((Mark.RELEASED, A, key), (Mark.EXPIRED, A, None))
    assert story.fold.keys.find(key) is None
    assert states(story) == (None, CallState.EXPIRED)
    assert [step.what for step in story.history().steps if step.counts] == [
        "accepted", "keyed", "released", "expired",
    ]  # fmt: skip


def test_a_key_of_a_call_that_is_over_is_not_taken() -> None:
    story = Story()
    story.calls(A)
    story.pen((Mark.SUCCEEDED, A, None))
    story.pen((Mark.KEYED, A, keyed_body(key_hash("k"), b"d" * 16)))
    assert story.fold.keys is not None
    assert story.fold.keys.find(key_hash("k")) is None
    assert story.fold.anomalies["late"] == 1


@pytest.mark.parametrize(("writer", "epoch", "counts"), [("i1", 1, True), ("i2", 1, False), ("i1", 2, False)])
def test_a_segment_counts_if_the_holder_wrote_it(writer: str, epoch: int, *, counts: bool) -> None:
    story = Story()
    segment = Segment(1, epoch, 0, 1, [(key_hash("k"), KeyOwner(A, b"d" * 16))])
    story.record(S.keys("orders", "acc", writer), encode_segment(segment))
    assert story.fold.keys is not None
    assert bool(story.fold.keys.segments) is counts


def test_a_duplicate_is_an_outcome() -> None:
    story = Story()
    story.calls(A, B)
    (concluded,) = story.pen((Mark.DUPLICATE, B, A)).concluded
    assert concluded.outcome.body == A
    assert states(story, B) == (None, CallState.DUPLICATE)


def test_a_claimed_call_is_no_duplicate_any_more() -> None:
    story = Story()
    story.calls(A, B)
    story.pen((Mark.CLAIMED, B, None))
    assert story.pen((Mark.DUPLICATE, B, A)).concluded == []


# -- cancelling -------------------------------------------------------------------------------------------


def test_a_request_to_cancel_is_noted_on_the_open_call_and_the_holder_concludes_it() -> None:
    story = Story()
    story.calls(A, B)
    story.pen((Mark.SUCCEEDED, B, None))
    (call,) = story.cancel(A, B).cancels
    assert call.cancel == ("ops", "typo")
    assert states(story) == (CallState.ACCEPTED, CallState.ACCEPTED)
    assert story.cancel(A) is NOTHING  # the first request counts
    story.pen((Mark.CANCELLED, A, encode(ErrorInfo(code="cancelled", message="typo"))))
    assert states(story) == (None, CallState.CANCELLED)
    steps = story.history().steps
    assert [(s.what, s.counts) for s in steps] == [
        ("accepted", True), ("cancel_requested", True), ("cancel_requested", True), ("cancelled", True),
    ]  # fmt: skip


def test_a_request_that_comes_after_the_outcome_changes_nothing() -> None:
    story = Story()
    story.calls(A)
    story.pen((Mark.SUCCEEDED, A, None))
    assert story.cancel(A) is NOTHING
    assert [(s.what, s.counts) for s in story.history().steps][-1] == ("cancel_requested", False)


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", encode_event(CancelRequested(call_ids=("x",), author="a"))]
)
def test_a_request_that_cannot_be_read_changes_nothing(payload: bytes) -> None:
    story = Story()
    story.calls(A)
    assert story.record(S.cancel("orders", "acc", "ops"), payload) is NOTHING
    assert story.fold.anomalies["malformed"] == 1
    assert story.fold.open[A].cancel is None


def test_a_call_that_runs_may_end_either_way_and_the_first_word_counts() -> None:
    for first, second in ((Mark.SUCCEEDED, Mark.CANCELLED), (Mark.CANCELLED, Mark.SUCCEEDED)):
        story = Story()
        story.calls(A)
        story.pen((Mark.CLAIMED, A, None))
        story.cancel(A)
        story.pen((first, A, None))
        story.pen((second, A, None))
        assert story.history().outcome is not None
        assert story.history().state is CallState(first.name.lower())

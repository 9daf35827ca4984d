"""The fold of calls, where instances fail: doubts and how they end, evidence, attempts, forged frames."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aegisipc.eventstore.calls import NOTHING, Evidence, Folded, GroupCalls, Outcomes, counts
from aegisipc.eventstore.frames import (
    NO_CALL,
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallIds
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import subjects_of

S = subjects_of("test")
_ids = CallIds(1)
A, B = (_ids.next(1_763_000_000_000) for _ in range(2))

type Fact = tuple[Mark, bytes, bytes | None]


class History:
    """Frames of an owned group whose pen ``i1`` holds at epoch 1."""

    def __init__(self) -> None:
        self.seq = 0
        self.fold = GroupCalls(keep_bodies=True, outcomes=Outcomes(), is_fenced=True)
        self.fold.hold("i1", 1)
        self.record(
            S.call("orders", "g1", "c1"),
            encode_calls(
                CallFrame(
                    1, 1, 1, [CallEntry(call_id, "place", 1000, None) for call_id in (A, B)], [b"", b""]
                )
            ),
        )

    def pen(self, *facts: Fact, writer: str = "i1", epoch: int = 1) -> Folded:
        return self.record(S.pen("orders", "g1", writer), self._frame(facts, epoch))

    def evidence(self, *facts: Fact, writer: str = "i1") -> Folded:
        return self.record(S.evidence("orders", "g1", writer), self._frame(facts, 1))

    def claim_and_lose(self) -> None:
        """``i1`` claims A, and ``i2`` takes over and finds it in doubt."""
        self.pen((Mark.CLAIMED, A, None))
        self.fold.hold("i2", 2)
        self.pen((Mark.IN_DOUBT, A, b"why"), writer="i2", epoch=2)

    def _frame(self, facts: Sequence[Fact], epoch: int) -> bytes:
        return encode_pen(
            PenFrame(
                2,
                self.seq + 1,
                epoch,
                [PenEntry(mark, call_id) for mark, call_id, _ in facts],
                [body for _, _, body in facts],
            )
        )

    def record(self, subject: str, payload: bytes) -> Folded:
        self.seq += 1
        return self.fold.apply(Record(self.seq, subject, payload, self.seq), S.parse(subject))


@pytest.fixture
def history() -> History:
    return History()


# -- forged frames ----------------------------------------------------------------------------------------


def test_a_frame_of_one_who_does_not_hold_the_pen_changes_nothing(history: History) -> None:
    assert history.pen((Mark.SUCCEEDED, A, b"forged"), writer="i2") is NOTHING
    assert A in history.fold.open
    assert history.fold.anomalies == {"not the holder's": 1}


@pytest.mark.parametrize("epoch", [0, 2, 99])
def test_a_frame_with_a_forged_epoch_changes_nothing(history: History, epoch: int) -> None:
    assert history.pen((Mark.SUCCEEDED, A, b"forged"), epoch=epoch) is NOTHING
    assert A in history.fold.open


def test_nobody_concludes_anything_in_a_group_without_a_holder(history: History) -> None:
    history.fold.hold(None, 1)
    assert history.pen((Mark.SUCCEEDED, A, b"late")) is NOTHING


def test_a_former_holders_frame_past_the_promotion_of_the_next_changes_nothing(history: History) -> None:
    history.fold.hold("i2", 2)
    assert history.pen((Mark.SUCCEEDED, A, b"zombie")) is NOTHING
    assert [
        c.outcome.body for c in history.pen((Mark.SUCCEEDED, A, b"x"), writer="i2", epoch=2).concluded
    ] == [b"x"]


# -- doubts -----------------------------------------------------------------------------------------------


def test_a_call_that_did_not_run_is_open_again_and_its_doubt_forgotten(history: History) -> None:
    history.claim_and_lose()
    folded = history.pen((Mark.NOT_EXECUTED, A, b"by whom"), writer="i2", epoch=2)
    call = history.fold.open[A]
    assert list(folded.reopened) == [call]
    assert (call.state, call.claimed_by, call.claimed_epoch) == (CallState.ACCEPTED, None, 0)
    assert history.fold.outcomes is not None
    assert history.fold.outcomes.get(A) is None


def test_a_call_that_did_run_ends_with_the_outcome_that_follows(history: History) -> None:
    history.claim_and_lose()
    folded = history.pen((Mark.EXECUTED, A, b"by whom"), (Mark.SUCCEEDED, A, b"fill"), writer="i2", epoch=2)
    assert [(c.outcome.mark, c.outcome.body) for c in folded.concluded] == [(Mark.SUCCEEDED, b"fill")]
    assert A not in history.fold.open


@pytest.mark.parametrize("mark", [Mark.EXECUTED, Mark.NOT_EXECUTED])
def test_a_resolution_of_a_call_that_is_not_in_doubt_changes_nothing(history: History, mark: Mark) -> None:
    assert history.pen((mark, A, b"")).reopened == ()
    assert history.fold.open[A].state is CallState.ACCEPTED
    assert history.fold.anomalies.total() == 1


def test_a_claim_remembers_who_made_it_in_which_epoch_and_when(history: History) -> None:
    history.pen((Mark.CLAIMED, A, None))
    call = history.fold.open[A]
    assert (call.claimed_by, call.claimed_epoch, call.since_ns) == ("i1", 1, history.seq)


# -- evidence ---------------------------------------------------------------------------------------------


def test_evidence_is_kept_for_the_holder_and_concludes_nothing(history: History) -> None:
    history.claim_and_lose()
    folded = history.evidence((Mark.EMITTED, A, b"event"), (Mark.SUCCEEDED, A, b"fill"))
    call = history.fold.open[A]
    assert list(folded.evidenced) == [call]
    assert call.evidence == Evidence(Mark.SUCCEEDED, b"fill", "i1", (b"event",))
    assert call.state is CallState.IN_DOUBT


def test_evidence_of_one_who_did_not_claim_the_call_is_of_no_use(history: History) -> None:
    history.claim_and_lose()
    assert history.evidence((Mark.SUCCEEDED, A, b"x"), writer="i3").evidenced == ()
    assert history.evidence((Mark.SUCCEEDED, B, b"x")).evidenced == ()
    assert history.fold.anomalies["evidence of no use"] == 2


def test_the_first_evidence_counts(history: History) -> None:
    history.claim_and_lose()
    history.evidence((Mark.SUCCEEDED, A, b"first"))
    assert history.evidence((Mark.FAILED, A, b"second")).evidenced == ()
    evidence = history.fold.open[A].evidence
    assert evidence is not None
    assert evidence.body == b"first"


def test_evidence_may_come_before_the_doubt(history: History) -> None:
    history.pen((Mark.CLAIMED, A, None))
    assert list(history.evidence((Mark.FAILED, A, b"error")).evidenced) == [history.fold.open[A]]


# -- beside the lifecycle ---------------------------------------------------------------------------------


def test_attempts_are_counted_and_move_nothing(history: History) -> None:
    for _ in range(2):
        history.pen((Mark.ATTEMPTED, A, None))
    call = history.fold.open[A]
    assert (call.attempts, call.state) == (2, CallState.ACCEPTED)


def test_events_of_the_shared_state_come_out_in_order_with_the_checks_between_them(history: History) -> None:
    folded = history.pen(
        (Mark.EMITTED, A, b"one"),
        (Mark.SUCCEEDED, A, b""),
        (Mark.CHECKED, NO_CALL, b"digest"),
        (Mark.EMITTED, B, b"two"),
        (Mark.SUCCEEDED, B, b""),
    )
    assert list(folded.state) == [(Mark.EMITTED, b"one"), (Mark.CHECKED, b"digest"), (Mark.EMITTED, b"two")]


def test_an_event_of_a_call_that_is_over_does_not_count(history: History) -> None:
    history.pen((Mark.SUCCEEDED, A, b""))
    assert history.pen((Mark.EMITTED, A, b"late"), (Mark.SUCCEEDED, A, b"")).state == ()


def test_a_dead_letter_is_an_outcome(history: History) -> None:
    folded = history.pen((Mark.DEAD_LETTERED, A, b"error"))
    assert [c.outcome.mark for c in folded.concluded] == [Mark.DEAD_LETTERED]
    assert A not in history.fold.open


@pytest.mark.parametrize("mark", [Mark.EMITTED, Mark.CHECKED, Mark.ATTEMPTED])
@pytest.mark.parametrize("before", [None, Mark.CLAIMED, Mark.IN_DOUBT, Mark.SUCCEEDED])
def test_what_is_said_beside_the_lifecycle_never_counts_as_its_latest_mark(
    before: Mark | None, mark: Mark
) -> None:
    assert not counts(before, mark)


def test_the_marks_of_a_doubt_count_one_after_the_other() -> None:
    marks = [Mark.CLAIMED, Mark.IN_DOUBT, Mark.NOT_EXECUTED, Mark.CLAIMED, Mark.IN_DOUBT, Mark.EXECUTED]
    before: Mark | None = None
    for mark in marks:
        assert counts(before, mark)
        before = mark
    assert counts(before, Mark.SUCCEEDED)
    assert not counts(Mark.NOT_EXECUTED, Mark.EXECUTED)

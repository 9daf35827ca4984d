"""The fold of a group's calls: given records, when one more is folded, then this is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aegisipc.eventstore import memories
from aegisipc.eventstore.calls import NOTHING, Concluded, Folded, GroupCalls, Outcome, Outcomes, Sessions
from aegisipc.eventstore.frames import (
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
STORED_NS = 1_763_000_000_000_000_000
_ids = CallIds(1)
A, B, C = (_ids.next(1_763_000_000_000) for _ in range(3))


class History:
    """Writes frames as clients and holders do, and folds them."""

    def __init__(self, *, keep_bodies: bool = True, outcomes: Outcomes | None = None) -> None:
        self.records: list[Record] = []
        self.fold = GroupCalls(keep_bodies=keep_bodies, outcomes=outcomes)
        self.frames = 0

    def calls(
        self, *ids: bytes, client: str = "c1", session: int = 1, number: int = 0, resource: str | None = "acc"
    ) -> Folded:
        self.frames += 1
        entries = [CallEntry(call_id, "place", 1500, resource) for call_id in ids]
        frame = CallFrame(session, number or self.frames, 1, entries, [b"args" for _ in ids])
        return self.record(S.call("orders", "acc", client), encode_calls(frame))

    def pen(
        self, *marks: tuple[Mark, bytes], writer: str = "i1", session: int = 2, number: int = 0
    ) -> Folded:
        self.frames += 1
        entries = [PenEntry(mark, call_id) for mark, call_id in marks]
        bodies: Sequence[bytes | None] = [
            None if mark in (Mark.CLAIMED, Mark.EXPIRED) else b"body" for mark, _ in marks
        ]
        frame = PenFrame(session, number or self.frames, 1, entries, bodies)
        return self.record(S.pen("orders", "acc", writer), encode_pen(frame))

    def record(self, subject: str, payload: bytes) -> Folded:
        seq = len(self.records) + 1
        record = Record(seq, subject, payload, STORED_NS + seq)
        self.records.append(record)
        return self.fold.apply(record, S.parse(subject))


def test_a_call_is_open_from_its_frame_with_a_deadline_on_the_servers_clock() -> None:
    history = History()
    (first, second) = history.calls(A, B).opened
    assert (first.call_id, first.client, first.method, first.resource, first.body) == (
        A, "c1", "place", "acc", b"args",
    )  # fmt: skip
    assert first.deadline_ns == STORED_NS + 1 + 1_500_000_000
    assert (first.seq, first.state, first.claimed_by) == (1, CallState.ACCEPTED, None)
    assert list(history.fold.open.values()) == [first, second]
    assert history.fold.accepted == 2


def test_a_fold_of_headers_keeps_no_bodies_and_knows_the_same() -> None:
    full, light = History(), History(keep_bodies=False)
    for history in (full, light):
        history.calls(A, B)
        history.pen((Mark.CLAIMED, A), (Mark.SUCCEEDED, B))
    assert light.fold.open[A].body == b""
    assert light.fold.to_plain() == full.fold.to_plain()


def test_a_conclusion_closes_the_call_and_carries_the_result() -> None:
    history = History(outcomes=Outcomes())
    (call,) = history.calls(A).opened
    folded = history.pen((Mark.SUCCEEDED, A))
    assert folded.concluded == [Concluded(call, Outcome(A, Mark.SUCCEEDED, b"body"), "i1")]
    assert history.fold.open == {}
    assert history.fold.outcomes is not None
    assert history.fold.outcomes.get(A) == Outcome(A, Mark.SUCCEEDED, b"body")
    assert history.fold.concluded == {Mark.SUCCEEDED: 1}


@pytest.mark.parametrize("second", [Mark.SUCCEEDED, Mark.FAILED, Mark.EXPIRED, Mark.CLAIMED, Mark.IN_DOUBT])
def test_the_first_conclusion_wins_and_later_ones_are_counted(second: Mark) -> None:
    history = History(outcomes=Outcomes())
    history.calls(A)
    history.pen((Mark.FAILED, A))
    assert history.pen((second, A), writer="i2") == Folded(claimed=[], concluded=[])
    assert history.fold.outcomes is not None
    assert history.fold.outcomes.get(A) == Outcome(A, Mark.FAILED, b"body")
    assert history.fold.anomalies == {"late": 1}


def test_the_first_of_two_conclusions_in_one_frame_wins() -> None:
    history = History()
    history.calls(A)
    folded = history.pen((Mark.SUCCEEDED, A), (Mark.FAILED, A))
    assert [concluded.outcome.mark for concluded in folded.concluded] == [Mark.SUCCEEDED]


def test_a_claim_names_who_started_the_call_and_only_the_first_counts() -> None:
    history = History()
    (call,) = history.calls(A).opened
    assert history.pen((Mark.CLAIMED, A)).claimed == [call]
    assert history.pen((Mark.CLAIMED, A), writer="i2").claimed == []
    assert (call.state, call.claimed_by) == (CallState.STARTED, "i1")
    assert history.fold.anomalies == {"call started claimed": 1}


def test_a_claimed_call_can_be_doubted_and_then_concluded() -> None:
    history = History(outcomes=Outcomes())
    (call,) = history.calls(A).opened
    history.pen((Mark.CLAIMED, A))
    folded = history.pen((Mark.IN_DOUBT, A), writer="i2")
    assert [concluded.outcome.mark for concluded in folded.concluded] == [Mark.IN_DOUBT]
    assert (call.state, list(history.fold.open)) == (CallState.IN_DOUBT, [A])
    history.pen((Mark.SUCCEEDED, A), writer="i2")
    assert history.fold.open == {}
    assert history.fold.outcomes is not None
    assert history.fold.outcomes.get(A) == Outcome(A, Mark.SUCCEEDED, b"body")
    assert history.fold.concluded == {Mark.IN_DOUBT: 1, Mark.SUCCEEDED: 1}


def test_a_call_that_was_never_claimed_cannot_be_in_doubt() -> None:
    history = History()
    history.calls(A)
    history.pen((Mark.IN_DOUBT, A))
    assert history.fold.open[A].state is CallState.ACCEPTED
    assert history.fold.anomalies == {"call accepted doubted": 1}


def test_a_call_that_was_claimed_cannot_expire() -> None:
    history = History()
    history.calls(A)
    history.pen((Mark.CLAIMED, A))
    history.pen((Mark.EXPIRED, A))
    assert history.fold.open[A].state is CallState.STARTED
    assert history.fold.anomalies == {"call started expired": 1}


def test_a_frame_stored_twice_counts_once() -> None:
    history = History()
    history.calls(A, number=1)
    history.pen((Mark.SUCCEEDED, A), number=1)
    assert history.calls(A, number=1) == NOTHING
    assert history.pen((Mark.SUCCEEDED, A), number=1) == NOTHING
    assert history.fold.open == {}
    assert history.fold.anomalies == {"frame stored twice": 2}


def test_frames_of_other_sessions_and_other_writers_are_counted_apart() -> None:
    history = History()
    for ids, client, session in ((A, "c1", 1), (B, "c1", 2), (C, "c2", 1)):
        assert len(history.calls(ids, client=client, session=session, number=1).opened) == 1
    assert history.fold.anomalies == {}


def test_a_call_id_that_is_open_already_is_not_opened_again() -> None:
    history = History()
    history.calls(A)
    assert history.calls(A, B, client="c2").opened == [history.fold.open[B]]
    assert history.fold.open[A].client == "c1"
    assert history.fold.anomalies == {"call id used twice": 1}


@pytest.mark.parametrize("kind", ["call", "pen"])
def test_bytes_that_are_no_frame_are_counted_and_change_nothing(kind: str) -> None:
    history = History()
    history.calls(A)
    before = history.fold.to_plain() | {"anomalies": {"malformed": 1}}
    assert history.record(f"{S.log_root}.orders.acc.{kind}.x", b"garbage") == NOTHING
    assert history.fold.to_plain() == before


def test_records_of_other_kinds_change_nothing() -> None:
    history = History()
    assert history.record(S.fence("orders", "acc"), b"whatever") == NOTHING
    assert history.fold.to_plain() == GroupCalls(keep_bodies=True).to_plain()


def test_a_pool_has_many_writers_and_the_first_conclusion_in_log_order_counts() -> None:
    history = History()
    history.calls(A, B)
    history.pen((Mark.SUCCEEDED, A), writer="w2")
    history.pen((Mark.FAILED, A), (Mark.SUCCEEDED, B), writer="w1")
    assert history.fold.concluded == {Mark.SUCCEEDED: 2}
    assert history.fold.anomalies == {"late": 1}


# -- bounds -----------------------------------------------------------------------------------------------


def test_sessions_are_bounded_and_forget_the_least_recently_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "MAX_SESSIONS", 3)
    sessions = Sessions()
    for session in (1, 2, 3):
        assert sessions.is_new("s", session, 5)
    assert sessions.is_new("s", 1, 6)
    assert sessions.is_new("s", 4, 1)  # forgets 2
    assert [sessions.is_new("s", session, 5) for session in (1, 3, 4)] == [False, False, True]
    assert sessions.is_new("s", 2, 5)
    assert len(sessions._last) == 3


def outcome(call_id: bytes, body: bytes | None, mark: Mark = Mark.SUCCEEDED) -> Outcome:
    return Outcome(call_id, mark, body)


def test_outcomes_are_bounded_in_number() -> None:
    kept = Outcomes(max_count=2)
    for call_id in (A, B, C):
        kept.add(outcome(call_id, b"x"))
    assert [kept.get(call_id) is not None for call_id in (A, B, C)] == [False, True, True]


def test_outcomes_are_bounded_in_bytes() -> None:
    kept = Outcomes(max_bytes=10)
    kept.add(outcome(A, b"x" * 6))
    kept.add(outcome(B, None))
    kept.add(outcome(C, b"x" * 6))
    assert [kept.get(call_id) is not None for call_id in (A, B, C)] == [False, True, True]


def test_an_outcome_over_the_limit_is_not_kept_and_costs_nothing_later() -> None:
    kept = Outcomes(max_bytes=10)
    kept.add(outcome(A, b"x" * 11))
    assert kept.get(A) is None
    kept.add(outcome(B, b"x" * 10))
    assert kept.get(B) is not None


def test_a_resolved_doubt_replaces_its_outcome_and_its_bytes() -> None:
    kept = Outcomes(max_bytes=10)
    for _ in range(20):
        kept.add(outcome(A, b"x" * 4, Mark.IN_DOUBT))
        kept.add(outcome(A, b"x" * 4))
    kept.add(outcome(B, b"x" * 6))
    assert kept.get(A) == outcome(A, b"x" * 4)
    assert kept.get(B) is not None
    assert kept._bytes == 10

"""Whoever attaches to one call reads in the log what every other reader reads there."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore.calls import GroupCalls, Outcomes
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.histories import AcceptedCall, CallHistory
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.eventstore.subjects import GROUP_WHO, HA
from aegisipc.eventstore.topology import Topology
from tests.sdk.kit import EPOCH_NS, GROUP, NS, POOL, SERVICE, ListLog

_ids = CallIds(7)
CALLS = [_ids.next(1000) for _ in range(2)]
WRITERS = ("a", "b")
FACTS = st.lists(st.tuples(st.sampled_from(Mark), st.sampled_from(CALLS)), min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), st.sampled_from(WRITERS)),
        st.tuples(st.just("vacate"), st.none()),
        st.tuples(st.just("hand over"), st.sampled_from(WRITERS)),
        st.tuples(st.just("write"), st.tuples(st.sampled_from(WRITERS), st.integers(-1, 1), FACTS)),
        st.tuples(st.just("write"), st.tuples(st.sampled_from(WRITERS), st.just(0), FACTS)),
        st.tuples(st.just("again"), st.integers(0, 20)),
        st.tuples(st.just("nonsense"), st.none()),
    ),
    max_size=25,
)


class History:
    """Anything that may be in the log of a group, sensible or not; frames of one writer are numbered."""

    def __init__(self, group: str) -> None:
        self.log, self.group, self.epoch = ListLog(), group, 0
        self.numbers = dict.fromkeys(WRITERS, 0)
        frame = CallFrame(1, 1, 0, [CallEntry(call_id, "put", 1000, None) for call_id in CALLS], [b"", b""])
        self.log.append(NS.call(SERVICE, group, "c1"), encode_calls(frame))

    def add(self, what: str, detail: Any) -> None:
        match what:
            case "promote":
                self.epoch += 1
                self.log.promote(detail, self.epoch)
            case "vacate":
                self.log.vacate(self.epoch)
            case "hand over":
                self.log.hand_over(self.epoch, "a", detail)
            case "write":
                self._write(*detail)
            case "again":
                frames = [record for record in self.log.records if ".pen." in record.subject]
                if frames:
                    record = frames[detail % len(frames)]
                    self.log.append(record.subject, record.payload)
            case _:
                self.log.append(NS.pen(SERVICE, self.group, "a"), b"\xc1")
                self.log.append(f"aegis.t.log.{SERVICE}.{self.group}.pen.\ufffd", b"?")

    def _write(self, writer: str, ahead: int, facts: list[tuple[Mark, CallId]]) -> None:
        self.numbers[writer] += 1
        number, epoch = self.numbers[writer], max(0, self.epoch + ahead)
        entries = [PenEntry(mark, call_id) for mark, call_id in facts]
        bodies = [f"{writer}{number}.{index}".encode() for index in range(len(facts))]
        frame = PenFrame(WRITERS.index(writer) + 10, number, epoch, entries, bodies)
        self.log.append(NS.pen(SERVICE, self.group, writer), encode_pen(frame))


def folded(history: History) -> GroupCalls:
    """What the fold of the whole group makes of it."""
    is_pool = history.group == POOL
    calls = GroupCalls(keep_bodies=True, outcomes=Outcomes(), is_fenced=not is_pool)
    topology = Topology(NS)
    for record in history.log.records:
        if "\ufffd" in record.subject:
            continue
        place = NS.parse(record.subject)
        calls.apply(record, place)
        topology.apply(record, place)
        group = topology.group(SERVICE, GROUP)
        if place.kind == HA and place.who == GROUP_WHO and group is not None:
            calls.hold(group.holder, group.epoch)
    return calls


def told(history: History, call_id: CallId) -> CallHistory:
    """What one who attaches to the call reads of it."""
    accepted = AcceptedCall(
        call_id, SERVICE, history.group, "c1", "put", None, 1, EPOCH_NS, EPOCH_NS + 1, 0, b""
    )
    found = CallHistory(NS, accepted)
    for record in history.log.records:
        if ".pen." in record.subject or record.subject == found.fence:
            found.apply(record)
    return found


@settings(max_examples=200)
@given(steps=STEPS)
def test_the_story_of_a_call_ends_as_the_fold_of_its_group_says(steps: list[tuple[str, Any]]) -> None:
    history = History(GROUP)
    for what, detail in steps:
        history.add(what, detail)
    fold = folded(history)
    assert fold.outcomes is not None
    for call_id in CALLS:
        assert told(history, call_id).outcome == fold.outcomes.get(call_id)


def test_a_dead_letter_that_is_requeued_without_its_call_stays_one() -> None:
    history, (call, _) = History(GROUP), CALLS
    history.add("promote", "a")
    history.add("write", ("a", 0, [(Mark.DEAD_LETTERED, call), (Mark.REQUEUED, call)]))
    fold = folded(history)
    assert fold.outcomes is not None
    outcome = told(history, call).outcome
    assert outcome is not None
    assert outcome.mark is Mark.DEAD_LETTERED
    assert outcome == fold.outcomes.get(call)


def test_a_frame_stored_twice_does_not_bring_back_a_doubt_that_is_over() -> None:
    history, (call, _) = History(GROUP), CALLS
    history.add("promote", "a")
    for mark in (Mark.CLAIMED, Mark.IN_DOUBT, Mark.NOT_EXECUTED, Mark.CLAIMED):
        history.add("write", ("a", 0, [(mark, call)]))
    history.add("again", 1)
    assert told(history, call).outcome is None
    history.add("write", ("a", 0, [(Mark.SUCCEEDED, call)]))
    outcome = told(history, call).outcome
    assert outcome is not None
    assert (outcome.mark, outcome.body) == (Mark.SUCCEEDED, b"a5.0")


def test_a_doubt_that_was_found_to_have_run_lasts_until_its_outcome() -> None:
    history, (call, _) = History(GROUP), CALLS
    history.add("promote", "a")
    history.add("write", ("a", 0, [(Mark.CLAIMED, call), (Mark.IN_DOUBT, call), (Mark.EXECUTED, call)]))
    outcome = told(history, call).outcome
    assert outcome is not None
    assert outcome.mark is Mark.IN_DOUBT


def test_in_a_pool_anyone_concludes_and_the_first_one_counts() -> None:
    history, (call, _) = History(POOL), CALLS
    history.add("write", ("b", 0, [(Mark.SUCCEEDED, call)]))
    history.add("write", ("a", 0, [(Mark.FAILED, call)]))
    outcome = told(history, call).outcome
    assert outcome is not None
    assert (outcome.mark, outcome.body) == (Mark.SUCCEEDED, b"b1.0")

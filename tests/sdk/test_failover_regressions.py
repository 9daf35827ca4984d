"""Moments at which a member loses the pen, and what must not be lost with it."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.lifecycles import CallState
from tests.sdk.kit import GROUP, NS, SERVICE, FakeClient, ListLog, a_call
from tests.sdk.member_kit import ListState, MemberRig, active_member, standby_member


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


def suspect(log: ListLog, instance: str) -> None:
    """The router takes an instance for dead, perhaps."""
    event = ev.InstanceSuspected(
        instance=instance, incarnation="1", last_pulse_ns=0, silence_ms=1, decided_by="r"
    )
    log.say(NS.watch(SERVICE, GROUP), event)


# -- a refusal that comes before the record that explains it -------------------------------------------


def refused_before_it_knows(log: ListLog, client: FakeClient) -> MemberRig:
    """`a` runs two calls; `b` is promoted, and the server's refusal comes before that record."""
    member = active_member(log)
    client.send(a_call("put", resource="x"), a_call("put", resource="y"))
    member.read()
    member.finish_start(member.running[0], b"\x01")
    suspect(log, "a")
    log.promote("b", 2)
    assert member.refuse(member.next_frame()) is None
    return member


def test_who_lost_the_pen_does_not_take_it_up_again_under_the_epoch_that_it_lost(
    log: ListLog, client: FakeClient
) -> None:
    member = refused_before_it_knows(log, client)
    running = list(member.running)
    member.read(1)
    assert not member.core.is_active
    assert member.running == running


def test_what_ran_when_the_pen_was_lost_is_too_late_until_the_next_epoch(
    log: ListLog, client: FakeClient
) -> None:
    member = refused_before_it_knows(log, client)
    member.read(1)
    assert not member.finish_start(member.running[0], b"\x02")
    log.promote("a", 3)
    member.read()
    assert member.core.is_active
    assert member.core.running == 2


def test_a_pen_that_was_given_up_is_not_taken_up_again_with_the_next_routing_record(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    client.send(a_call("pay"))
    member.read()
    member.write()
    member.core.retire()
    suspect(log, "a")
    member.read()
    assert not member.core.is_active


# -- outcomes that were not written when the pen went elsewhere ----------------------------------------


@pytest.mark.parametrize("is_in_flight", [True, False])
def test_the_outcome_of_a_once_call_that_the_fence_refused_is_evidence(
    log: ListLog, client: FakeClient, *, is_in_flight: bool
) -> None:
    member, state = active_member(log, state=ListState()), ListState()
    (paid,) = client.send(a_call("pay"))
    member.read()
    member.write_all()
    heir = standby_member(log, state=state)
    member.read()
    member.finish(paid, b"\x07", emitted=[b"e"])
    if is_in_flight:
        member.next_frame()
    log.promote("b", 2)
    member.read()
    (unwritten,) = member.core.take_unwritten()
    assert (unwritten.call.call_id, unwritten.mark, unwritten.body) == (paid, Mark.SUCCEEDED, b"\x07")
    assert member.core.take_unwritten() == []
    heir.read()
    member.testify(paid, unwritten.body, unwritten.mark, unwritten.emitted)
    heir.read()
    said = [mark for mark, call_id in heir.write_all() if call_id == paid]
    assert said == [Mark.IN_DOUBT, Mark.EXECUTED, Mark.EMITTED, Mark.SUCCEEDED]
    assert state.events == [b"e"]


def test_what_is_in_the_log_is_no_evidence_though_its_acknowledgement_was_lost(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (paid,) = client.send(a_call("pay"))
    member.read()
    member.write_all()
    member.finish(paid)
    member.store(member.next_frame())
    log.promote("b", 2)
    member.read()
    assert member.core.take_unwritten() == []


def test_what_may_run_again_and_what_was_said_of_doubts_is_no_evidence(
    log: ListLog, client: FakeClient
) -> None:
    first = active_member(log)
    doubtful, harmless = client.send(a_call("pay"), a_call("put"))
    first.read()
    first.write_all()
    heir = standby_member(log)
    log.promote("b", 2)
    heir.read()
    heir.write_all()
    first.testify(doubtful)
    heir.read()
    heir.finish(harmless)
    assert heir.core.calls.open[doubtful].state is CallState.IN_DOUBT
    log.promote("a", 3)
    heir.read()
    assert heir.core.take_unwritten() == []

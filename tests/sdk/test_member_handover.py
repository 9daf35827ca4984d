"""When a member of an owned group has to hold back: handovers, pauses, quarantine, its own health."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.frames import Mark
from tests.sdk.kit import GROUP, NS, SERVICE, FakeClient, ListLog, a_call, marks
from tests.sdk.member_kit import MemberRig, active_member, standby_member


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


@pytest.fixture
def holder(log: ListLog) -> MemberRig:
    return active_member(log, "a")


def yields(log: ListLog, name: str, epoch: int) -> None:
    """A member says that it is done."""
    log.say(NS.instance(SERVICE, GROUP, name), ev.InstanceYielded(incarnation="1", epoch=epoch, cause="test"))


# -- handover ------------------------------------------------------------------------------------------


def test_from_the_start_of_a_handover_on_the_holder_starts_nothing(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    log.join("b")
    log.hand_over(1, "a", "b")
    client.send(a_call("get"), a_call("pay"), a_call("put", "x"))
    holder.read()
    assert holder.started() == []
    assert holder.core.next_frame() is None
    assert (holder.core.waiting, holder.core.is_active) == (3, True)


def test_the_holder_yields_when_the_running_call_has_ended_and_its_outcome_is_written(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    (call,) = client.send(a_call("get"))
    holder.read()
    log.join("b")
    log.hand_over(1, "a", "b")
    holder.read()
    assert holder.core.to_yield is None
    holder.finish(call)
    assert holder.core.to_yield is None  # nobody else knows the outcome yet
    written = holder.next_frame()
    holder.store(written)
    assert holder.core.to_yield is None
    holder.ack(written)
    assert holder.core.to_yield == 1


def test_a_claim_on_its_way_when_the_handover_starts_is_run_to_its_end(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    (call,) = client.send(a_call("pay"))
    holder.read()
    claim = holder.next_frame()
    holder.store(claim)
    log.join("b")
    log.hand_over(1, "a", "b")
    holder.read()
    assert holder.core.to_yield is None
    holder.ack(claim)
    assert holder.started() == [call]
    holder.finish(call)
    assert marks(holder.write()) == [(Mark.SUCCEEDED, call)]
    assert holder.core.to_yield == 1


def test_it_is_not_yielded_twice(log: ListLog, holder: MemberRig) -> None:
    log.join("b")
    log.hand_over(1, "a", "b")
    holder.read()
    assert holder.core.to_yield == 1
    yields(log, "a", 1)
    holder.read()
    assert holder.core.to_yield is None


def test_nothing_is_yielded_unless_someone_wants_it(log: ListLog, holder: MemberRig) -> None:
    assert holder.core.is_quiet
    assert holder.core.to_yield is None
    log.join("b")
    standby = MemberRig(log, "b")
    log.hand_over(1, "a", "b")
    standby.read()
    assert standby.core.to_yield is None  # it is not its to give


def test_a_frame_refused_by_the_fence_of_a_handover_is_sent_again_under_the_new_one(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    (call,) = client.send(a_call("get"))
    holder.read()
    holder.finish(call)
    written = holder.next_frame()
    log.join("b")
    fence = log.hand_over(1, "a", "b")
    with pytest.raises(WrongSequence):
        holder.store(written)
    again = holder.refuse(written)
    assert again is not None
    assert again.expect is not None
    assert (again.expect.seq, again.payload) == (fence, written.payload)
    holder.store(again)
    holder.ack(again)
    holder.read()
    assert holder.replies == [("c1", (call, Mark.SUCCEEDED, b"\x01"))]
    assert (holder.core.to_yield, holder.core.fenced_frames) == (1, 0)


def test_a_frame_refused_because_a_handover_was_called_off_is_sent_again(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    (call,) = client.send(a_call("get"))
    holder.read()
    holder.finish(call)
    written = holder.next_frame()
    log.join("b")
    log.hand_over(1, "a", "b")
    log.call_off(1)
    again = holder.refuse(written)
    assert again is not None
    holder.store(again)
    holder.ack(again)
    assert holder.core.is_active


def test_a_handover_of_another_epoch_does_not_make_a_refused_frame_ours_to_send(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    (call,) = client.send(a_call("get"))
    holder.read()
    holder.finish(call)
    written = holder.next_frame()
    log.join("b")
    log.promote("b", 2)
    log.hand_over(2, "b", "a")
    assert holder.refuse(written) is None
    assert not holder.core.is_active


def test_when_the_handover_is_called_off_the_holder_goes_on_in_log_order(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    log.join("b")
    log.hand_over(1, "a", "b")
    first, second = client.send(a_call("get", "x"), a_call("get", "x"))
    holder.read()
    log.call_off(1)
    holder.read()
    assert holder.started() == [first]
    holder.finish(first)
    assert holder.started() == [second]
    assert {start.epoch for start in holder.running} == {1}


def test_a_handover_that_is_called_off_after_the_yield_may_be_started_and_yielded_again(
    log: ListLog, holder: MemberRig
) -> None:
    log.join("b")
    log.hand_over(1, "a", "b")
    yields(log, "a", 1)
    log.call_off(1)
    holder.read()
    assert holder.core.to_yield is None
    log.hand_over(1, "a", "b")
    holder.read()
    assert holder.core.to_yield == 1


def test_when_the_other_one_is_promoted_the_holder_steps_down_and_the_heir_has_no_doubts(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    claimed, waits = client.send(a_call("pay", "x"), a_call("pay", "x"))
    holder.read()
    holder.write()
    heir = standby_member(log, "b")
    log.hand_over(1, "a", "b")
    holder.read()
    holder.finish(claimed)
    holder.write()
    assert holder.core.to_yield == 1
    yields(log, "a", 1)
    log.promote("b", 2, kind="planned")
    holder.read()
    heir.read()
    assert (holder.core.is_active, heir.core.is_active) == (False, True)
    assert marks(heir.write()) == [(Mark.CLAIMED, waits)]
    assert heir.started() == [waits]
    assert heir.doubts == []


def test_a_holder_that_yielded_and_is_promoted_again_goes_on(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    log.join("b")
    log.hand_over(1, "a", "b")
    (call,) = client.send(a_call("pay"))
    yields(log, "a", 1)
    log.promote("a", 2, kind="planned")
    holder.read()
    holder.write()
    assert holder.started() == [call]
    assert (holder.core.epoch, holder.core.to_yield) == (2, None)


def test_calls_expire_while_a_handover_takes_its_time(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    log.join("b")
    log.hand_over(1, "a", "b")
    (call,) = client.send(a_call("get", timeout_ms=10))
    holder.read()
    holder.pass_time(10)
    assert holder.core.to_yield is None
    assert marks(holder.write()) == [(Mark.EXPIRED, call)]
    assert holder.core.to_yield == 1


# -- pause, quarantine, health -------------------------------------------------------------------------


def test_a_paused_group_queues_and_expires_and_starts_nothing(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    log.pause()
    kept, expires = client.send(a_call("pay"), a_call("get", timeout_ms=10))
    holder.read()
    holder.pass_time(10)
    assert marks(holder.write()) == [(Mark.EXPIRED, expires)]
    assert (holder.started(), holder.core.waiting) == ([], 1)
    log.resume()
    holder.read()
    assert marks(holder.write()) == [(Mark.CLAIMED, kept)]
    assert holder.started() == [kept]


def test_what_runs_when_the_pause_comes_goes_on_and_the_next_of_its_resource_waits(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    runs, waits = client.send(a_call("get", "x"), a_call("get", "x"))
    holder.read()
    log.pause()
    holder.read()
    assert holder.finish(runs)
    assert holder.started() == []
    assert marks(holder.write()) == [(Mark.SUCCEEDED, runs)]
    log.resume()
    holder.read()
    assert holder.started() == [waits]


def test_a_pause_is_no_reason_to_yield(log: ListLog, holder: MemberRig) -> None:
    log.pause()
    holder.read()
    assert holder.core.to_yield is None


def test_the_heir_of_a_paused_group_says_what_is_in_doubt_and_starts_nothing(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    claimed, waits = client.send(a_call("pay"), a_call("get"))
    holder.read()
    holder.write()
    log.pause()
    log.join("b")
    log.promote("b", 2)
    heir = MemberRig(log, "b")
    heir.read()
    assert marks(heir.write()) == [(Mark.IN_DOUBT, claimed)]
    assert heir.started() == []
    log.resume()
    heir.read()
    assert heir.started() == [waits]


def test_an_instance_in_quarantine_holds_the_pen_and_starts_nothing_until_the_group_resumes(
    log: ListLog, client: FakeClient
) -> None:
    log.join("a", quarantined=True)
    log.promote("a", 1, kind="first")
    holder = MemberRig(log, "a")
    kept, expires = client.send(a_call("get"), a_call("get", timeout_ms=10))
    holder.read()
    assert holder.core.is_active
    holder.pass_time(10)
    assert marks(holder.write()) == [(Mark.EXPIRED, expires)]
    assert holder.started() == []
    log.resume()
    holder.read()
    assert holder.started() == [kept]


def test_a_member_that_is_held_starts_nothing_yields_and_goes_on_when_it_is_released(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    holder.core.hold("its venue is gone")
    (call,) = client.send(a_call("get"))
    holder.read()
    assert holder.started() == []
    assert holder.core.to_yield == 1
    holder.core.release(log.now_ns)
    holder.take()
    assert holder.started() == [call]


def test_releasing_a_member_does_not_start_anything_in_a_paused_group(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    holder.core.hold("ill")
    log.pause()
    client.send(a_call("get"))
    holder.read()
    holder.core.release(log.now_ns)
    holder.take()
    assert holder.started() == []


def test_a_call_that_expired_while_nothing_was_started_is_not_begun_afterwards(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    log.pause()
    (call,) = client.send(a_call("pay", timeout_ms=10))
    holder.read()
    log.now_ns += 10_000_000
    log.resume()
    holder.read()
    assert marks(holder.write()) == [(Mark.EXPIRED, call)]

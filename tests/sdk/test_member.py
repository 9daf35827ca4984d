"""One member of an owned group, driven by hand: given a log, when something happens, what starts, what is
written?
"""

from __future__ import annotations

import pytest

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.sdk.core.pen import MAY_HAVE_STARTED
from aegisipc.sdk.errors import CallExpired
from aegisipc.sdk.outcomes import raise_for_outcome
from tests.sdk.kit import FakeClient, ListLog, a_call, ids, marks
from tests.sdk.member_kit import MemberRig, active_member


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


# -- order and bounds ----------------------------------------------------------------------------------


def test_calls_of_one_resource_run_one_after_another_in_log_order(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    first, second, third = client.send(*[a_call(resource="x")] * 3)
    member.read()
    assert member.started() == [first]
    member.finish(first)
    assert member.started() == [second]
    member.finish(second)
    assert member.started() == [third]


def test_calls_of_different_resources_and_calls_without_one_run_at_once(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    x, y, free, also_free = client.send(
        a_call(resource="x"), a_call(resource="y"), a_call(resource=None), a_call(resource=None)
    )
    member.read()
    assert member.started() == [x, y, free, also_free]


def test_no_more_than_max_running_calls_run_and_the_next_starts_when_one_ends(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, max_running=2)
    one, two, three = client.send(*[a_call()] * 3)
    member.read()
    assert member.started() == [one, two]
    assert member.core.waiting == 1
    member.finish(one)
    assert member.started() == [two, three]


def test_a_claim_takes_a_slot_while_it_is_written(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_running=1)
    client.send(a_call("pay"), a_call("get"))
    member.read()
    member.write()
    assert len(member.started()) == 1
    assert member.core.running == 1


def test_the_queue_of_a_resource_is_forgotten_when_it_is_empty(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    for _ in range(3):
        client.send(a_call(resource="x"))
        member.run_everything()
    assert not member.core.holding.schedule._queues
    assert member.core.is_quiet


# -- expiry --------------------------------------------------------------------------------------------


def test_a_call_that_is_past_its_deadline_when_it_is_read_never_starts(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (late,) = client.send(a_call(timeout_ms=5))
    log.now_ns += 5_000_000
    member.read()
    assert member.started() == []
    assert marks(member.write()) == [(Mark.EXPIRED, late)]


def test_a_call_expires_at_its_deadline_though_the_one_before_it_still_runs(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    slow, waits, after = client.send(
        a_call(resource="x"), a_call(resource="x", timeout_ms=10), a_call(resource="x")
    )
    member.read()
    member.pass_time(10)
    assert marks(member.write()) == [(Mark.EXPIRED, waits)]
    assert member.replies == [("c1", (waits, Mark.EXPIRED, None))]
    member.finish(slow)
    assert member.started() == [after]


def test_a_call_expires_while_all_slots_are_taken(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_running=1)
    slow, waits, after = client.send(a_call(), a_call(timeout_ms=10), a_call())
    member.read()
    member.pass_time(10)
    assert marks(member.write()) == [(Mark.EXPIRED, waits)]
    member.finish(slow)
    assert member.started() == [after]


def test_nothing_expires_before_its_deadline(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_running=1)
    client.send(a_call(), a_call(timeout_ms=10))
    member.read()
    member.pass_time(9.999)
    assert member.write() is None


def test_a_running_call_does_not_expire(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    (call,) = client.send(a_call(timeout_ms=10))
    member.read()
    member.pass_time(1000)
    assert member.write() is None
    assert member.finish(call)


def test_the_next_deadline_is_found_after_one_has_passed(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_running=1)
    _, early, late = client.send(a_call(), a_call(timeout_ms=10), a_call(timeout_ms=20))
    member.read()
    member.pass_time(15)
    assert marks(member.write()) == [(Mark.EXPIRED, early)]
    member.pass_time(5)
    assert marks(member.write()) == [(Mark.EXPIRED, late)]


# -- claims --------------------------------------------------------------------------------------------


def test_a_once_call_starts_only_when_its_claim_is_acknowledged(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("pay"))
    member.read()
    assert member.started() == []
    written = member.core.next_frame()
    assert written is not None
    member.store(written)
    member.read()  # the claim comes back by following before its acknowledgement
    assert member.started() == []
    member.ack(written)
    assert member.started() == [call]
    assert member.replies == []


def test_a_call_whose_claim_is_acknowledged_after_its_deadline_never_starts(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    late, after = client.send(a_call("pay", "x", timeout_ms=10), a_call("get", "x"))
    member.read()
    written = member.core.next_frame()
    assert written is not None
    member.store(written)
    log.now_ns += 10_000_000
    member.ack(written)
    assert member.started() == [after]
    assert marks(member.write()) == [(Mark.FAILED, late)]
    ((_, reply),) = member.replies
    with pytest.raises(CallExpired, match="did not start before its deadline") as caught:
        raise_for_outcome(Outcome(late, Mark(reply[1]), reply[2]), "orders.pay")
    assert caught.value.may_have_started is False


def test_a_call_that_another_holder_may_have_begun_expires_with_that_said(
    log: ListLog, client: FakeClient
) -> None:
    active_member(log, "a")
    once, plain = client.send(a_call("pay", timeout_ms=10), a_call("put", timeout_ms=10))
    log.join("b")
    log.now_ns += 10_000_000
    log.promote("b", 2)
    heir = MemberRig(log, "b")
    heir.read()
    heir.write()
    assert heir.replies == [
        ("c1", (once, Mark.EXPIRED, None)),
        ("c1", (plain, Mark.EXPIRED, MAY_HAVE_STARTED)),
    ]


def test_claims_and_outcomes_share_a_frame(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    done, claimed, also = client.send(a_call("get"), a_call("pay"), a_call("pay"))
    member.read()
    member.finish(done)
    assert marks(member.write()) == [(Mark.CLAIMED, claimed), (Mark.CLAIMED, also), (Mark.SUCCEEDED, done)]
    assert member.started() == [claimed, also]


def test_idempotent_and_pure_calls_and_unknown_methods_start_without_a_claim(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    calls = client.send(a_call("put"), a_call("get"), a_call("nobody_knows_it"))
    member.read()
    assert member.started() == calls
    assert member.write() is None


def test_the_next_once_call_of_a_resource_is_claimed_when_the_one_before_is_done(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    first, second = client.send(a_call("pay", "x"), a_call("pay", "x"))
    member.read()
    assert marks(member.write()) == [(Mark.CLAIMED, first)]
    member.finish(first)
    assert marks(member.write()) == [(Mark.SUCCEEDED, first), (Mark.CLAIMED, second)]


# -- roles ---------------------------------------------------------------------------------------------


def test_a_standby_follows_and_runs_nothing(log: ListLog, client: FakeClient) -> None:
    active_member(log, "a")
    log.join("b")
    standby = MemberRig(log, "b")
    client.send(a_call("get"), a_call("pay"))
    standby.read()
    assert standby.started() == []
    assert standby.core.next_frame() is None
    assert not standby.core.is_active
    assert standby.core.me is not None
    assert standby.core.me.state is InstanceState.STANDBY


def test_a_member_that_is_promoted_runs_the_open_calls_in_log_order(log: ListLog, client: FakeClient) -> None:
    former = active_member(log, "a")
    log.join("b")
    calls = client.send(a_call("get", "x"), a_call("get", "y"), a_call("pay", "z"), a_call("get", "x"))
    former.read()
    heir = MemberRig(log, "b")
    heir.read()
    log.promote("b", 2)
    heir.read()
    assert heir.started() == calls[:2]
    assert marks(heir.write()) == [(Mark.CLAIMED, calls[2])]
    assert {start.epoch for start in heir.running} == {2}
    heir.finish(calls[0])
    assert heir.started()[-1] == calls[3]


def test_a_call_that_was_claimed_under_an_earlier_epoch_is_in_doubt_and_not_started(
    log: ListLog, client: FakeClient
) -> None:
    former = active_member(log, "a")
    claimed, unclaimed = client.send(a_call("pay", "x"), a_call("pay", "x"))
    former.read()
    former.write()
    log.join("b")
    log.promote("b", 2)
    heir = MemberRig(log, "b")
    heir.read()
    assert marks(heir.write()) == [(Mark.IN_DOUBT, claimed), (Mark.CLAIMED, unclaimed)]
    assert heir.started() == [unclaimed]
    assert [(client, reply[:2]) for client, reply in heir.replies] == [("c1", (claimed, Mark.IN_DOUBT))]


def test_a_call_in_doubt_is_not_doubted_again_at_the_next_takeover(log: ListLog, client: FakeClient) -> None:
    former = active_member(log, "a")
    client.send(a_call("pay"))
    former.read()
    former.write()
    for epoch, name in ((2, "b"), (3, "c")):
        log.join(name)
        log.promote(name, epoch)
        heir = MemberRig(log, name)
        heir.read()
        heir.write()
    pens = [record for record in log.records if ".pen." in record.subject]
    assert len(pens) == 2  # the claim and the doubt


def test_a_call_that_expired_between_holders_is_expired_by_the_heir(log: ListLog, client: FakeClient) -> None:
    active_member(log, "a")
    (call,) = client.send(a_call("pay", timeout_ms=10))
    log.join("b")
    log.now_ns += 10_000_000
    log.promote("b", 2)
    heir = MemberRig(log, "b")
    heir.read()
    assert marks(heir.write()) == [(Mark.EXPIRED, call)]


def test_the_promotion_of_another_makes_a_member_stop_and_its_late_outcomes_are_refused(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, "a")
    (call,) = client.send(a_call("get"))
    member.read()
    log.join("b")
    log.promote("b", 2)
    member.read()
    assert not member.core.is_active
    assert member.core.step_downs == 1
    assert not member.finish(call)
    assert member.write() is None


def test_a_vacated_group_has_no_active_member(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    log.vacate(1)
    client.send(a_call("get"))
    member.read()
    assert not member.core.is_active
    assert member.started() == []


def test_a_new_epoch_of_the_same_member_is_a_takeover_from_itself(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    claimed, plain = client.send(a_call("pay"), a_call("get"))
    member.read()
    member.write()
    log.promote("a", 2)
    member.read()
    assert marks(member.write()) == [(Mark.IN_DOUBT, claimed)]
    assert not member.core.on_finished(member.running[0], Mark.SUCCEEDED, b"", log.now_ns)  # of epoch 1
    again = member.running[-1]
    assert (again.call.call_id, again.epoch) == (plain, 2)


def test_a_promotion_of_another_incarnation_of_the_same_id_is_not_mine(log: ListLog) -> None:
    log.join("a", "old")
    log.promote("a", 1, "old")
    log.join("a", "new")
    member = MemberRig(log, "a", incarnation="new")
    member.read()
    assert not member.core.is_active
    assert member.core.me is not None


def test_an_incarnation_that_was_taken_for_lost_is_gone(log: ListLog) -> None:
    member = active_member(log)
    assert member.core.me is not None
    assert member.core.me.is_live
    log.lose("a")
    member.read()
    assert not member.core.me.is_live


# -- the fence -----------------------------------------------------------------------------------------


def test_a_frame_refused_after_a_reaffirmation_is_sent_again_with_the_new_fence(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("get"))
    member.read()
    member.finish(call)
    written = member.core.next_frame()
    log.promote("a", 1)
    assert written is not None
    with pytest.raises(WrongSequence):
        member.store(written)
    again = member.refuse(written)
    assert again is not None
    assert (again.payload, again.record_id) == (written.payload, written.record_id)
    member.store(again)
    member.ack(again)
    assert member.replies == [("c1", (call, Mark.SUCCEEDED, b"\x01"))]
    assert member.core.is_active


def test_a_reaffirmation_that_is_read_moves_the_fence_and_nothing_else(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("pay"))
    member.read()
    member.write()
    log.promote("a", 1)
    member.read()
    assert member.finish(call)
    assert marks(member.write()) == [(Mark.SUCCEEDED, call)]
    assert member.core.step_downs == 0


def test_a_frame_refused_because_another_holds_the_pen_is_dropped_with_everything_else(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    done, runs = client.send(a_call("get"), a_call("get"))
    member.read()
    member.finish(done)
    written = member.core.next_frame()
    log.join("b")
    log.promote("b", 2)
    assert written is not None
    assert member.refuse(written) is None
    assert not member.core.is_active
    assert not member.finish(runs)
    assert member.replies == []
    assert member.write() is None


def test_a_refusal_of_an_earlier_epochs_frame_does_not_cost_the_pen_of_this_one(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("get"))
    member.read()
    member.finish(call)
    written = member.core.next_frame()
    log.promote("a", 2)
    member.read()  # the new epoch is known before the refusal of the old frame
    assert written is not None
    assert member.refuse(written) is None
    assert member.core.is_active
    member.run_everything()
    assert marks_of(log) == [(Mark.SUCCEEDED, call)]


def test_a_claim_acknowledged_after_the_pen_was_lost_starts_nothing(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    client.send(a_call("pay"))
    member.read()
    written = member.core.next_frame()
    assert written is not None
    member.store(written)
    log.join("b")
    log.promote("b", 2)
    member.read()
    member.ack(written)
    assert member.started() == []


def test_a_claim_of_an_earlier_epoch_acknowledged_late_starts_nothing_in_this_one(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("pay"))
    member.read()
    written = member.core.next_frame()
    assert written is not None
    member.store(written)
    log.promote("a", 2)
    member.read()
    member.ack(written)
    assert member.started() == []
    assert marks(member.write()) == [(Mark.IN_DOUBT, call)]


def test_a_member_whose_frame_cannot_be_written_gives_up_the_pen(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("get"))
    member.read()
    member.finish(call)
    assert member.core.next_frame() is not None
    member.core.retire()
    assert not member.core.is_active
    assert member.core.next_frame() is None


# -- frames --------------------------------------------------------------------------------------------


def test_only_one_frame_is_in_flight(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    one, two = client.send(a_call("get"), a_call("get"))
    member.read()
    member.finish(one)
    written = member.core.next_frame()
    member.finish(two)
    assert member.core.next_frame() is None
    assert written is not None
    member.store(written)
    member.ack(written)
    assert marks(member.write()) == [(Mark.SUCCEEDED, two)]


def test_a_frame_holds_what_fits_and_the_rest_goes_into_the_next_one(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, max_frame_bytes=1000)
    calls = client.send(*[a_call("get")] * 5)
    member.read()
    for call in calls:
        member.finish(call, b"x" * 300)
    sizes = []
    while (frame := member.write()) is not None:
        sizes.append(len(frame.entries))
    assert sizes in ([3, 2], [2, 2, 1])
    assert [call for call, *_ in (reply for _, reply in member.replies)] == calls


def test_a_result_over_the_frame_limit_travels_alone(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_frame_bytes=1000)
    small, big = client.send(a_call("get"), a_call("get"))
    member.read()
    member.finish(small)
    member.finish(big, b"x" * 2000)
    assert marks(member.write()) == [(Mark.SUCCEEDED, small)]
    assert marks(member.write()) == [(Mark.SUCCEEDED, big)]


def test_a_frame_holds_4096_entries_at_most(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_running=10_000)
    calls = [call for _ in range(2) for call in client.send(*[a_call("get")] * 2500)]
    member.read()
    for call in calls:
        member.finish(call, b"")
    first, second = member.write(), member.write()
    assert first is not None
    assert second is not None
    assert (len(first.entries), len(second.entries)) == (4096, 904)


@pytest.mark.parametrize("ack_first", [True, False])
def test_its_own_frame_is_folded_the_same_before_and_after_its_acknowledgement(
    log: ListLog, client: FakeClient, ack_first: bool
) -> None:
    member = active_member(log)
    claimed, done = client.send(a_call("pay"), a_call("get"))
    member.read()
    member.finish(done, b"result")
    written = member.core.next_frame()
    assert written is not None
    member.store(written)
    if ack_first:
        member.ack(written)
        member.read()
    else:
        member.read()
        member.ack(written)
    assert list(member.core.calls.open) == [claimed]
    assert member.core.answer([done, claimed]) == [(done, Mark.SUCCEEDED, b"result")]
    assert member.started() == [claimed]


def test_a_frame_that_was_stored_twice_counts_once(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("get"))
    member.read()
    member.finish(call)
    member.write()
    for record in [r for r in log.records if ".pen." in r.subject or ".call." in r.subject]:
        log.append(record.subject, record.payload)
    member.read()
    assert member.started() == []
    assert member.core.calls.anomalies["frame stored twice"] == 2
    assert member.core.calls.concluded[Mark.SUCCEEDED] == 1


def test_an_unreadable_frame_changes_nothing(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    log.append("aegis.t.log.orders.acc.call.c1", b"\xc1 nonsense")
    log.append("aegis.t.log.orders.acc.pen.a", b"\xc1 nonsense")
    (call,) = client.send(a_call("get"))
    member.read()
    assert member.started() == [call]
    assert member.core.calls.anomalies["malformed"] == 2


# -- replies, questions, draining ----------------------------------------------------------------------


def test_outcomes_are_grouped_by_client(log: ListLog) -> None:
    member = active_member(log)
    one, two = FakeClient(log, "one"), FakeClient(log, "two")
    (a,), (b,), (c,) = one.send(a_call()), two.send(a_call()), one.send(a_call())
    member.read()
    for call in (a, b, c):
        member.finish(call)
    written = member.core.next_frame()
    assert written is not None
    found = member.core.replies(written)
    assert {name: [call for call, *_ in outcomes] for name, outcomes in found.items()} == {
        "one": [a, c],
        "two": [b],
    }


def test_a_question_is_answered_for_calls_that_have_an_outcome(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    done, runs = client.send(a_call(), a_call())
    member.read()
    member.finish(done, b"r")
    assert member.core.answer([done]) == []  # not durable yet
    member.write()
    member.read()
    assert member.core.answer([done, runs, b"?" * 16]) == [(done, Mark.SUCCEEDED, b"r")]


def test_a_draining_member_starts_nothing_and_finishes_what_runs(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    runs, claimed = client.send(a_call("get"), a_call("pay"))
    member.read()
    member.core.drain()
    (never,) = client.send(a_call("get"))
    member.read()
    assert not member.core.is_quiet
    member.write()
    assert member.started() == [runs, claimed]  # its claim was on its way: nobody else could run it now
    member.finish(runs)
    member.finish(claimed)
    assert not member.core.is_quiet
    member.write()
    assert list(member.core.calls.open) == [runs, claimed, never]  # it has not read its own frames yet
    assert (member.core.running, member.core.waiting) == (0, 1)
    assert member.core.next_frame() is None


def test_a_call_still_expires_while_its_group_drains(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    member.core.drain()
    (call,) = client.send(a_call("get", timeout_ms=10))
    member.read()
    member.pass_time(10)
    assert marks(member.write()) == [(Mark.EXPIRED, call)]


def marks_of(log: ListLog) -> list[tuple[Mark, bytes]]:
    frames = [decode_pen(record.payload) for record in log.records if ".pen." in record.subject]
    return [pair for frame in frames for pair in zip((m for m, _ in frame.entries), ids(frame), strict=True)]


# -- plain functions, and what piles up ------------------------------------------------------------------


def test_calls_that_wait_for_a_thread_hold_up_no_others_and_take_no_slots(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, max_running=2, threaded=["put"])
    in_thread, waits, quick = client.send(a_call("put"), a_call("put"), a_call("get"))
    member.read()
    assert set(member.started()) == {in_thread, quick}
    member.finish(quick)
    assert member.started() == [in_thread]
    member.finish(in_thread)
    assert member.started() == [waits]


def test_a_call_that_waits_for_a_thread_expires_at_its_deadline(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, threaded=["put"])
    runs, waits = client.send(a_call("put"), a_call("put", timeout_ms=100))
    member.read()
    member.pass_time(150)
    member.finish(runs)
    assert member.started() == []
    written = member.write()
    assert written is not None
    assert marks(written) == [(Mark.EXPIRED, waits), (Mark.SUCCEEDED, runs)]


def test_calls_that_expired_behind_a_stuck_one_are_let_go(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_running=1)
    (stuck,) = client.send(a_call(resource="x"))
    member.read()
    for _ in range(3):
        client.send(*[a_call(resource="x", timeout_ms=50)] * 20, *[a_call(timeout_ms=50)] * 20)
        client.send(a_call(resource="y", timeout_ms=50), a_call(resource="y", timeout_ms=50))
        member.read()
        member.pass_time(100)
        while member.write():
            pass
        member.read()
    core = member.core
    assert member.started() == [stuck]
    assert core.waiting == len(core.calls.open) - 1 == 0
    waiting = [call.call_id for queue in core.holding.schedule._queues.values() for call in queue]
    assert waiting == [stuck]  # it has its turn
    member.finish(stuck)
    (after,) = client.send(a_call(resource="y"))
    member.read()
    assert member.started() == [after]


def test_a_record_that_is_not_ours_is_counted_and_changes_nothing(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    log.append("aegis.t.log.orders.acc.call.a.b", b"x")
    log.append("aegis.t.log.orders.acc.call.\ufffd", b"x")
    (call,) = client.send(a_call())
    member.read()
    assert member.started() == [call]
    assert member.core.calls.anomalies["misplaced"] == 2

"""Calls that may take their instances down: begun alone, and given up in the end."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.core.pen import MAY_HAVE_STARTED
from aegisipc.sdk.core.suspects import MAX_ATTEMPTS, Suspects
from tests.sdk.kit import FakeClient, ListLog, a_call, marks
from tests.sdk.member_kit import MemberRig, active_member


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


class Group:
    """A group whose holder goes down again and again; each heir is a new instance."""

    def __init__(self, log: ListLog, **options: Any) -> None:
        self.log, self.epoch, self.options = log, 1, options
        log.join("i1")
        log.promote("i1", 1, kind="first")
        self.holder = MemberRig(log, "i1", **options)
        self.holder.read()

    def fail_over(self, *, planned: bool = False) -> MemberRig:
        """The holder goes down, and the next instance is promoted."""
        self.epoch += 1
        name = f"i{self.epoch}"
        self.log.join(name)
        self.log.promote(name, self.epoch, kind="planned" if planned else "failover")
        self.holder = MemberRig(self.log, name, **self.options)
        self.holder.read()
        return self.holder


def test_after_one_failover_open_calls_are_run_as_usual(log: ListLog, client: FakeClient) -> None:
    group = Group(log)
    calls = client.send(a_call("get"), a_call("put"), a_call("get"))
    heir = group.fail_over()
    assert heir.started() == calls
    assert heir.core.next_frame() is None


def test_after_two_failovers_they_are_begun_one_at_a_time_each_announced_in_the_log_first(
    log: ListLog, client: FakeClient
) -> None:
    group = Group(log)
    one, two, three = client.send(a_call("get"), a_call("put"), a_call("get"))
    group.fail_over()
    heir = group.fail_over()
    assert heir.started() == []
    for call in (one, two, three):
        written = heir.next_frame()
        assert (Mark.ATTEMPTED, call) in [(fact.mark, fact.call.call_id) for fact in written.facts]
        assert heir.started() == []
        heir.store(written)
        heir.read()
        assert heir.started() == []  # only the acknowledgement counts
        heir.ack(written)
        assert heir.started() == [call]
        heir.finish(call)
    assert marks(heir.write()) == [(Mark.SUCCEEDED, three)]


def test_suspects_do_not_hold_up_calls_that_came_after_the_failovers(
    log: ListLog, client: FakeClient
) -> None:
    group = Group(log)
    suspect, other = client.send(a_call("get"), a_call("get"))
    group.fail_over()
    heir = group.fail_over()
    (fresh,) = client.send(a_call("get"))
    heir.read()
    assert heir.started() == [fresh]
    heir.write()
    assert heir.started() == [fresh, suspect]
    assert heir.core.running == 2  # the other suspect has no slot while it waits
    assert other in heir.core.calls.open


def test_one_that_killed_three_instances_alone_is_given_up_and_the_innocent_succeed(
    log: ListLog, client: FakeClient
) -> None:
    group = Group(log)
    poison, innocent = client.send(a_call("get"), a_call("put"))
    group.fail_over()
    for _ in range(MAX_ATTEMPTS):
        heir = group.fail_over()
        assert marks(heir.write()) == [(Mark.ATTEMPTED, poison)]
        assert heir.started() == [poison]  # and down it goes
    heir = group.fail_over()
    assert marks(heir.write()) == [(Mark.DEAD_LETTERED, poison), (Mark.ATTEMPTED, innocent)]
    assert heir.started() == [innocent]
    heir.finish(innocent)
    heir.write()
    heir.read()
    assert heir.core.calls.open == {}
    told = {call_id: (mark, body) for _, (call_id, mark, body) in heir.replies}
    mark, body = told[poison]
    assert (mark, body is not None) == (Mark.DEAD_LETTERED, True)
    error = decode(body or b"")
    assert (error["code"], error["details"]) == (
        "dead_lettered",
        {
            "attempts": MAX_ATTEMPTS,
            "reason": "poison",
            "method": "get",
            "client": "c1",
            "resource": None,
            "error": None,
            "stack": [],
        },
    )
    assert told[innocent] == (Mark.SUCCEEDED, b"\x01")


def test_an_attempt_that_was_not_durable_does_not_count(log: ListLog, client: FakeClient) -> None:
    group = Group(log)
    (call,) = client.send(a_call("get"))
    group.fail_over()
    for _ in range(MAX_ATTEMPTS + 1):
        group.fail_over().next_frame()  # it goes down before that is stored
    assert group.holder.core.calls.open[call].attempts == 0


def test_planned_promotions_and_reaffirmations_make_no_suspects(log: ListLog, client: FakeClient) -> None:
    group = Group(log)
    (call,) = client.send(a_call("get"))
    group.fail_over()
    for _ in range(3):
        heir = group.fail_over(planned=True)
    log.promote(heir.name, group.epoch)  # said again, so that it does not age out
    heir = group.fail_over(planned=True)
    assert heir.started() == [call]


def test_one_that_was_begun_alone_before_is_begun_alone_after_a_planned_change_too(
    log: ListLog, client: FakeClient
) -> None:
    group = Group(log)
    (call,) = client.send(a_call("get"))
    group.fail_over()
    group.fail_over().write()
    heir = group.fail_over(planned=True)
    assert heir.started() == []
    assert marks(heir.write()) == [(Mark.ATTEMPTED, call)]


def test_calls_claimed_before_they_start_are_no_suspects(log: ListLog, client: FakeClient) -> None:
    group = Group(log)
    one, two = client.send(a_call("pay"), a_call("pay"))
    for _ in range(3):
        heir = group.fail_over()
    assert marks(heir.write()) == [(Mark.CLAIMED, one), (Mark.CLAIMED, two)]
    assert heir.started() == [one, two]


def test_suspects_keep_the_order_of_their_resource(log: ListLog, client: FakeClient) -> None:
    group = Group(log)
    first, other, second = client.send(a_call("get", "x"), a_call("get", "y"), a_call("get", "x"))
    group.fail_over()
    heir = group.fail_over()
    (fresh,) = client.send(a_call("get", "x"))
    heir.read()
    seen = []
    for _ in range(4):
        heir.write()
        (running,) = heir.started()
        seen.append(running)
        heir.finish(running)
    assert seen == [first, other, second, fresh]


def test_a_suspect_expires_while_it_waits_and_lets_go_of_its_resource(
    log: ListLog, client: FakeClient
) -> None:
    group = Group(log)
    runs, waits, behind = client.send(a_call("get"), a_call("get", "x", timeout_ms=50), a_call("pay", "x"))
    group.fail_over()
    heir = group.fail_over()
    heir.write()
    assert heir.started() == [runs]
    heir.pass_time(50)
    assert marks(heir.write()) == [(Mark.EXPIRED, waits), (Mark.CLAIMED, behind)]
    assert heir.replies == [("c1", (waits, Mark.EXPIRED, MAY_HAVE_STARTED))]
    assert heir.started() == [runs, behind]


def test_an_attempt_that_is_durable_only_after_the_deadline_is_not_begun_and_the_next_has_its_turn(
    log: ListLog, client: FakeClient
) -> None:
    group = Group(log)
    late, after = client.send(a_call("get", timeout_ms=50), a_call("get"))
    group.fail_over()
    heir = group.fail_over()
    written = heir.next_frame()
    heir.store(written)
    log.now_ns += 50_000_000
    heir.ack(written)
    assert heir.started() == []
    assert marks(heir.write()) == [(Mark.EXPIRED, late), (Mark.ATTEMPTED, after)]
    assert heir.started() == [after]


def test_no_suspect_is_begun_while_the_group_is_paused(log: ListLog, client: FakeClient) -> None:
    group = Group(log)
    call, expires = client.send(a_call("get"), a_call("get", timeout_ms=50))
    group.fail_over()
    log.pause()
    heir = group.fail_over()
    assert heir.core.next_frame() is None
    heir.pass_time(50)
    assert marks(heir.write()) == [(Mark.EXPIRED, expires)]
    log.resume()
    heir.read()
    assert marks(heir.write()) == [(Mark.ATTEMPTED, call)]


def test_one_that_waits_for_its_turn_waits_for_a_slot_too(log: ListLog, client: FakeClient) -> None:
    group = Group(log, max_running=2)
    first, second = client.send(a_call("get"), a_call("get"))
    group.fail_over()
    heir = group.fail_over()
    heir.write()
    fresh = client.send(*[a_call("get")] * 3)
    heir.read()
    assert heir.started() == [first, fresh[0]]
    heir.finish(first)
    assert heir.core.running == 2
    assert marks(heir.write()) == [(Mark.SUCCEEDED, first), (Mark.ATTEMPTED, second)]
    assert heir.started() == [fresh[0], second]  # before those that came after it


def test_a_plain_function_under_suspicion_needs_a_thread(log: ListLog, client: FakeClient) -> None:
    group = Group(log, threaded=["put"])
    first, second = client.send(a_call("get"), a_call("put"))
    group.fail_over()
    heir = group.fail_over()
    heir.write()
    (fresh,) = client.send(a_call("put"))
    heir.read()
    assert heir.started() == [first, fresh]
    heir.finish(first)
    assert marks(heir.write()) == [(Mark.SUCCEEDED, first)]  # the one thread is taken
    heir.finish(fresh)
    assert marks(heir.write()) == [(Mark.SUCCEEDED, fresh), (Mark.ATTEMPTED, second)]


def test_a_holder_that_loses_the_pen_forgets_its_suspects(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, "a")
    calls = client.send(a_call("get"), a_call("get"))
    log.promote("a", 2)
    log.promote("a", 3)
    member.read()
    member.write()
    assert member.started()[-1] == calls[0]
    log.promote("a", 4)
    member.read()
    assert marks(member.write()) == [(Mark.ATTEMPTED, calls[0])]
    assert member.core.running == 1


def test_what_is_remembered_of_failovers_is_bounded() -> None:
    suspects = Suspects()
    for seq in range(10_000):
        suspects.on_failover(seq)
    assert len(suspects._failovers) == 64

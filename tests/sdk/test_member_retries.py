"""Calls that failed and are run again: when, how often, in which order, and how that ends."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore.bodies import RetryScheduled
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.sdk.core.retries import NEVER_NS
from aegisipc.sdk.retry import Retry
from tests.sdk.kit import FakeClient, ListLog, a_call, marks, ms
from tests.sdk.member_kit import (
    MemberRig,
    active_member,
    said_by,
)

RETRIES = {
    name: Retry(attempts=3, base_s=0.010, factor=2.0, max_s=1.0, jitter=0.0) for name in ("put", "pay", "get")
}


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


def a_member(log: ListLog, name: str = "a", **options: Any) -> MemberRig:
    return active_member(log, name, retries=RETRIES, **options)


def an_heir(log: ListLog, name: str = "b", **options: Any) -> MemberRig:
    log.join(name)
    return MemberRig(log, name, retries=RETRIES, **options)


def the_letter(member: MemberRig, call: CallId) -> dict[str, Any]:
    body = next(
        body for _, (call_id, mark, body) in member.replies if (call_id, mark) == (call, Mark.DEAD_LETTERED)
    )
    error: dict[str, Any] = decode(body or b"")
    assert error["code"] == "dead_lettered"
    details: dict[str, Any] = error["details"]
    return details


def fail_once(member: MemberRig, client: FakeClient, method: str = "put", **options: Any) -> CallId:
    """A call that has failed once, which is in the log."""
    (call,) = client.send(a_call(method, **options))
    member.read()
    member.write_all()
    member.fail(call)
    member.write_all()
    return call


# -- again ---------------------------------------------------------------------------------------------


def test_a_failed_call_is_run_again_when_that_is_in_the_log_and_due(log: ListLog, client: FakeClient) -> None:
    member = a_member(log)
    (call,) = client.send(a_call("put"))
    member.read()
    member.fail(call, "flaky")
    written = member.next_frame()
    assert [(f.mark, f.call.call_id) for f in written.facts] == [(Mark.RETRY_SCHEDULED, call)]
    said = RetryScheduled.model_validate(decode(written.facts[0].body or b""))
    assert (said.attempt, said.due_ns, said.error.code) == (1, log.now_ns + ms(10), "flaky")
    member.pass_time(10)
    assert member.started() == []  # it is due, but not in the log
    member.store(written)
    member.ack(written)
    member.read()
    assert member.started() == [call]
    assert member.replies == []


def test_it_waits_until_it_is_due_longer_each_time_and_its_slot_is_free_meanwhile(
    log: ListLog, client: FakeClient
) -> None:
    member = a_member(log, max_running=1)
    call = fail_once(member, client)
    assert member.core.running == 0
    assert member.core.next_due_ns == log.now_ns + ms(10)
    member.pass_time(9.999)
    assert member.started() == []
    member.pass_time(0.001)
    assert member.started() == [call]
    assert member.core.next_due_ns == NEVER_NS
    member.fail(call)
    member.write_all()
    assert member.core.next_due_ns == log.now_ns + ms(20)
    member.pass_time(20)
    member.finish(call, b"third time")
    assert marks(member.write()) == [(Mark.SUCCEEDED, call)]


def test_chance_places_the_next_attempt(log: ListLog, client: FakeClient) -> None:
    jittery = {"put": Retry(attempts=3, base_s=0.010, jitter=0.5)}
    member = active_member(log, retries=jittery)
    client.send(a_call("put"), a_call("put"))
    member.read()
    for start, random01 in zip(list(member.running), (0.0, 1.0), strict=True):
        member.core.on_finished(start, Mark.FAILED, b"", log.now_ns, again=True, random01=random01)
    frame = member.write()
    assert frame is not None
    dues = [RetryScheduled.model_validate(decode(body or b"")).due_ns - log.now_ns for body in frame.bodies]
    assert dues == [ms(5), ms(15)]


def test_after_the_last_attempt_it_is_a_dead_letter_with_all_there_is_to_know(
    log: ListLog, client: FakeClient
) -> None:
    member = a_member(log)
    call = fail_once(member, client, resource="x")
    for _ in range(2):
        member.pass_time(100)
        member.fail(call, "still_broken")
        member.write_all()
    assert the_letter(member, call) == {
        "attempts": 3,
        "reason": "attempts",
        "method": "put",
        "client": "c1",
        "resource": "x",
        "error": {"code": "still_broken", "message": "it broke", "details": {}},
        "stack": ["here"],
    }
    assert ".dead.a" in log.records[-1].subject
    assert member.core.calls.open == {}


def test_if_the_next_attempt_would_come_too_late_it_is_given_up_at_once(
    log: ListLog, client: FakeClient
) -> None:
    member = a_member(log)
    (call,) = client.send(a_call("put", timeout_ms=10))
    member.read()
    member.fail(call)
    member.write_all()
    details = the_letter(member, call)
    assert (details["reason"], details["attempts"], details["error"]["code"]) == ("deadline", 1, "broken")


def test_a_method_without_a_policy_and_an_error_that_is_an_answer_fail_as_ever(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, retries={"put": RETRIES["put"]})
    get, put = client.send(a_call("get"), a_call("put"))
    member.read()
    member.fail(get)
    member.finish(put, b"\xa0", Mark.FAILED)
    assert marks(member.write()) == [(Mark.FAILED, get), (Mark.FAILED, put)]


def test_frames_about_dead_letters_stand_apart_and_the_others_do_not(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, retries={"put": Retry(attempts=1)}, max_frame_bytes=64)
    one, two, three = client.send(a_call("get"), a_call("put"), a_call("get"))
    member.read()
    member.finish(one)
    member.fail(two)
    member.finish(three)
    told = member.write_all()
    assert told == [(Mark.SUCCEEDED, one), (Mark.DEAD_LETTERED, two), (Mark.SUCCEEDED, three)]
    kinds = [r.subject.split(".")[5] for r in log.records if ".pen." in r.subject or ".dead." in r.subject]
    assert kinds == ["pen", "dead", "pen"]


# -- order ---------------------------------------------------------------------------------------------


def test_nothing_of_its_resource_overtakes_a_call_that_is_run_again(log: ListLog, client: FakeClient) -> None:
    member = a_member(log)
    first, second, other = client.send(a_call("put", "x"), a_call("put", "x"), a_call("put", "y"))
    member.read()
    member.fail(first)
    member.write_all()
    assert member.started() == [other]
    member.pass_time(10)
    assert member.started() == [other, first]
    member.finish(first)
    assert member.started() == [other, second]


@pytest.mark.parametrize("method", ["put", "pay"])
def test_nothing_overtakes_it_after_a_takeover_either(log: ListLog, client: FakeClient, method: str) -> None:
    former = a_member(log)
    first, second = client.send(a_call(method, "x"), a_call("get", "x"))
    former.read()
    former.write_all()
    former.fail(first)
    former.write_all()
    heir = an_heir(log)
    log.promote("b", 2)
    heir.read()
    assert heir.started() == []
    assert heir.core.running == 0
    assert heir.core.next_frame() is None
    heir.pass_time(10)
    heir.write_all()
    assert heir.started() == [first]
    heir.finish(first)
    assert heir.started() == [second]


def test_one_that_waits_for_an_attempt_comes_before_one_whose_doubt_has_ended(
    log: ListLog, client: FakeClient
) -> None:
    first = a_member(log)
    doubted, failed = client.send(a_call("pay", "x"), a_call("put", "x"))
    first.read()
    first.write_all()
    second = an_heir(log)
    log.promote("b", 2)
    second.read()
    second.write_all()
    second.fail(failed)
    second.core.doubts.not_executed(doubted, said_by())
    second.write()
    third = an_heir(log, "c")
    log.promote("c", 3, kind="planned")
    third.read()
    third.pass_time(10)
    assert third.started() == [failed]
    third.finish(failed)
    assert (Mark.CLAIMED, doubted) in third.write_all()


# -- once ----------------------------------------------------------------------------------------------


def test_a_once_call_is_claimed_anew_for_each_attempt(log: ListLog, client: FakeClient) -> None:
    member = a_member(log)
    call = fail_once(member, client, "pay")
    assert member.core.calls.open[call].state is CallState.RETRY_WAIT
    member.pass_time(10)
    assert member.started() == []
    assert marks(member.write()) == [(Mark.CLAIMED, call)]
    assert member.started() == [call]


def test_a_once_call_is_in_doubt_if_its_holder_is_lost_in_an_attempt_and_goes_on_counting_if_it_did_not_run(
    log: ListLog, client: FakeClient
) -> None:
    former = a_member(log)
    call = fail_once(former, client, "pay")
    former.pass_time(10)
    former.write_all()
    heir = an_heir(log)
    log.promote("b", 2)
    heir.read()
    assert marks(heir.write()) == [(Mark.IN_DOUBT, call)]
    heir.core.doubts.not_executed(call, said_by())
    heir.write_all()
    assert heir.started() == [call]
    heir.fail(call)
    frame = heir.write()
    assert frame is not None
    assert RetryScheduled.model_validate(decode(frame.bodies[0] or b"")).attempt == 2


def test_an_attempt_that_was_not_written_before_the_pen_was_lost_is_evidence_of_how_it_failed(
    log: ListLog, client: FakeClient
) -> None:
    member = a_member(log)
    retried, buried = client.send(a_call("pay"), a_call("pay", timeout_ms=10))
    member.read()
    member.write_all()
    member.fail(retried, "flaky")
    member.fail(buried, "broken")
    log.promote("b", 2)
    member.read()
    left = member.core.take_unwritten()
    assert [(u.call.call_id, u.mark) for u in left] == [(retried, Mark.FAILED), (buried, Mark.FAILED)]
    assert [decode(u.body or b"")["code"] for u in left] == ["flaky", "broken"]


# -- takeovers and time --------------------------------------------------------------------------------


def test_an_heir_gives_up_what_its_deadline_passed_while_it_waited(log: ListLog, client: FakeClient) -> None:
    former = a_member(log)
    call = fail_once(former, client, timeout_ms=50)
    log.now_ns += ms(50)
    heir = an_heir(log)
    log.promote("b", 2)
    heir.read()
    heir.write_all()
    details = the_letter(heir, call)
    assert (details["reason"], details["attempts"], details["error"]) == ("deadline", 1, None)


@pytest.mark.parametrize("is_folded", [True, False])
def test_one_whose_deadline_passes_while_nothing_may_start_is_given_up(
    log: ListLog, client: FakeClient, is_folded: bool
) -> None:
    member = a_member(log)
    (call, behind) = client.send(a_call("put", "x", timeout_ms=50), a_call("put", "x"))
    member.read()
    member.fail(call)
    if is_folded:
        member.write_all()
    log.pause()
    member.read()
    member.pass_time(50)
    assert member.core.next_due_ns == NEVER_NS  # no use in waking up for it
    member.write_all()
    details = the_letter(member, call)
    assert (details["reason"], details["attempts"], details["error"]["code"]) == ("deadline", 1, "broken")
    log.resume()
    member.read()
    assert member.started() == [behind]


def test_a_due_call_waits_for_a_slot_and_comes_before_new_ones(log: ListLog, client: FakeClient) -> None:
    member = a_member(log, max_running=1)
    call = fail_once(member, client)
    runs, waits = client.send(a_call("get"), a_call("get"))
    member.read()
    member.pass_time(10)
    assert member.started() == [runs]
    member.finish(runs)
    assert member.started() == [call]
    member.finish(call)
    assert member.started() == [waits]


def test_a_due_call_that_needs_a_thread_does_not_hold_up_one_that_does_not(
    log: ListLog, client: FakeClient
) -> None:
    member = a_member(log, threaded=["put"])
    threaded = fail_once(member, client, "put")
    plain = fail_once(member, client, "get")
    (busy,) = client.send(a_call("put"))
    member.read()
    member.pass_time(10)
    assert member.started() == [busy, plain]
    member.finish(busy)
    assert member.started() == [plain, threaded]


def test_who_loses_the_pen_forgets_what_waited(log: ListLog, client: FakeClient) -> None:
    member = a_member(log)
    call = fail_once(member, client)
    log.promote("a", 2, kind="planned")
    member.read()
    member.pass_time(10)
    assert member.started() == [call]
    assert [start.epoch for start in member.running] == [2]


def test_a_suspect_that_fails_is_run_again_and_its_failures_are_no_poison(
    log: ListLog, client: FakeClient
) -> None:
    policy = {"put": Retry(attempts=9, base_s=0.001, factor=1.0, jitter=0.0)}
    log.join("a")
    log.promote("a", 1)
    suspect, other = client.send(a_call("put"), a_call("put"))
    log.join("b")
    log.promote("a", 2)
    log.promote("b", 3)
    member = MemberRig(log, "b", retries=policy)
    member.read()
    member.write_all()
    assert member.started() == [suspect]
    member.fail(suspect)
    member.write_all()
    assert member.started() == [other]  # meanwhile the next one has its turn
    member.finish(other)
    member.write_all()
    member.pass_time(1)
    for _ in range(7):
        member.write_all()
        assert member.started() == [suspect]
        member.fail(suspect)
        member.write_all()
        member.pass_time(1)
    member.write_all()
    member.finish(suspect)
    assert marks(member.write()) == [(Mark.SUCCEEDED, suspect)]

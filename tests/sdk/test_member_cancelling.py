"""Calls that somebody wants cancelled: what becomes of them, wherever they are at that moment."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, PenFrame
from aegisipc.eventstore.keys import key_hash
from aegisipc.sdk.retry import Retry
from tests.sdk.kit import FakeClient, ListLog, a_call, marks
from tests.sdk.member_kit import (
    MemberRig,
    active_member,
    ask_to_cancel,
    said_by,
    send_keyed,
    standby_member,
)


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


def details(frame: PenFrame | None, at: int = -1) -> dict[str, Any]:
    assert frame is not None
    error = decode(frame.bodies[at] or b"")
    assert error["code"] == "cancelled"
    found: dict[str, Any] = error["details"]
    return found


def test_a_call_that_waits_is_cancelled_at_once_and_never_starts(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    runs, waits, behind = client.send(*[a_call("put", "x")] * 3)
    member.read()
    ask_to_cancel(log, waits, author="ann", reason="changed my mind")
    member.read()
    frame = member.write()
    assert marks(frame) == [(Mark.CANCELLED, waits)]
    assert details(frame) == {"started": False, "author": "ann", "reason": "changed my mind"}
    member.finish(runs)
    assert member.started() == [behind]
    assert member.cancels == []


def test_one_that_waits_for_a_slot_is_cancelled_while_the_group_is_paused(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    log.pause()
    (call,) = client.send(a_call("pay"))
    ask_to_cancel(log, call)
    member.read()
    assert marks(member.write()) == [(Mark.CANCELLED, call)]
    log.resume()
    member.read()
    assert member.core.next_frame() is None


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("method", ["pay", "put"])
def test_one_that_waits_for_the_log_is_cancelled_when_that_is_settled(
    log: ListLog, client: FakeClient, method: str, key: str | None
) -> None:
    if (method, key) == ("put", None):
        return  # it waits for nothing
    member = active_member(log)
    (call, behind) = send_keyed(client, (a_call(method, "x"), key), (a_call("get", "x"), None))
    member.read()
    written = member.next_frame()
    ask_to_cancel(log, call)
    member.read()
    assert member.started() == []
    member.store(written)
    member.ack(written)
    assert member.started() == [behind]
    frame = member.write()
    released = [(Mark.RELEASED, call)] if key is not None else []
    assert marks(frame) == [*released, (Mark.CANCELLED, call)]
    assert details(frame)["started"] is False
    member.read()
    assert call not in member.core.calls.open
    assert member.core.calls.keys is not None
    assert member.core.calls.keys.find(key_hash("k")) is None


def test_a_running_call_is_given_to_its_host_once_and_ends_as_its_handler_does(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("put"))
    member.read()
    ask_to_cancel(log, call)
    ask_to_cancel(log, call, author="c2")
    member.read()
    assert member.cancels == [call]
    assert member.core.next_frame() is None
    member.finish(call, b"too quick for you")
    assert marks(member.write()) == [(Mark.SUCCEEDED, call)]


def test_a_call_that_was_not_begun_yet_by_its_host_is_not_begun(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    (call, behind) = client.send(a_call("put", "x"), a_call("put", "x"))
    ask_to_cancel(log, call)
    for record in log.records[member.position :]:  # the host reads both before it starts anything
        member.core.on_record(record, log.now_ns)
    assert [start.call.call_id for start in member.core.take_starts()] == [behind]
    assert marks(member.write()) == [(Mark.CANCELLED, call)]


def test_a_cancelled_call_that_fails_is_not_run_again(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, retries={"put": Retry(attempts=3)})
    (call,) = client.send(a_call("put"))
    member.read()
    ask_to_cancel(log, call)
    member.read()
    member.fail(call)
    assert marks(member.write()) == [(Mark.FAILED, call)]


@pytest.mark.parametrize("is_folded", [True, False])
@pytest.mark.parametrize("method", ["put", "pay"])
def test_one_that_waits_for_another_attempt_is_cancelled_and_keeps_its_key_because_it_ran(
    log: ListLog, client: FakeClient, is_folded: bool, method: str
) -> None:
    member = active_member(log, retries={method: Retry(attempts=3)})
    call, behind = send_keyed(client, (a_call(method, "x"), "k"), (a_call("get", "x"), None))
    member.read()
    member.write_all()
    member.fail(call)
    if is_folded:
        member.write_all()
    ask_to_cancel(log, call)
    member.read()
    assert member.started() == [behind]
    frame = member.write()
    before = [] if is_folded else [(Mark.RETRY_SCHEDULED, call)]
    assert marks(frame) == [*before, (Mark.CANCELLED, call)]
    assert details(frame)["started"] is True
    member.pass_time(1000)
    assert member.started() == [behind]
    member.read()
    (same,) = send_keyed(client, (a_call(method, "x"), "k"))
    member.finish(behind)
    member.read()
    assert (Mark.DUPLICATE, same) in member.write_all()


def test_a_suspect_that_waits_for_its_turn_is_cancelled(log: ListLog, client: FakeClient) -> None:
    log.join("a")
    log.promote("a", 1)
    runs, waits, behind = client.send(a_call("get"), a_call("get", "x"), a_call("pay", "x"))
    log.join("b")
    log.promote("a", 2)
    log.promote("b", 3)
    member = MemberRig(log, "b")
    member.read()
    member.write()
    assert member.started() == [runs]
    ask_to_cancel(log, waits)
    member.read()
    frame = member.write()
    assert marks(frame) == [(Mark.CANCELLED, waits), (Mark.CLAIMED, behind)]
    assert details(frame, 0)["started"] is True  # a former holder may have begun it
    member.finish(runs)
    member.write_all()
    assert waits not in member.started()


def test_a_call_in_doubt_is_cancelled_if_it_is_found_that_it_did_not_run(
    log: ListLog, client: FakeClient
) -> None:
    former = active_member(log, "a")
    ran, did_not = send_keyed(client, (a_call("pay"), "k"), (a_call("pay"), "l"))
    former.read()
    former.write()
    heir = standby_member(log, "b")
    log.promote("b", 2)
    heir.read()
    ask_to_cancel(log, ran, did_not)
    heir.read()
    heir.write_all()
    assert {ran, did_not} <= set(heir.core.calls.open)
    assert heir.cancels == []
    heir.core.doubts.executed(ran, Mark.SUCCEEDED, b"\x01", said_by())
    heir.core.doubts.not_executed(did_not, said_by())
    told = heir.write_all()
    assert told == [
        (Mark.EXECUTED, ran),
        (Mark.SUCCEEDED, ran),
        (Mark.NOT_EXECUTED, did_not),
        (Mark.RELEASED, did_not),
        (Mark.CANCELLED, did_not),
    ]
    assert heir.started() == []


def test_an_heir_cancels_what_waits_and_what_waits_for_an_attempt_and_doubts_what_was_claimed(
    log: ListLog, client: FakeClient
) -> None:
    former = active_member(log, "a", retries={"put": Retry(attempts=3)})
    claimed, retrying = client.send(a_call("pay"), a_call("put"))
    former.read()
    former.write_all()
    former.fail(retrying)
    former.write_all()
    once, plain = client.send(a_call("pay"), a_call("put"))
    ask_to_cancel(log, claimed, retrying, once, plain)
    heir = standby_member(log, "b")
    log.promote("b", 2)
    heir.read()
    frame = heir.write()
    assert marks(frame) == [
        (Mark.IN_DOUBT, claimed),
        (Mark.CANCELLED, retrying),
        (Mark.CANCELLED, once),
        (Mark.CANCELLED, plain),
    ]
    assert [details(frame, at)["started"] for at in (1, 2, 3)] == [True, False, True]
    heir.read()
    assert heir.started() == []


def test_after_an_outcome_and_for_unknown_calls_it_changes_nothing(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("put"))
    member.run_everything()
    ask_to_cancel(log, call, b"x" * 16)
    member.read()
    assert member.core.next_frame() is None
    assert member.cancels == []


def test_a_standby_cancels_nothing(log: ListLog, client: FakeClient) -> None:
    active_member(log, "a")
    standby = standby_member(log, "b")
    (call,) = client.send(a_call("put"))
    ask_to_cancel(log, call)
    standby.read()
    assert standby.core.next_frame() is None
    assert standby.cancels == []


def test_an_unwritten_cancellation_of_a_claimed_call_is_evidence(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    (call,) = client.send(a_call("pay"))
    member.read()
    written = member.next_frame()
    member.store(written)
    ask_to_cancel(log, call)
    member.read()
    member.ack(written)
    log.promote("b", 2)
    member.read()
    (left,) = member.core.take_unwritten()
    assert (left.call.call_id, left.mark, decode(left.body or b"")["code"]) == (
        call,
        Mark.FAILED,
        "cancelled",
    )

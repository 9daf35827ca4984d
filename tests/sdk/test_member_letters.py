"""Dead letters that operators let run again."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.retry import Retry
from tests.sdk.kit import FakeClient, ListLog, a_call, marks, ms
from tests.sdk.member_kit import (
    MemberRig,
    active_member,
    ask_to_cancel,
    requeue,
    send_keyed,
    standby_member,
)


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


def a_dead_letter(
    log: ListLog, client: FakeClient, method: str = "put", key: str | None = None, **options: Any
) -> tuple[MemberRig, CallId]:
    member = active_member(log, retries={method: Retry(attempts=1)}, **options)
    (call,) = send_keyed(client, (a_call(method, "x"), key))
    member.read()
    member.write_all()
    member.fail(call)
    member.write_all()
    assert call not in member.core.calls.open
    return member, call


def letter_call(client: FakeClient, log: ListLog, call: CallId) -> OpenCall:
    record = next(r for r in log.records if ".call." in r.subject)
    frame = decode_calls(record.payload)
    entry = next(entry for entry in frame.entries if entry.call_id == call)
    found = OpenCall(call, client.name, entry.method, entry.resource, record.seq, 0, frame.bodies[0])
    found.key = entry.options.key if entry.options is not None else None
    return found


@pytest.mark.parametrize("method", ["put", "pay"])
def test_a_requeued_letter_runs_again_with_its_attempts_begun_anew_once_that_is_in_the_log(
    log: ListLog, client: FakeClient, method: str
) -> None:
    member, call = a_dead_letter(log, client, method)
    requeue(member, letter_call(client, log, call), timeout_ms=500)
    written = member.next_frame()
    assert written.kind == "dead"
    member.store(written)
    member.ack(written)
    assert member.started() == []
    member.read()
    member.write_all()
    assert member.started() == [call]
    (start,) = member.running
    assert (start.call.client, start.call.body, start.call.resource) == ("c1", a_call()[3], "x")
    assert start.call.deadline_ns == log.now_ns + ms(500)
    assert member.core.answer([call]) == []
    member.finish(call, b"at last")
    member.write_all()
    assert member.core.answer([call]) == [(call, Mark.SUCCEEDED, b"at last")]


def test_a_requeued_letter_keeps_its_key_and_others_stay_its_duplicates(
    log: ListLog, client: FakeClient
) -> None:
    member, call = a_dead_letter(log, client, key="k")
    (same,) = send_keyed(client, (a_call("put", "x"), "k"))
    member.read()
    member.write_all()
    requeue(member, letter_call(client, log, call))
    member.write_all()
    assert member.started() == [call]
    (later,) = send_keyed(client, (a_call("put", "x"), "k"))
    member.finish(call)
    member.read()
    member.write_all()
    duplicates = {call_id: body for _, (call_id, mark, body) in member.replies if mark == Mark.DUPLICATE}
    assert duplicates == {same: call, later: call}


def test_a_requeued_letter_that_comes_too_late_is_a_dead_letter_again_and_keeps_its_key(
    log: ListLog, client: FakeClient
) -> None:
    member, call = a_dead_letter(log, client, "pay", key="k")
    log.pause()
    requeue(member, letter_call(client, log, call), timeout_ms=50)
    member.write_all()
    member.pass_time(50)
    told = member.write_all()
    assert told == [(Mark.DEAD_LETTERED, call)]
    last = decode_pen(log.records[-1].payload)
    assert decode(last.bodies[0] or b"")["details"]["reason"] == "deadline"
    log.resume()
    (again,) = send_keyed(client, (a_call("pay", "x"), "k"))
    member.read()
    assert (Mark.DUPLICATE, again) in member.write_all()


def test_a_claim_of_a_requeued_letter_that_comes_too_late_makes_it_a_dead_letter_again(
    log: ListLog, client: FakeClient
) -> None:
    member, call = a_dead_letter(log, client, "pay", key="k")
    requeue(member, letter_call(client, log, call), timeout_ms=50)
    member.write()
    member.read()
    written = member.next_frame()
    member.store(written)
    log.now_ns += ms(50)
    member.ack(written)
    assert member.write_all() == [(Mark.DEAD_LETTERED, call)]


def test_a_requeued_letter_that_is_cancelled_may_have_run_before(log: ListLog, client: FakeClient) -> None:
    member, call = a_dead_letter(log, client, key="k")
    log.pause()
    requeue(member, letter_call(client, log, call))
    member.write_all()
    ask_to_cancel(log, call)
    member.read()
    frame = member.write()
    assert marks(frame) == [(Mark.CANCELLED, call)]  # and its key is not free
    assert frame is not None
    assert decode(frame.bodies[0] or b"")["details"]["started"] is True


def test_a_requeued_letter_survives_its_holder(log: ListLog, client: FakeClient) -> None:
    member, call = a_dead_letter(log, client, key="k")
    log.pause()
    requeue(member, letter_call(client, log, call))
    member.write_all()
    heir = standby_member(log, "b")
    log.promote("b", 2)
    log.resume()
    heir.read()
    assert heir.started() == [call]
    assert heir.core.calls.open[call].is_requeued

"""Calls of a pool that run again, or not at all: retries, dead letters that come back, requests to cancel."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore.bodies import ErrorInfo, Requeued
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import CallFrame, CallOptions, Mark, PenFrame, encode_calls
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.subjects import DEAD
from aegisipc.sdk.core.pool_cancels import MAX_REMEMBERED, Cancels
from aegisipc.sdk.core.pool_facts import Known, after
from aegisipc.sdk.core.pool_resolving import Resolved
from aegisipc.sdk.core.pool_words import About, cancelled_body, requeued_body, retry_body
from tests.sdk.kit import NS, POOL, SERVICE, FakeClient, ListLog, a_call, ids, marks, ms, stored_frame
from tests.sdk.pool_kit import (
    BY_OPERATOR,
    WorkerRig,
    cancel,
    pool_client,
    pool_log,
    requeue_frame,
    stored_with,
    worker,
)


@pytest.fixture
def log() -> ListLog:
    return pool_log("w1", "w2", "w3")


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return pool_client(log)


def begun(
    log: ListLog, client: FakeClient, rig: WorkerRig, method: str = "put", timeout_ms: int = 10_000
) -> tuple[CallId, int, CallFrame]:
    """A call that runs."""
    seq, frame = stored_frame(log, client, a_call(method, timeout_ms=timeout_ms))
    rig.hand(seq, frame, f"t{seq}")
    rig.write()
    assert rig.started() == ids(frame)
    return ids(frame)[0], seq, frame


def body_of(frame: PenFrame | None, mark: Mark) -> Any:
    assert frame is not None
    return next(
        decode(body or b"")
        for entry, body in zip(frame.entries, frame.bodies, strict=True)
        if entry.mark is mark
    )


# -- retries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["put", "pay"])
def test_a_call_that_failed_waits_without_a_slot_and_runs_again_when_it_is_due(
    log: ListLog, client: FakeClient, method: str
) -> None:
    rig = worker(log)
    call, _, _ = begun(log, client, rig, method)
    rig.fail(call, ms(50))
    written = rig.write()
    assert marks(written) == [(Mark.RETRY_SCHEDULED, call)]
    said = body_of(written, Mark.RETRY_SCHEDULED)
    assert (said["attempt"], said["due_ns"], said["error"]["code"]) == (1, log.now_ns + ms(50), "busy")
    assert (rig.core.running, rig.core.waiting, rig.acks) == (0, 0, [])
    log.now_ns += ms(49)
    rig.core.on_tick(log.now_ns)
    assert rig.write() is None
    log.now_ns += ms(1)
    rig.core.on_tick(log.now_ns)
    rig.write()
    rig.take()
    assert rig.started() == [call]
    assert rig.core.tries(call) == 1
    rig.finish(call)
    rig.write()
    assert len(rig.acks) == 1


def test_after_the_last_attempt_a_call_is_a_dead_letter(log: ListLog, client: FakeClient) -> None:
    rig = worker(log)
    call, _, _ = begun(log, client, rig, "pay")
    rig.fail(call, None)
    frame = rig.next_frame()
    assert frame is not None
    assert frame.kind == DEAD
    letter = body_of(rig.land(frame), Mark.DEAD_LETTERED)
    rig.read()
    details = letter["details"]
    assert letter["code"] == "dead_lettered"
    assert (details["attempts"], details["reason"], details["method"]) == (1, "attempts", "pay")
    assert (details["error"]["code"], details["stack"]) == ("busy", ["here"])
    assert rig.replies[0][:2] == (call, Mark.DEAD_LETTERED)
    assert rig.core.is_quiet
    assert len(rig.acks) == 1


def test_a_call_whose_next_attempt_would_come_too_late_is_a_dead_letter(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    call, _, _ = begun(log, client, rig, timeout_ms=100)
    rig.fail(call, ms(100))
    assert body_of(rig.write(), Mark.DEAD_LETTERED)["details"]["reason"] == "deadline"


def test_a_call_that_finds_no_slot_before_its_deadline_after_it_failed_is_a_dead_letter(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log, max_running=1)
    call, _, _ = begun(log, client, rig, timeout_ms=100)
    rig.fail(call, ms(50))
    rig.write()
    begun(log, client, rig)
    log.now_ns += ms(100)
    rig.core.on_tick(log.now_ns)
    details = body_of(rig.write(), Mark.DEAD_LETTERED)["details"]
    assert (details["reason"], details["attempts"]) == ("deadline", 1)


def test_a_call_that_waits_for_its_next_attempt_does_so_at_another_worker_too(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    call, seq, frame = begun(log, client, one, "pay")
    one.fail(call, ms(50))
    one.write()
    log.lose("w1", group=POOL)
    two.read()
    two.hand(seq, frame, "t2", is_suspect=True)
    assert two.store() is None
    log.now_ns += ms(50)
    two.core.on_tick(log.now_ns)
    assert marks(two.write()) == [(Mark.CLAIMED, call)]
    assert two.core.tries(call) == 1


def test_a_worker_that_drains_gives_back_what_only_waits_for_its_next_attempt(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    call, seq, _ = begun(log, client, rig)
    rig.core.drain()
    rig.fail(call, ms(50))
    rig.write()
    assert rig.naks == [f"t{seq}"]
    assert rig.core.is_quiet


def test_a_retry_counts_only_of_the_next_attempt_and_of_the_claim_that_it_names() -> None:
    error = ErrorInfo(code="x", message="x")
    claim = Known(Mark.CLAIMED, "w1", 7)
    tried = after(claim, Mark.RETRY_SCHEDULED, retry_body(1, 99, error, 7), "w1", 8)
    assert tried is not None
    assert (tried.tries, tried.due_ns) == (1, 99)
    for body in (
        retry_body(1, 99, error, 0),
        retry_body(1, 99, error, 6),
        retry_body(2, 99, error, 7),
        b"\x90",
    ):
        assert after(claim, Mark.RETRY_SCHEDULED, body, "w1", 8) is None
    assert after(tried, Mark.RETRY_SCHEDULED, retry_body(1, 99, error, 0), "w1", 9) is None
    assert after(tried, Mark.RETRY_SCHEDULED, retry_body(2, 99, error, 0), "w1", 9) is not None


def test_a_suspect_that_failed_in_order_is_none_any_more(log: ListLog, client: FakeClient) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("put"))
    (call,) = ids(frame)
    rig.hand(seq, frame, is_suspect=True)
    assert marks(rig.write()) == [(Mark.ATTEMPTED, call)]
    rig.fail(call, 0)
    assert marks(rig.write()) == [(Mark.RETRY_SCHEDULED, call)]
    assert rig.started() == [call]


# -- dead letters ----------------------------------------------------------------------------------------


def dead(
    log: ListLog, client: FakeClient, rig: WorkerRig, method: str = "put"
) -> tuple[CallId, CallFrame, int]:
    """A dead letter: its id, its frame, and where the word stands."""
    call, _, frame = begun(log, client, rig, method)
    rig.fail(call, None)
    rig.write()
    return call, frame, len(log.records)


def again(rig: WorkerRig, frame: CallFrame, letter: int, number: int = 1, token: str = "t99") -> None:
    """It is to run again, and this worker is handed its frame."""
    stored = requeue_frame(frame, letter, number)
    seq = rig.log.append(NS.call(SERVICE, POOL, "w1"), encode_calls(stored))
    record = Record(seq, NS.call(SERVICE, POOL, "w1"), b"", rig.log.now_ns)
    call_id = stored.entries[0].call_id
    look_up = rig.core.facts.look_up({call_id}, {call_id: letter})
    for found in rig.log.records[letter:]:
        place = NS.parse(found.subject)
        if place.kind in ("pen", "dead"):
            look_up.read(found, place.who)
    known = rig.core.facts.finish(look_up)
    rig.core.on_frame(token, record, stored, known, rig.log.now_ns, is_again=True)
    rig.take()


@pytest.mark.parametrize("method", ["put", "pay"])
def test_a_dead_letter_runs_again_after_the_word_that_it_does_came_back(
    log: ListLog, client: FakeClient, method: str
) -> None:
    one, two = worker(log), worker(log, "w2")
    call, frame, letter = dead(log, client, one, method)
    again(two, frame, letter)
    assert two.started() == []
    written = two.write()
    assert marks(written) == [(Mark.REQUEUED, call)]
    said = body_of(written, Mark.REQUEUED)
    assert (said["author"], said["reason"], said["dead_seq"], said["call"]) == ("ann", "mended", letter, None)
    two.write()
    assert two.started() == [call]
    assert two.running[0].call.body == frame.bodies[0]
    assert two.core.tries(call) == 0
    two.finish(call, b"r")
    two.write()
    assert two.replies[-1] == (call, Mark.SUCCEEDED, b"r")
    assert two.acks == ["t99"]
    one.read()
    assert one.core.answer([call]) == [(call, Mark.SUCCEEDED, b"r")]


def test_a_dead_letter_that_was_dealt_with_does_not_run_again_by_a_second_frame(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    call, frame, letter = dead(log, client, one)
    again(one, frame, letter)
    again(two, frame, letter, 2)
    one.write()
    one.finish(call)
    one.write()
    two.write()
    assert (two.started(), two.acks) == ([], ["t99"])
    again(two, frame, letter, 3, "t100")
    assert (two.started(), two.acks, two.store()) == ([], ["t99", "t100"], None)


def test_the_first_frame_of_a_call_that_came_back_does_not_run_it(log: ListLog, client: FakeClient) -> None:
    one, two = worker(log), worker(log, "w2")
    call, frame, letter = dead(log, client, one)
    again(one, frame, letter)
    one.write()
    assert one.started() == [call]
    two.read()
    two.hand(letter - 2, frame, "t2")
    assert (two.started(), two.acks) == ([], ["t2"])


def test_a_poison_call_that_comes_back_is_begun_alone_once_its_worker_died(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    call, frame, letter = dead(log, client, one)
    again(one, frame, letter)
    one.write()
    log.lose("w1", group=POOL)
    two.read()
    stored = requeue_frame(frame, letter, 1)
    two.hand(len(log.records), stored, "t2", is_suspect=True)
    assert marks(two.write()) == [(Mark.ATTEMPTED, call)]
    assert two.started() == [call]


def test_a_discarded_dead_letter_never_runs_and_callers_are_told_that_it_is_one(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    call, frame, letter = dead(log, client, one)
    two.read()
    gone = OpenCall(call, "c1", "put", None, 1, 1 << 62, b"")
    assert two.core.discard(gone, BY_OPERATOR)
    assert not two.core.discard(gone, BY_OPERATOR)  # that is on its way
    again(one, frame, letter)
    assert marks(two.write()) == [(Mark.DISCARDED, call)]
    assert two.resolved == [Resolved(call, len(log.records))]
    assert not two.core.discard(gone, BY_OPERATOR)
    one.write()
    assert (one.started(), one.acks[-1]) == ([], "t99")
    assert [mark for _, mark, _ in one.core.answer([call])] == [Mark.DEAD_LETTERED]
    one.core.outcomes.drop(call)
    assert one.core.missing([call]) == ({call: letter}, [])


def test_an_entry_of_a_dead_letter_that_cannot_be_read_is_dropped(log: ListLog, client: FakeClient) -> None:
    rig = worker(log)
    options = CallOptions(None, 1, (3, "c1"))
    seq, frame = stored_with(log, client, a_call("put"), options)
    rig.hand(seq, frame)
    assert (rig.started(), rig.acks, rig.core.anomalies["malformed"]) == ([], ["t1"], 1)


def test_a_word_about_an_earlier_round_does_not_end_a_call_that_came_back() -> None:
    requeued = Known(Mark.REQUEUED, "w1", 20, dead_seq=10)
    call = OpenCall(b"c" * 16, "c1", "put", None, 1, 1 << 62, b"")
    for about, counts in ((About(0, 0), False), (About(0, 10), True), (About(5, 10), False)):
        body = cancelled_body(call, "ann", "", about, started=True)
        assert (after(requeued, Mark.CANCELLED, body, "w1", 21) is not None) is counts
        assert (after(requeued, Mark.DEAD_LETTERED, body, "w1", 21) is not None) is counts


def test_a_word_that_a_dead_letter_runs_again_is_about_that_one_and_so_is_its_frame() -> None:
    letter = Known(Mark.DEAD_LETTERED, "w1", 10)
    said = Requeued(author="ann", dead_seq=10, timeout_ms=1)
    now = after(letter, Mark.REQUEUED, requeued_body(said), "w1", 20)
    assert now is not None
    assert now.dead_seq == 10
    other = requeued_body(said.model_copy(update={"dead_seq": 9}))
    assert after(letter, Mark.REQUEUED, other, "w1", 20) is None


# -- cancelling ------------------------------------------------------------------------------------------


def cancelled(frame: PenFrame | None) -> dict[str, Any]:
    details: dict[str, Any] = body_of(frame, Mark.CANCELLED)["details"]
    return details


def test_a_call_that_waits_is_cancelled_at_once(log: ListLog, client: FakeClient) -> None:
    rig = worker(log, max_running=1)
    begun(log, client, rig)
    seq, frame = stored_frame(log, client, a_call("put"))
    rig.hand(seq, frame, "t2")
    cancel(log, *ids(frame))
    rig.read()
    assert cancelled(rig.write()) == {"started": False, "author": "c1", "reason": "too late"}
    assert rig.acks == ["t2"]
    assert rig.core.waiting == 0


def test_a_call_that_is_cancelled_before_its_frame_is_handed_out_never_runs(
    log: ListLog, client: FakeClient
) -> None:
    seq, frame = stored_frame(log, client, a_call("pay"))
    cancel(log, *ids(frame))
    rig = WorkerRig(log)
    rig.join()
    rig.hand(seq, frame)
    assert marks(rig.write()) == [(Mark.CANCELLED, ids(frame)[0])]
    assert rig.started() == []


def test_a_call_whose_claim_is_on_its_way_is_not_started(log: ListLog, client: FakeClient) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("pay"))
    rig.hand(seq, frame)
    claim = rig.next_frame()
    assert claim is not None
    cancel(log, *ids(frame))
    rig.read()
    rig.land(claim)
    rig.read()
    details = cancelled(rig.write())
    assert (details["started"], details["claimed_seq"]) == (False, len(log.records) - 1)
    assert (rig.started(), rig.core.running, rig.acks) == ([], 0, ["t1"])


def test_a_handler_that_runs_is_asked_to_stop_and_what_it_makes_of_that_counts(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    stops, _, _ = begun(log, client, rig, "pay")
    seq, frame = stored_frame(log, client, a_call("put"))
    rig.hand(seq, frame, "t2")
    (returns,) = ids(frame)
    cancel(log, stops, returns)
    rig.read()
    assert [found.call_id for found in rig.to_cancel] == [stops, returns]
    rig.stop(stops)
    rig.finish(returns)
    written = rig.write()
    assert marks(written) == [(Mark.CANCELLED, stops), (Mark.SUCCEEDED, returns)]
    assert cancelled(written)["started"] is True
    assert [mark for _, mark, _ in rig.replies] == [Mark.CANCELLED, Mark.SUCCEEDED]


def test_a_call_that_waits_for_its_next_attempt_is_cancelled_and_had_started(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    call, _, _ = begun(log, client, rig, "pay")
    rig.fail(call, ms(50))
    rig.write()
    cancel(log, call)
    rig.read()
    assert cancelled(rig.write())["started"] is True


def test_a_call_in_doubt_is_cancelled_when_it_is_found_not_to_have_run(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    call, seq, frame = begun(log, client, one, "pay")
    log.lose("w1", group=POOL)
    two.read()
    two.hand(seq, frame, "t2", is_suspect=True)
    two.write()
    cancel(log, call)
    two.read()
    assert two.store() is None
    two.resolve(call, None)
    two.write()
    assert cancelled(two.write())["started"] is False
    assert two.acks == ["t2"]


def test_a_call_that_another_worker_claims_meanwhile_is_not_cancelled_by_who_waits_with_it(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log, max_running=1), worker(log, "w2")
    begun(log, client, one)
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame, "t2")
    two.hand(seq, frame, "t2")
    two.store()
    cancel(log, call)
    late = one.position
    one.core.on_record(log.records[-1], log.now_ns)  # it has not read the claim yet
    word = one.next_frame()
    assert word is not None
    one.land(word)
    one.position = late
    two.read()
    assert [found.call_id for found in two.to_cancel] == [call]
    two.finish(call)
    two.write()
    one.read()
    assert two.replies[-1][:2] == (call, Mark.SUCCEEDED)
    assert (one.replies, one.acks) == ([], ["t2"])


def test_a_request_to_cancel_from_before_a_call_was_a_dead_letter_is_over(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    call, _, frame = begun(log, client, rig)
    cancel(log, call)
    rig.read()
    rig.fail(call, None)
    rig.write()
    again(rig, frame, len(log.records))
    rig.write()
    assert rig.started() == [call]


def test_the_latest_requests_are_remembered(log: ListLog) -> None:
    cancels = Cancels()
    first = bytes(6) + b"\x70" + bytes(1) + b"\x80" + bytes(7)
    cancel(log, first)
    cancels.apply(log.records[-1])
    assert cancels.of(first, 0) is not None
    assert cancels.of(first, len(log.records)) is None
    for number in range(MAX_REMEMBERED // 1000):
        cancel(log, *[first[:9] + (number * 1000 + n + 1).to_bytes(7) for n in range(1000)])
        cancels.apply(log.records[-1])
    assert cancels.of(first, 0) is None


def test_nonsense_on_the_subject_of_requests_is_counted(log: ListLog) -> None:
    rig = worker(log)
    log.append(NS.cancel(SERVICE, POOL, "c1"), b"\xc1")
    log.append(NS.keys(SERVICE, POOL, "w1"), b"\xc1")
    rig.read()
    assert rig.core.anomalies["malformed"] == 2


# -- whose turn it is ------------------------------------------------------------------------------------


def test_clients_take_turns_and_a_higher_priority_goes_first(log: ListLog) -> None:
    rig = worker(log, max_running=1)
    one, two = pool_client(log, "c1"), pool_client(log, "c2")
    begun(log, one, rig)
    calls: dict[str, CallId] = {}
    for name, client, priority in (("a", one, 1), ("b", one, 1), ("c", two, 1), ("d", two, 2)):
        seq, frame = stored_with(log, client, a_call("put"), CallOptions(None, priority))
        record = Record(seq, NS.call(SERVICE, POOL, client.name), b"", log.now_ns)
        rig.core.on_frame(name, record, frame, {}, log.now_ns)
        calls[name] = ids(frame)[0]
    order = []
    for _ in range(4):
        rig.finish(rig.started()[0])
        order.append(rig.started()[0])
    assert order == [calls[name] for name in "dacb"]

"""One worker of a pool, driven by hand: the log decides whose claim and whose conclusion counts."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.calls import Outcome, Outcomes
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, decode_calls
from aegisipc.eventstore.log import Record
from aegisipc.sdk.core.pool_facts import Known
from tests.sdk.kit import (
    NS,
    POOL,
    SERVICE,
    FakeClient,
    ListLog,
    a_call,
    ids,
    marks,
    pen_frame,
    stored_frame,
)
from tests.sdk.pool_kit import WorkerRig, pool_client, pool_log, worker


@pytest.fixture
def log() -> ListLog:
    return pool_log("w1", "w2")


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return pool_client(log)


# -- one worker ----------------------------------------------------------------------------------------


def test_a_call_runs_and_its_reply_waits_until_its_outcome_comes_back_from_the_log(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get"))
    rig.hand(seq, frame)
    (call,) = ids(frame)
    assert rig.started() == [call]
    rig.finish(call, b"r")
    rig.store()
    assert (rig.replies, rig.acks) == ([], [])
    rig.read()
    assert (rig.replies, rig.acks) == ([(call, Mark.SUCCEEDED, b"r")], ["t1"])
    assert rig.core.is_quiet


def test_a_frame_is_acknowledged_only_when_all_its_calls_are_concluded(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get"), a_call("get"))
    rig.hand(seq, frame)
    one, two = ids(frame)
    rig.finish(one)
    rig.write()
    assert rig.acks == []
    rig.finish(two)
    rig.write()
    assert rig.acks == ["t1"]
    assert not rig.core.deliveries


def test_a_once_call_starts_when_its_claim_comes_back_first(log: ListLog, client: FakeClient) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("pay"))
    rig.hand(seq, frame)
    assert marks(rig.store()) == [(Mark.CLAIMED, ids(frame)[0])]
    assert rig.started() == []
    rig.read()
    assert rig.started() == ids(frame)


def test_a_call_whose_claim_comes_back_after_its_deadline_never_starts(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("pay", timeout_ms=10))
    rig.hand(seq, frame)
    rig.store()
    log.now_ns += 10_000_000
    rig.read()
    assert rig.started() == []
    assert rig.core.running == 0
    assert marks(rig.write()) == [(Mark.FAILED, ids(frame)[0])]
    assert rig.acks == ["t1"]


def test_no_more_than_max_running_calls_run(log: ListLog, client: FakeClient) -> None:
    rig = worker(log, max_running=2)
    seq, frame = stored_frame(log, client, *[a_call("get")] * 3)
    rig.hand(seq, frame)
    assert (len(rig.started()), rig.core.waiting) == (2, 1)
    rig.finish(rig.started()[0])
    assert len(rig.started()) == 2


def test_an_idle_worker_asks_for_more_than_a_busy_one_and_a_full_one_for_nothing(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log, max_running=4)
    assert rig.core.wants == 2
    seq, frame = stored_frame(log, client, *[a_call("get")] * 2)
    rig.hand(seq, frame)
    assert rig.core.wants == 1
    seq, frame = stored_frame(log, client, *[a_call("get")] * 2)
    rig.hand(seq, frame)
    assert rig.core.wants == 0


def test_an_expired_call_never_starts_and_one_that_waits_expires_at_its_deadline(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log, max_running=1)
    seq, frame = stored_frame(
        log, client, a_call("get"), a_call("get", timeout_ms=10), a_call("get", timeout_ms=30)
    )
    runs, waits, last = ids(frame)
    rig.hand(seq, frame)
    log.now_ns += 10_000_000
    rig.core.on_tick(log.now_ns)
    assert marks(rig.write()) == [(Mark.EXPIRED, waits)]
    assert rig.replies == [(waits, Mark.EXPIRED, None)]
    log.now_ns += 20_000_000
    rig.finish(runs)
    assert rig.started() == []
    assert marks(rig.write()) == [(Mark.SUCCEEDED, runs), (Mark.EXPIRED, last)]


def test_a_draining_worker_asks_for_nothing_and_runs_the_waiting_calls_of_the_frames_it_has_begun(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log, max_running=1)
    seq, frame = stored_frame(log, client, a_call("get"), a_call("pay"))
    rig.hand(seq, frame)
    running, waiting = ids(frame)
    rig.core.drain()
    assert rig.core.frames.naks == []
    assert (rig.core.wants, rig.core.free, rig.core.waiting) == (0, 0, 1)
    rig.finish(running)
    rig.write()
    assert rig.started() == [waiting]
    assert (rig.core.is_quiet, rig.core.running) == (False, 1)
    rig.finish(waiting)
    rig.write()
    assert rig.core.is_quiet
    assert rig.acks == ["t1"]


def test_a_call_that_waits_in_a_draining_worker_expires_at_its_deadline(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log, max_running=1)
    seq, frame = stored_frame(log, client, a_call("get"), a_call("get", timeout_ms=10))
    rig.hand(seq, frame)
    running, waiting = ids(frame)
    rig.core.drain()
    log.now_ns += 10_000_000
    rig.core.on_tick(log.now_ns)
    assert marks(rig.write()) == [(Mark.EXPIRED, waiting)]
    assert rig.replies == [(waiting, Mark.EXPIRED, None)]
    assert (rig.core.is_quiet, rig.core.running) == (False, 1)
    rig.finish(running)
    rig.write()
    assert rig.core.is_quiet


def test_a_draining_worker_gives_back_the_frames_it_has_not_begun(log: ListLog, client: FakeClient) -> None:
    rig = worker(log, max_running=1)
    begun, frame = stored_frame(log, client, a_call("get"), a_call("get"))
    waiting, _ = stored_frame(log, client, a_call("get"))
    for seq in (begun, waiting):
        rig.hand(seq, decode_calls(log.records[seq - 1].payload))
    token = rig.core.deliveries[waiting].token
    rig.core.drain()
    rig.take()
    assert rig.naks == [token]
    assert list(rig.core.deliveries) == [begun]
    for call in ids(frame):
        rig.finish(call)
    rig.write()
    assert rig.core.is_quiet
    assert rig.acks == ["t1"]


def test_a_question_is_answered_from_what_the_log_says(log: ListLog, client: FakeClient) -> None:
    rig, other = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("get"), a_call("pay"))
    rig.hand(seq, frame)
    done, claimed = ids(frame)
    rig.finish(done, b"r")
    rig.write()
    other.read()
    assert other.core.answer([done, claimed, b"?" * 16]) == [(done, Mark.SUCCEEDED, b"r")]


def test_a_worker_forgets_results_over_the_limit_of_bytes_but_not_that_and_where_calls_are_concluded(
    log: ListLog, client: FakeClient
) -> None:
    rig = WorkerRig(log, outcomes=Outcomes(max_bytes=100))
    rig.read()
    seq, frame = stored_frame(log, client, a_call("get"), a_call("get"), a_call("pay"))
    rig.hand(seq, frame)
    older, newer, claimed = ids(frame)
    rig.write()
    rig.finish(older, b"o" * 60)
    rig.write()
    where = len(log.records)
    rig.finish(newer, b"n" * 60)
    rig.write()
    assert rig.core.answer([older, newer]) == [(newer, Mark.SUCCEEDED, b"n" * 60)]
    assert rig.core.missing([older, newer, claimed, b"?" * 16]) == ({older: where}, [b"?" * 16])
    rig.hand(seq, frame, "t2")
    assert rig.started() == [claimed]


def test_an_outcome_that_was_looked_up_is_remembered_unless_a_later_one_was_followed(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    before, followed = b"b" * 16, b"f" * 16
    seq = log.append(NS.pen(SERVICE, POOL, "w2"), pen_frame(7, 1, (Mark.SUCCEEDED, followed, b"final")))
    rig.read()
    rig.core.on_found(Outcome(followed, Mark.IN_DOUBT, None), seq - 1)
    rig.core.on_found(Outcome(before, Mark.FAILED, b"e"), seq - 1)
    assert rig.core.answer([before, followed]) == [
        (before, Mark.FAILED, b"e"),
        (followed, Mark.SUCCEEDED, b"final"),
    ]


# -- handed out twice ----------------------------------------------------------------------------------


def test_a_frame_handed_out_again_while_it_is_in_work_only_changes_the_token(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get"))
    rig.hand(seq, frame, "t1")
    rig.hand(seq, frame, "t2")
    assert len(rig.started()) == 1
    rig.finish(ids(frame)[0])
    rig.write()
    assert rig.acks == ["t2"]


def test_a_call_whose_frame_was_stored_twice_runs_once_and_its_first_frame_stays_open_for_it(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    first, frame = stored_frame(log, client, a_call("put"), a_call("pay"))
    second = log.append(NS.call(SERVICE, POOL, client.name), log.records[first - 1].payload)
    rig.hand(first, frame, "t1")
    rig.hand(second, frame, "t2")
    assert list(rig.core.deliveries) == [first]
    rig.write()
    assert rig.started() == ids(frame)
    for call in ids(frame):
        rig.finish(call)
    rig.write()
    assert rig.acks == ["t2", "t1"]
    assert [call for call, *_ in rig.replies] == ids(frame)
    assert rig.core.running == 0


def test_calls_that_are_concluded_already_are_not_run_again(log: ListLog, client: FakeClient) -> None:
    first, second = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("get"), a_call("get"))
    done, open_one = ids(frame)
    first.hand(seq, frame)
    first.finish(done)
    first.write()
    second.read()
    second.hand(seq, frame, "t2")
    assert second.started() == [open_one]


def test_a_frame_whose_calls_are_all_concluded_is_acknowledged_at_once(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get"))
    (call,) = ids(frame)
    record = Record(seq, NS.call(SERVICE, POOL, "c1"), b"", log.now_ns)
    rig.core.on_frame("t9", record, frame, {call: Known(Mark.SUCCEEDED, "w2", seq + 1)}, log.now_ns)
    rig.take()
    assert rig.started() == []
    assert rig.acks == ["t9"]
    assert rig.core.missing([call]) == ({call: seq + 1}, [])


def test_the_first_conclusion_in_log_order_counts_and_only_its_writer_replies(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("put"))
    (call,) = ids(frame)
    one.hand(seq, frame, "t1")
    two.hand(seq, frame, "t2")
    one.finish(call, b"one")
    two.finish(call, b"two")
    two.store()
    one.store()
    one.read()
    two.read()
    assert two.replies == [(call, Mark.SUCCEEDED, b"two")]
    assert one.replies == []
    assert (one.acks, two.acks) == (["t1"], ["t2"])
    assert one.core.answer([call]) == two.core.answer([call]) == [(call, Mark.SUCCEEDED, b"two")]
    assert one.core.is_quiet
    assert two.core.is_quiet


def test_a_call_concluded_elsewhere_while_it_waits_here_does_not_start(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log, max_running=1), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("get"), a_call("get", timeout_ms=50))
    runs, waits = ids(frame)
    one.hand(seq, frame, "t1")
    two.hand(seq, frame, "t2")
    two.finish(waits, b"two")
    two.write()
    one.read()
    log.now_ns += 60_000_000
    one.core.on_tick(log.now_ns)
    assert one.store() is None  # it does not call it expired either
    one.finish(runs)
    assert one.started() == []


def test_the_first_claim_in_log_order_counts_and_the_other_worker_lets_go(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame, "t1")
    two.hand(seq, frame, "t2")
    two.store()
    one.store()
    one.read()
    two.read()
    assert (one.started(), two.started()) == ([], [call])
    assert one.core.running == 0
    assert one.core.is_quiet
    two.finish(call)
    two.write()
    one.read()
    assert one.replies == []
    assert one.acks == ["t1"]


def test_a_claim_of_a_live_worker_is_respected_when_its_frame_is_handed_out_again(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame)
    one.write()
    two.read()
    two.hand(seq, frame, "t2")
    assert two.started() == []
    assert two.write() is None
    one.finish(call)
    one.write()
    two.read()
    assert two.acks == ["t2"]


# -- doubt ---------------------------------------------------------------------------------------------


def test_a_claim_of_a_lost_worker_becomes_doubt_when_its_frame_is_handed_out_again(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame)
    one.write()
    log.lose("w1", group=POOL)
    two.read()
    two.hand(seq, frame, "t2")
    assert two.started() == []
    written = two.write()
    assert marks(written) == [(Mark.IN_DOUBT, call)]
    assert written is not None
    error = decode(written.bodies[0] or b"")
    assert (error["code"], error["details"]["claimed_by"]) == ("in_doubt", "w1")
    assert error["details"]["fate"] == "was lost"
    assert two.replies == [(call, Mark.IN_DOUBT, written.bodies[0])]


def test_a_claim_becomes_doubt_when_its_worker_is_lost_after_the_frame_was_handed_out_again(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame)
    one.write()
    two.read()
    two.hand(seq, frame, "t2")
    log.lose("w1", group=POOL)
    two.read()
    assert marks(two.write()) == [(Mark.IN_DOUBT, call)]
    assert list(two.core.doubts) == [call]


def test_a_claim_that_came_second_becomes_doubt_when_the_first_claimer_is_lost(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame, "t1")
    two.hand(seq, frame, "t2")
    one.store()
    two.store()
    two.read()
    assert two.started() == []
    log.lose("w1", group=POOL)
    two.read()
    assert marks(two.write()) == [(Mark.IN_DOUBT, call)]
    assert list(two.core.doubts) == [call]


def test_a_claim_of_an_earlier_incarnation_is_not_taken_for_one_of_the_present_one(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame)
    one.write()
    log.join("w1", "2", group=POOL)
    two.read()
    two.hand(seq, frame, "t2")
    assert marks(two.write()) == [(Mark.IN_DOUBT, call)]


def test_what_had_to_be_looked_up_in_the_log_counts_like_what_was_followed(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("pay"), a_call("get"))
    claimed, free = ids(frame)
    record = Record(seq, NS.call(SERVICE, POOL, "c1"), b"", log.now_ns)
    rig.core.on_frame("t", record, frame, {claimed: Known(Mark.CLAIMED, "w2", seq + 1)}, log.now_ns)
    rig.take()
    assert rig.started() == [free]
    log.lose("w2", group=POOL)
    rig.read()
    assert marks(rig.write()) == [(Mark.IN_DOUBT, claimed)]


def test_a_frame_that_was_stored_twice_counts_once_and_nonsense_is_counted(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    pen = NS.pen(SERVICE, POOL, "w2")
    payload = pen_frame(7, 1, (Mark.SUCCEEDED, b"x" * 16, b"first"))
    log.append(pen, payload)
    log.append(pen, pen_frame(7, 1, (Mark.SUCCEEDED, b"x" * 16, b"ghost")))
    log.append(pen, b"\xc1")
    rig.read()
    assert rig.core.answer([b"x" * 16]) == [(b"x" * 16, Mark.SUCCEEDED, b"first")]
    assert rig.core.anomalies["malformed"] == 1

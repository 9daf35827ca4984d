"""Workers of a pool under failure, driven by hand: suspects, doubts and how they end, pauses."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import CallFrame, Mark, PenFrame, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.sdk.core.pool import Resolved
from aegisipc.sdk.core.pool_facts import MAX_SEEN, Known, PoolFacts
from aegisipc.sdk.core.pool_frames import MAX_PARKED
from tests.sdk.kit import (
    NS,
    POOL,
    SERVICE,
    FakeClient,
    ListLog,
    a_call,
    ids,
    marks,
    ms,
    pen_frame,
    stored_frame,
)
from tests.sdk.pool_kit import WorkerRig, pause, pool_client, pool_log, resume, worker


@pytest.fixture
def log() -> ListLog:
    return pool_log("w1", "w2", "w3")


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return pool_client(log)


def body_of(frame: PenFrame | None, mark: Mark) -> Any:
    """The decoded body of the entry of that mark."""
    assert frame is not None
    return next(
        decode(body or b"")
        for entry, body in zip(frame.entries, frame.bodies, strict=True)
        if entry.mark is mark
    )


def tried_and_lost(
    log: ListLog, seq: int, frame: CallFrame, name: str, known_by: WorkerRig | None = None
) -> None:
    """A worker begins the frame's first call again, and is lost."""
    rig = known_by or worker(log, name)
    rig.hand(seq, frame, is_suspect=True)
    rig.write()
    log.lose(name, group=POOL)


# -- suspects ------------------------------------------------------------------------------------------


def test_the_calls_of_a_frame_that_is_handed_out_for_the_first_time_start_at_once(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get"), a_call("put"))
    rig.hand(seq, frame)
    assert rig.started() == ids(frame)
    assert rig.store() is None


def test_the_calls_of_a_frame_that_is_handed_out_again_are_begun_one_after_another_as_the_log_says(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get"), a_call("put"))
    one, two = ids(frame)
    rig.hand(seq, frame, is_suspect=True)
    assert rig.started() == []
    assert marks(rig.store()) == [(Mark.ATTEMPTED, one)]
    rig.read()
    assert rig.started() == [one]
    assert rig.store() is None
    rig.finish(one)
    assert marks(rig.write()) == [(Mark.SUCCEEDED, one), (Mark.ATTEMPTED, two)]
    assert rig.started() == [two]
    rig.finish(two)
    rig.write()
    assert rig.acks == ["t1"]
    assert rig.core.is_quiet


def test_other_calls_run_beside_a_suspect(log: ListLog, client: FakeClient) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get"))
    rig.hand(seq, frame, is_suspect=True)
    rig.write()
    other, others = stored_frame(log, client, a_call("get"), a_call("get"))
    rig.hand(other, others, "t2")
    assert rig.started() == [*ids(frame), *ids(others)]


def test_a_once_call_is_no_suspect_since_its_claim_tells_the_same(log: ListLog, client: FakeClient) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("pay"))
    rig.hand(seq, frame, is_suspect=True)
    assert marks(rig.write()) == [(Mark.CLAIMED, ids(frame)[0])]


def test_an_attempt_of_a_worker_that_lives_is_left_to_it(log: ListLog, client: FakeClient) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("get"))
    (call,) = ids(frame)
    one.hand(seq, frame, is_suspect=True)
    one.write()
    two.read()
    two.hand(seq, frame, "t2", is_suspect=True)
    assert two.store() is None
    one.finish(call)
    one.write()
    two.read()
    assert two.acks == ["t2"]


def test_of_two_attempts_at_once_the_first_in_log_order_counts(log: ListLog, client: FakeClient) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("get"))
    (call,) = ids(frame)
    one.hand(seq, frame, is_suspect=True)
    two.hand(seq, frame, "t2", is_suspect=True)
    two.store()
    one.store()
    one.read()
    two.read()
    assert (one.started(), two.started()) == ([], [call])
    assert (one.core.running, one.core.is_quiet) == (0, True)


def test_an_attempt_of_a_lost_worker_is_made_again_by_the_one_that_watched(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("get"))
    one.hand(seq, frame, is_suspect=True)
    one.write()
    two.read()
    two.hand(seq, frame, "t2", is_suspect=True)
    log.lose("w1", group=POOL)
    two.read()
    written = two.write()
    assert marks(written) == [(Mark.ATTEMPTED, ids(frame)[0])]
    assert body_of(written, Mark.ATTEMPTED) == 2
    assert two.started() == ids(frame)


def test_after_three_attempts_whose_makers_are_gone_a_call_is_a_dead_letter(
    log: ListLog, client: FakeClient
) -> None:
    log.join("w4", group=POOL)
    seq, frame = stored_frame(log, client, a_call("get"))
    (call,) = ids(frame)
    for name in ("w1", "w2", "w3"):
        tried_and_lost(log, seq, frame, name)
    last = worker(log, "w4")
    last.hand(seq, frame, "t4", is_suspect=True)
    written = last.write()
    assert marks(written) == [(Mark.DEAD_LETTERED, call)]
    error = body_of(written, Mark.DEAD_LETTERED)
    assert error["code"] == "dead_lettered"
    assert error["details"] == {
        "attempts": 3,
        "reason": "poison",
        "method": "get",
        "client": "c1",
        "resource": None,
        "error": None,
        "stack": [],
        "instances": ["w1", "w2", "w3"],
    }
    assert last.acks == ["t4"]
    assert last.replies[0][:2] == (call, Mark.DEAD_LETTERED)


def test_the_last_attempt_is_made_with_nothing_else_running_in_the_worker(
    log: ListLog, client: FakeClient
) -> None:
    seq, frame = stored_frame(log, client, a_call("get"))
    (call,) = ids(frame)
    for name in ("w1", "w2"):
        tried_and_lost(log, seq, frame, name)
    rig = worker(log, "w3")
    busy, others = stored_frame(log, client, a_call("get"))
    rig.hand(busy, others, "t1")
    rig.hand(seq, frame, "t2", is_suspect=True)
    late, more = stored_frame(log, client, a_call("get"))
    rig.hand(late, more, "t3")
    assert rig.started() == ids(others)
    assert rig.store() is None
    assert rig.core.wants == 0
    rig.finish(ids(others)[0])
    assert (Mark.ATTEMPTED, call) in marks(rig.write())
    assert rig.started() == [call]
    rig.finish(call)
    assert rig.started() == ids(more)


def test_a_suspect_whose_deadline_passes_expires_and_may_have_started(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get", timeout_ms=50), a_call("get", timeout_ms=10))
    one, two = ids(frame)
    rig.hand(seq, frame, is_suspect=True)
    rig.write()
    log.now_ns += ms(20)
    rig.core.on_tick(log.now_ns)
    written = rig.write()
    assert marks(written) == [(Mark.EXPIRED, two)]
    assert body_of(written, Mark.EXPIRED)["code"] == "may_have_started"
    assert rig.started() == [one]


def test_an_attempt_that_comes_back_after_the_deadline_is_not_made(log: ListLog, client: FakeClient) -> None:
    rig = worker(log)
    seq, frame = stored_frame(log, client, a_call("get", timeout_ms=10))
    rig.hand(seq, frame, is_suspect=True)
    rig.store()
    log.now_ns += ms(20)
    rig.read()
    assert rig.started() == []
    assert marks(rig.write()) == [(Mark.EXPIRED, ids(frame)[0])]
    assert rig.core.is_quiet


def test_what_an_earlier_run_of_a_worker_had_on_its_way_is_nobodys_when_it_comes(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("pay"))
    one.hand(seq, frame)
    ghost = one.next_frame()
    assert ghost is not None
    log.join("w1", "2", group=POOL)
    one.land(ghost)
    two.read()
    two.hand(seq, frame, "t2", is_suspect=True)
    assert marks(two.write()) == [(Mark.IN_DOUBT, ids(frame)[0])]


# -- doubts --------------------------------------------------------------------------------------------


def in_doubt(log: ListLog, client: FakeClient, name: str = "w2") -> tuple[WorkerRig, CallId, int]:
    """w1 claimed a call and is lost; the worker of that name has its frame."""
    one, two = worker(log), worker(log, name)
    seq, frame = stored_frame(log, client, a_call("pay"))
    one.hand(seq, frame)
    one.write()
    log.lose("w1", group=POOL)
    two.read()
    two.hand(seq, frame, "t2", is_suspect=True)
    two.write()
    return two, ids(frame)[0], seq


def test_the_frame_of_a_call_in_doubt_is_kept_and_does_not_keep_its_worker_from_others(
    log: ListLog, client: FakeClient
) -> None:
    rig, call, _ = in_doubt(log, client)
    assert (rig.acks, list(rig.core.doubts)) == ([], [call])
    assert (rig.core.frames.busy, rig.core.wants, rig.core.is_quiet) == (0, 2, True)
    assert rig.core.doubts[call].claimed_by == "w1"


def test_a_call_that_was_executed_succeeds_with_the_result_that_was_told(
    log: ListLog, client: FakeClient
) -> None:
    rig, call, _ = in_doubt(log, client)
    assert rig.resolve(call, b"told")
    written = rig.write()
    assert marks(written) == [(Mark.EXECUTED, call), (Mark.SUCCEEDED, call)]
    assert body_of(written, Mark.EXECUTED)["author"] == "ann"
    assert rig.resolved == [Resolved(call, len(log.records))]
    assert rig.replies[-1] == (call, Mark.SUCCEEDED, b"told")
    assert (rig.acks, dict(rig.core.doubts)) == (["t2"], {})


def test_a_call_that_was_not_executed_is_run_by_the_worker_that_has_its_frame(
    log: ListLog, client: FakeClient
) -> None:
    rig, call, seq = in_doubt(log, client)
    other = worker(log, "w3")
    other.core.facts.learn(call, Known(Mark.IN_DOUBT, "w2", len(log.records), (), "w1"))
    assert other.resolve_other(call, seq, None)
    assert marks(other.write()) == [(Mark.NOT_EXECUTED, call)]
    assert other.resolved == [Resolved(call, len(log.records))]
    rig.read()
    assert rig.core.answer([call]) == []
    assert marks(rig.write()) == [(Mark.CLAIMED, call)]
    assert rig.started() == [call]
    rig.finish(call)
    rig.write()
    assert rig.acks == ["t2"]


def test_a_call_that_was_not_executed_expires_if_its_deadline_has_passed(
    log: ListLog, client: FakeClient
) -> None:
    rig, call, _ = in_doubt(log, client)
    log.now_ns += ms(10_000)
    rig.resolve(call, None)
    rig.write()
    assert rig.started() == []
    assert marks(rig.write()) == [(Mark.EXPIRED, call)]
    assert rig.acks == ["t2"]


def test_of_two_resolutions_the_first_in_log_order_counts(log: ListLog, client: FakeClient) -> None:
    rig, call, seq = in_doubt(log, client)
    other = worker(log, "w3")
    other.core.facts.learn(call, Known(Mark.IN_DOUBT, "w2", len(log.records), (), "w1"))
    other.resolve_other(call, seq, b"told")
    rig.resolve(call, None)
    other.store()
    rig.store()
    rig.read()
    other.read()
    assert rig.resolved == [Resolved(call, 0)]
    assert other.resolved == [Resolved(call, len(log.records) - 1)]
    assert rig.started() == []
    assert rig.acks == ["t2"]


def test_a_resolution_that_comes_late_does_not_end_a_later_doubt(log: ListLog, client: FakeClient) -> None:
    two, call, seq = in_doubt(log, client)
    three = worker(log, "w3")
    three.core.facts.learn(call, Known(Mark.IN_DOUBT, "w2", len(log.records), (), "w1"))
    three.resolve_other(call, seq, None)
    late = three.next_frame()
    assert late is not None
    two.resolve(call, None)
    two.write()
    two.write()
    assert two.started() == [call]
    log.lose("w2", group=POOL)
    log.join("w4", group=POOL)
    four = worker(log, "w4")
    four.hand(seq, _frame_at(log, seq), "t4", is_suspect=True)
    four.write()
    assert list(four.core.doubts) == [call]
    three.land(late)
    four.read()
    assert list(four.core.doubts) == [call]
    assert four.store() is None
    three.read()
    assert three.resolved == [Resolved(call, 0)]


def test_a_doubt_that_comes_late_is_not_about_a_later_claim(log: ListLog, client: FakeClient) -> None:
    one, two, three = worker(log), worker(log, "w2"), worker(log, "w3")
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame)
    one.write()
    log.lose("w1", group=POOL)
    for rig, token in ((two, "t2"), (three, "t3")):
        rig.read()
        rig.hand(seq, frame, token, is_suspect=True)
    late = three.next_frame()
    assert late is not None
    two.write()
    two.resolve(call, None)
    two.write()
    two.write()
    assert two.started() == [call]
    three.land(late)
    two.read()
    three.read()
    assert dict(two.core.doubts) == dict(three.core.doubts) == {}
    two.finish(call, b"once")
    two.write()
    three.read()
    assert three.core.answer([call]) == [(call, Mark.SUCCEEDED, b"once")]
    assert three.acks == ["t3"]


def test_the_late_outcome_of_the_worker_that_claimed_it_ends_a_doubt_and_says_so(
    log: ListLog, client: FakeClient
) -> None:
    one, two = worker(log), worker(log, "w2")
    seq, frame = stored_frame(log, client, a_call("pay"))
    (call,) = ids(frame)
    one.hand(seq, frame)
    one.write()
    log.lose("w1", group=POOL)
    two.read()
    two.hand(seq, frame, "t2", is_suspect=True)
    two.write()
    one.read()
    assert not one.resolve(call, None)  # it runs right here
    one.finish(call, b"late")
    written = one.write()
    assert marks(written) == [(Mark.EXECUTED, call), (Mark.SUCCEEDED, call)]
    said = body_of(written, Mark.EXECUTED)
    assert (said["source"], said["author"]) == ("evidence", "w1")
    assert one.replies == [(call, Mark.SUCCEEDED, b"late")]
    two.read()
    assert two.acks == ["t2"]


def test_what_is_not_in_doubt_cannot_be_resolved(log: ListLog, client: FakeClient) -> None:
    rig, call, seq = in_doubt(log, client)
    assert rig.resolve(call, b"told")
    assert not rig.resolve(call, b"told again")  # that is on its way
    rig.write()
    assert not rig.resolve_other(call, seq, None)


def test_frames_with_nothing_but_doubts_are_kept_up_to_a_limit(log: ListLog, client: FakeClient) -> None:
    rig = worker(log, "w2")
    log.lose("w1", group=POOL)
    rig.read()
    frames = [stored_frame(log, client, a_call("pay")) for _ in range(MAX_PARKED + 1)]
    for number, (seq, frame) in enumerate(frames):
        (call,) = ids(frame)
        record = Record(seq, NS.call(SERVICE, POOL, "c1"), b"", log.now_ns)
        known = {call: Known(Mark.IN_DOUBT, "w3", seq + 1, (), "w1")}
        rig.core.on_frame(f"t{number}", record, frame, known, log.now_ns, is_again=True, is_suspect=True)
    rig.take()
    assert rig.laters == [f"t{MAX_PARKED}"]
    assert len(rig.core.doubts) == len(rig.core.deliveries) == MAX_PARKED
    rig.resolve(ids(frames[0][1])[0], b"told")
    rig.write()
    assert rig.acks == ["t0"]


# -- pauses --------------------------------------------------------------------------------------------


def test_a_paused_worker_starts_nothing_and_keeps_its_frames_and_goes_on_when_resumed(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log, max_running=1)
    seq, frame = stored_frame(log, client, a_call("get"), a_call("get"), a_call("get", timeout_ms=10))
    one, two, three = ids(frame)
    rig.hand(seq, frame)
    pause(log)
    rig.read()
    rig.finish(one)
    log.now_ns += ms(20)
    rig.core.on_tick(log.now_ns)
    assert marks(rig.write()) == [(Mark.SUCCEEDED, one), (Mark.EXPIRED, three)]
    assert (rig.started(), rig.core.waiting, rig.core.wants, rig.naks) == ([], 1, 0, [])
    resume(log)
    rig.read()
    assert rig.started() == [two]


@pytest.mark.parametrize("word", ["unhealthy", "drain"])
def test_a_worker_that_is_to_start_nothing_gives_back_what_is_not_begun(
    log: ListLog, client: FakeClient, word: str
) -> None:
    rig = worker(log, max_running=1)
    begun, frame = stored_frame(log, client, a_call("get"))
    waiting, other = stored_frame(log, client, a_call("get"))
    rig.hand(begun, frame, "t1")
    rig.hand(waiting, other, "t2")
    if word == "unhealthy":
        log.say(NS.instance(SERVICE, POOL, "w1"), ev.InstanceUnhealthy(incarnation="1", reason="ill"))
    else:
        event = ev.InstanceDrainRequested(instance="w1", incarnation="1", author="ann", decided_by="r")
        log.say(NS.watch(SERVICE, POOL), event)
    rig.read()
    assert rig.naks == ["t2"]
    assert rig.core.wants == 0
    rig.finish(ids(frame)[0])
    rig.write()
    assert rig.acks == ["t1"]
    assert rig.core.is_quiet
    if word == "unhealthy":
        log.say(NS.instance(SERVICE, POOL, "w1"), ev.InstanceHealthy(incarnation="1"))
        rig.read()
        assert rig.core.wants == 1


def test_a_worker_in_quarantine_starts_nothing_until_the_pool_is_resumed(
    log: ListLog, client: FakeClient
) -> None:
    log.join("w9", "1", group=POOL)
    registered = ev.decode_event(log.records[-3].payload)
    assert isinstance(registered, ev.InstanceRegistered)
    own = NS.instance(SERVICE, POOL, "w9")
    log.say(own, registered.model_copy(update={"incarnation": "2", "quarantined": True}))
    log.say(NS.watch(SERVICE, POOL), ev.InstanceAdmitted(instance="w9", incarnation="2", decided_by="r"))
    log.say(own, ev.InstanceReady(incarnation="2"))
    rig = worker(log, "w9", incarnation="2")
    assert (rig.core.wants, rig.core.standing.keeps_frames) == (0, False)
    resume(log)
    rig.read()
    assert rig.core.wants == 2


def test_a_held_worker_gives_back_a_frame_when_what_was_begun_of_it_is_concluded(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log, max_running=1)
    seq, frame = stored_frame(log, client, a_call("get"), a_call("get"))
    one, two = ids(frame)
    other, others = stored_frame(log, client, a_call("get"))
    rig.hand(seq, frame, "t1")
    rig.hand(other, others, "t2")
    rig.core.hold()
    rig.take()
    assert rig.naks == ["t2"]
    rig.finish(one)
    rig.write()
    assert (rig.started(), rig.naks, rig.acks) == ([], ["t2", "t1"], [])
    assert rig.core.is_quiet
    rig.core.release(log.now_ns)
    rig.hand(seq, frame, "t3", is_suspect=True)
    rig.write()
    assert rig.started() == [two]


def test_a_paused_worker_can_drain(log: ListLog, client: FakeClient) -> None:
    rig = worker(log, max_running=1)
    seq, frame = stored_frame(log, client, a_call("get"), a_call("get"))
    rig.hand(seq, frame)
    pause(log)
    rig.read()
    rig.core.drain()
    assert not rig.core.is_quiet
    rig.finish(ids(frame)[0])
    rig.write()
    assert rig.core.is_quiet


# -- what is looked up -----------------------------------------------------------------------------------


def test_what_is_followed_while_the_log_is_read_counts_on_top_of_what_was_read() -> None:
    facts = PoolFacts(lambda _: False)
    call = b"c" * 16
    look_up = facts.look_up({call})
    claim = Record(5, NS.pen(SERVICE, POOL, "w1"), pen_frame(7, 1, (Mark.CLAIMED, call, None)), 0)
    doubt = Record(9, NS.pen(SERVICE, POOL, "w2"), pen_frame(8, 1, (Mark.IN_DOUBT, call, None)), 0)
    for record, writer in ((claim, "w1"), (doubt, "w2")):
        frame = decode_pen(record.payload)
        assert facts.is_new(record, writer, frame)
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if record is doubt:
                facts.fold(call_id, mark, body, writer, record.seq, frame.session)
    assert facts.get(call) is None  # of a doubt about a claim that it did not follow it can make nothing
    look_up.read(claim, "w1")
    assert facts.finish(look_up) == {call: Known(Mark.IN_DOUBT, "w2", 9, (), "w1", 8)}


def test_a_call_in_hand_is_not_forgotten_however_many_others_there_are() -> None:
    held = b"h" * 16
    facts = PoolFacts(lambda call_id: call_id == held)
    facts.learn(held, Known(Mark.IN_DOUBT, "w1", 1))
    for number in range(MAX_SEEN + 10):
        facts.learn(number.to_bytes(16), Known(Mark.SUCCEEDED, "w1", 2))
    assert facts.get(held) is not None
    assert facts.get((0).to_bytes(16)) is None


def _frame_at(log: ListLog, seq: int) -> CallFrame:
    return decode_calls(log.records[seq - 1].payload)

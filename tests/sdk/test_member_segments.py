"""Segments of the index of idempotency keys: when they are written, and that nothing is lost in them."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.keys import decode_segment, key_hash
from tests.sdk.kit import GROUP, NS, SERVICE, FakeClient, ListLog, a_call, marks
from tests.sdk.member_key_kit import finish_all, owner_of, segments_in, told
from tests.sdk.member_kit import (
    ListState,
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


def with_segment(
    log: ListLog, client: FakeClient, *, timeout_ms: int = 10_000
) -> tuple[MemberRig, list[CallId]]:
    """A member whose first two keys are in a segment, and their calls, which have succeeded."""
    member = active_member(log, segment_keys=2)
    calls = send_keyed(client, (a_call("put"), "k0"), (a_call("put"), "k1"))
    finish_all(member)
    assert len(segments_in(log)) == 1
    assert member.core.calls.keys is not None
    assert member.core.calls.keys.recent == {}
    return member, calls


def test_when_enough_keys_have_gathered_they_are_written_as_a_segment(
    log: ListLog, client: FakeClient
) -> None:
    with_segment(log, client)
    (record,) = segments_in(log)
    assert record.subject == NS.keys(SERVICE, GROUP, "a")
    segment = decode_segment(record.payload)
    assert {key for key, _ in segment.entries} == {key_hash("k0"), key_hash("k1")}
    assert 0 == segment.since < segment.covers < record.seq


def test_no_segment_is_written_before_all_that_it_may_have_to_tell_is_read_back(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, segment_keys=1)
    one, two = send_keyed(client, (a_call("put"), "k0"), (a_call("put", timeout_ms=5), "k1"))
    member.read()
    written = member.next_frame()
    member.store(written)
    member.read()
    log.now_ns += 5_000_000
    member.ack(written)  # the second one is too late: its key is given back
    segment = member.next_frame()
    assert segment.frame is None
    member.store(segment)
    member.ack(segment)
    released = member.next_frame()
    assert (Mark.RELEASED, two) in marks(decode_pen(released.payload))
    member.store(released)
    member.ack(released)
    assert member.core.next_frame() is None  # neither the segment nor that frame has been read back
    member.read()
    member.write_all()
    assert one in member.started()
    (again,) = send_keyed(client, (a_call("put"), "k1"))
    member.read()
    member.look_up()
    member.write_all()
    assert again in member.started()


def test_a_key_in_a_segment_is_looked_up_and_the_call_keeps_its_resource_meanwhile(
    log: ListLog, client: FakeClient
) -> None:
    member, (first, _) = with_segment(log, client)
    other, behind, free = send_keyed(
        client, (a_call("put", "x"), "k0"), (a_call("put", "x"), None), (a_call("put"), None)
    )
    member.read()
    assert member.started() == [free]
    assert member.core.running == 1  # it has no slot
    assert len(member.lookups) == 1
    assert member.core.next_frame() is None
    member.look_up()
    assert member.started() == [free, behind]
    member.write_all()
    mark, body = told(member, other)
    assert (mark, decode(body or b"")["details"]["first"]) == (Mark.FAILED, format_call_id(first))


def test_calls_with_the_same_key_wait_for_one_answer_and_it_is_remembered(
    log: ListLog, client: FakeClient
) -> None:
    member, (first, _) = with_segment(log, client)
    calls = send_keyed(client, *[(a_call("put"), "k0")] * 3)
    member.read()
    assert len(member.lookups) == 1
    member.look_up()
    member.write_all()
    assert [told(member, call) for call in calls] == [(Mark.DUPLICATE, first)] * 3
    (later,) = send_keyed(client, (a_call("put"), "k0"))
    member.read()
    assert member.lookups == []
    member.write_all()
    assert told(member, later) == (Mark.DUPLICATE, first)


def test_who_waits_for_an_answer_expires_and_lets_go_of_its_resource(
    log: ListLog, client: FakeClient
) -> None:
    member, (first, _) = with_segment(log, client)
    waits, behind = send_keyed(client, (a_call("put", "x", timeout_ms=10), "k0"), (a_call("put", "x"), None))
    member.read()
    member.pass_time(10)
    assert member.started() == [behind]
    assert marks(member.write()) == [(Mark.EXPIRED, waits)]
    member.look_up()
    assert member.core.next_frame() is None
    member.finish(behind)
    member.write_all()
    assert owner_of(member.core, "k0") is not None
    assert first != waits


def test_who_waits_for_an_answer_can_be_cancelled(log: ListLog, client: FakeClient) -> None:
    member, _ = with_segment(log, client)
    waits, behind = send_keyed(client, (a_call("put", "x"), "k0"), (a_call("put", "x"), None))
    member.read()
    ask_to_cancel(log, waits)
    member.read()
    assert member.started() == [behind]
    member.look_up()
    assert marks(member.write()) == [(Mark.CANCELLED, waits)]


def test_an_answer_that_comes_after_the_pen_was_lost_and_won_again_is_asked_for_again(
    log: ListLog, client: FakeClient
) -> None:
    member, (first, _) = with_segment(log, client)
    (call,) = send_keyed(client, (a_call("put"), "k0"))
    member.read()
    (old,) = member.lookups
    log.promote("a", 2)
    member.read()
    (_, new) = member.lookups
    member.core.on_key_found(old, None, log.now_ns)
    assert member.core.next_frame() is None
    assert member.started() == []
    member.core.on_key_found(new, member.found_by(new), log.now_ns)
    member.write_all()
    assert told(member, call) == (Mark.DUPLICATE, first)


def test_an_old_key_that_nobody_has_after_all_is_granted(log: ListLog, client: FakeClient) -> None:
    member, _ = with_segment(log, client)
    (call,) = send_keyed(client, (a_call("put"), "k0"))
    member.read()
    member.core.on_key_found(member.lookups.pop(), None, log.now_ns)  # another key, that looks the same
    assert marks(member.write()) == [(Mark.KEYED, call)]
    assert member.started() == [call]


def test_one_with_an_answer_waits_for_a_slot(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, segment_keys=1, max_running=1)
    send_keyed(client, (a_call("put"), "k0"))
    finish_all(member)
    (call,) = send_keyed(client, (a_call("put"), "k0"))
    member.read()
    (runs,) = client.send(a_call("put"))
    member.read()
    assert member.started() == [runs]
    member.core.on_key_found(member.lookups.pop(), None, log.now_ns)
    assert member.core.next_frame() is None
    member.finish(runs)
    assert (Mark.KEYED, call) in marks(member.write())


def test_a_call_whose_own_key_is_in_a_segment_gives_it_back_if_it_did_not_run(
    log: ListLog, client: FakeClient
) -> None:
    former = active_member(log, "a", segment_keys=1)
    (call,) = send_keyed(client, (a_call("pay", timeout_ms=50), "k"))
    former.read()
    former.write()
    former.read()
    former.write()
    assert len(segments_in(log)) == 1
    heir = standby_member(log, "b")
    log.promote("b", 2)
    heir.read()
    heir.core.doubts.not_executed(call, said_by())
    heir.write()
    log.now_ns += 50_000_000
    heir.read()
    assert heir.core.next_frame() is None  # who has the key has to be looked up
    heir.look_up()
    assert marks(heir.write()) == [(Mark.RELEASED, call), (Mark.EXPIRED, call)]
    (again,) = send_keyed(client, (a_call("pay"), "k"))
    heir.read()
    assert marks(heir.write()) == [(Mark.KEYED, again), (Mark.CLAIMED, again)]


def test_before_a_snapshot_the_keys_are_written_as_a_segment(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, segment_keys=8, snapshots_every=3, state=ListState())
    for number in range(4):
        send_keyed(client, (a_call("put"), f"k{number}"))
        finish_all(member)
    kinds = [
        record.subject.split(".")[5]
        for record in log.records
        if record.subject.split(".")[5] in ("keys", "state")
    ]
    assert kinds[:2] == ["keys", "state"]


def test_a_member_that_begins_with_a_snapshot_knows_all_keys(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, segment_keys=2, snapshots_every=3, state=ListState())
    firsts = []
    for number in range(7):
        firsts += send_keyed(client, (a_call("put"), f"k{number}"))
        finish_all(member)
    newest = [record for record in log.records if ".state." in record.subject][-1]
    assert len([record for record in segments_in(log) if record.seq < newest.seq]) > 1
    log.join("b")
    heir = MemberRig(log, "b", segment_keys=2, state=ListState())
    heir.restore(newest)
    heir.read()
    log.promote("b", 2)
    calls = send_keyed(client, *[(a_call("put"), f"k{number}") for number in range(7)])
    heir.read()
    heir.look_up()
    heir.write_all()
    assert [told(heir, call) for call in calls] == [(Mark.DUPLICATE, first) for first in firsts]
    assert heir.started() == []


def test_a_segment_waits_until_all_that_is_stored_is_folded(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, segment_keys=1, max_frame_bytes=64)
    member.core.segments.most = 2
    one, two = send_keyed(client, (a_call("put"), "k0"), (a_call("put"), "k1"))
    member.read()
    for _ in range(2):
        written = member.next_frame()
        member.store(written)
        member.ack(written)
    assert member.started() == [one, two]
    member.core.segments.most = 1
    member.read(1)
    assert member.core.next_frame() is None
    member.read(1)
    assert member.next_frame().kind == "keys"


def test_an_answer_is_not_remembered_for_longer_than_it_is_right(log: ListLog, client: FakeClient) -> None:
    member, _ = with_segment(log, client)
    member.core.segments.most = 1
    (call,) = send_keyed(client, (a_call("put"), "k0"))
    member.read()
    member.core.on_key_found(member.lookups.pop(), None, log.now_ns)  # another key, that looks the same
    member.write()
    member.run_everything()
    member.write_all()
    assert len(segments_in(log)) == 2
    (same,) = send_keyed(client, (a_call("put"), "k0"))
    member.read()
    member.look_up()
    member.write_all()
    assert told(member, same) == (Mark.DUPLICATE, call)

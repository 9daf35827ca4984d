"""Snapshots of a group: when its holder writes one, of which moment, and that nothing is missing in it."""

from __future__ import annotations

import zlib

import pytest

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.group_snapshots import GroupSnapshot, decode_snapshot, encode_snapshot
from aegisipc.eventstore.log import Record
from tests.sdk.kit import FakeClient, ListLog, a_call
from tests.sdk.member_kit import ListState, MemberRig, active_member, events, run


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


def snapshots_in(log: ListLog) -> list[Record]:
    return [record for record in log.records if ".state." in record.subject]


def busy_holder(log: ListLog, every: int = 2, max_frame_bytes: int = 1 << 20) -> MemberRig:
    return active_member(log, "a", state=ListState(), snapshots_every=every, max_frame_bytes=max_frame_bytes)


def test_a_snapshot_and_the_records_after_it_are_as_good_as_all_records(
    log: ListLog, client: FakeClient
) -> None:
    holder = busy_holder(log)
    for number in range(7):
        run(holder, client, b"%d" % number)
        client.send(a_call("pay", "x", timeout_ms=50 + number))
        holder.write_all()
    found = snapshots_in(log)
    assert len(found) == 2
    log.join("z")
    for record in found:
        one, other = (MemberRig(log, "z", state=ListState()) for _ in range(2))
        one.restore(record)
        one.read()
        other.read()
        assert one.core.calls.to_plain() == other.core.calls.to_plain()
        assert events(one) == events(other) == events(holder)
    log.promote("z", 2)
    for rig in (one, other):
        rig.read()
    assert one.started() == other.started()
    assert one.next_frame().facts[0].mark is Mark.IN_DOUBT
    assert [doubt.call_id for doubt in one.doubts] == [doubt.call_id for doubt in other.doubts]


def test_a_snapshot_is_of_the_moment_after_the_holders_own_frame(log: ListLog, client: FakeClient) -> None:
    holder = busy_holder(log, every=1)
    run(holder, client, b"one")
    holder.write_all()
    run(holder, client, b"two")
    holder.write()
    run(holder, client, b"three")  # applied here already, when the frame before it is read back
    written = holder.next_frame()
    assert written.frame is None
    snapshot = decode_snapshot(written.payload)
    assert snapshot.state == b"one\ntwo"
    assert log.records[snapshot.covers - 1].subject == holder.pen


def test_no_snapshot_is_taken_while_something_is_unwritten(log: ListLog, client: FakeClient) -> None:
    holder = busy_holder(log, every=1, max_frame_bytes=100)
    holder.core.snapshots._max_bytes = 1 << 20
    for number in range(4):
        run(holder, client, b"%d" % number)
    sizes = []
    while (written := holder.core.next_frame()) is not None:
        sizes.append((written.frame is None, holder.core._pen.has_more))
        holder.store(written)
        holder.ack(written)
        holder.read()
    assert len(sizes) > 2
    assert [is_snapshot for is_snapshot, has_more in sizes if has_more] == [False] * (len(sizes) - 2)
    (record,) = snapshots_in(log)
    assert decode_snapshot(record.payload).state == b"0\n1\n2\n3"


def test_a_snapshot_that_does_not_fit_into_a_record_is_counted_and_not_written(
    log: ListLog, client: FakeClient
) -> None:
    holder = busy_holder(log, every=1, max_frame_bytes=300)
    noise = zlib.compress(bytes(range(256)))[:220]
    for number in range(4):
        run(holder, client, bytes([65 + number]) + noise.replace(b"\n", b""))
        holder.write_all()
    assert holder.core.snapshots.too_large > 0
    assert all(len(record.payload) <= 300 for record in snapshots_in(log))
    assert holder.core.is_active


def test_no_snapshot_is_taken_of_a_spoiled_state(log: ListLog, client: FakeClient) -> None:
    holder = busy_holder(log, every=1)
    run(holder, client, b"one")
    holder.write_all()
    run(holder, client, b"!bad")  # the frame that says so would be the one to take a snapshot with
    holder.write_all()
    assert holder.write_all() == []
    assert snapshots_in(log) == []


def test_a_snapshot_that_cannot_be_taken_costs_no_frame(log: ListLog, client: FakeClient) -> None:
    class Shy(ListState):
        def snapshot(self) -> bytes:
            raise RuntimeError("not now")

    holder = active_member(log, "a", state=Shy(), snapshots_every=1)
    call = run(holder, client, b"one")
    holder.write_all()
    other = run(holder, client, b"two")
    assert holder.write_all() == [(Mark.EMITTED, other), (Mark.SUCCEEDED, other)]
    assert call not in holder.core.calls.open
    assert str(holder.core.snapshots.failure) == "not now"


def test_a_snapshot_that_the_fence_refuses_is_not_written_by_a_former_holder(
    log: ListLog, client: FakeClient
) -> None:
    holder = busy_holder(log, every=1)
    run(holder, client, b"one")
    holder.write_all()
    run(holder, client, b"two")
    written = None
    while written is None or written.frame is not None:
        written = holder.next_frame()
        if written.frame is not None:
            holder.store(written)
            holder.ack(written)
            holder.read()
    log.join("b")
    log.promote("b", 2)
    before = len(snapshots_in(log))
    assert holder.refuse(written) is None
    assert len(snapshots_in(log)) == before
    assert holder.core.replica.spoiled is None  # all its events are in the log


def test_a_snapshot_refused_by_a_handover_is_sent_again(log: ListLog, client: FakeClient) -> None:
    holder = busy_holder(log, every=1)
    run(holder, client, b"one")
    holder.write()
    holder.read()
    run(holder, client, b"two")
    holder.write()
    holder.read()
    written = holder.next_frame()
    assert written.frame is None
    log.join("b")
    log.hand_over(1, "a", "b")
    again = holder.refuse(written)
    assert again is not None
    holder.store(again)
    holder.ack(again)
    assert snapshots_in(log)[-1].payload == written.payload


def test_whoever_writes_one_the_next_is_due_after_as_many_entries(log: ListLog, client: FakeClient) -> None:
    holder = busy_holder(log, every=3)
    heir = MemberRig(log, "b", state=ListState(), snapshots_every=3)
    for number in range(4):
        run(holder, client, b"%d" % number)
        holder.write_all()
    assert len(snapshots_in(log)) == 1
    log.join("b")
    log.promote("b", 2)
    heir.read()
    run(heir, client, b"first of the heir")
    heir.write_all()
    assert len(snapshots_in(log)) == 1


def test_a_damaged_snapshot_is_refused_and_the_member_is_as_it_was(log: ListLog, client: FakeClient) -> None:
    holder = busy_holder(log, every=1)
    for number in range(3):
        run(holder, client, b"%d" % number)
        holder.write_all()
    record = snapshots_in(log)[-1]
    whole = decode_snapshot(record.payload)
    damaged = encode_snapshot(
        GroupSnapshot(whole.covers, whole.epoch, [*whole.calls[:4], [["?"]]], whole.state)
    )
    log.join("b")
    rig = MemberRig(log, "b", state=ListState())
    with pytest.raises(MalformedPayload):
        rig.restore(record._replace(payload=damaged))
    with pytest.raises(MalformedPayload):
        rig.restore(record._replace(payload=record.payload[:-3]))
    rig.state = ListState()
    other = MemberRig(log, "b", state=ListState())
    rig.read()
    other.read()
    assert rig.core.calls.to_plain() == other.core.calls.to_plain()

"""Snapshots of a group: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import zlib
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore.calls import Evidence, GroupCalls, OpenCall
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.group_snapshots import (
    SNAPSHOT_TYPE,
    GroupSnapshot,
    decode_snapshot,
    dump_calls,
    encode_snapshot,
    load_calls,
)
from aegisipc.eventstore.ids import CallIds
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import subjects_of

S = subjects_of("test")
_ids = CallIds(1)
CALLS = [_ids.next(1000) for _ in range(8)]
OPTIONAL_TEXT = st.none() | st.text(max_size=20)
INTS = st.integers(0, 1 << 62)


def a_fold() -> GroupCalls:
    return GroupCalls(keep_bodies=True, is_fenced=True)


def loaded(plain: list[Any]) -> GroupCalls:
    """A fold filled with what travelled in a snapshot."""
    fold = a_fold()
    load_calls(decode_snapshot(encode_snapshot(GroupSnapshot(1, 1, plain, None))).calls, fold)
    return fold


def fields(call: OpenCall) -> dict[str, Any]:
    return {name: getattr(call, name) for name in OpenCall.__slots__}


@st.composite
def open_calls(draw: st.DrawFn) -> OpenCall:
    call = OpenCall(
        draw(st.sampled_from(CALLS)),
        draw(st.text(max_size=10)),
        draw(st.text(max_size=10)),
        draw(OPTIONAL_TEXT),
        draw(INTS),
        draw(INTS),
        draw(st.binary(max_size=100)),
        draw(INTS),
    )
    call.state = draw(st.sampled_from([CallState.ACCEPTED, CallState.STARTED, CallState.IN_DOUBT]))
    call.claimed_by, call.claimed_epoch = draw(OPTIONAL_TEXT), draw(INTS)
    call.attempts = draw(st.integers(0, 9))
    call.key, call.priority, call.tries = (
        draw(OPTIONAL_TEXT),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 9)),
    )
    call.retry_at_ns = draw(INTS)
    call.cancel = draw(st.none() | st.tuples(st.text(max_size=9), st.text(max_size=9)))
    call.evidence = draw(
        st.none()
        | st.builds(
            Evidence,
            st.sampled_from([Mark.SUCCEEDED, Mark.FAILED]),
            st.none() | st.binary(max_size=20),
            st.text(max_size=10),
            st.lists(st.binary(max_size=20), max_size=3).map(tuple),
        )
    )
    return call


@settings(max_examples=60)
@given(
    calls=st.lists(open_calls(), max_size=8, unique_by=lambda call: call.call_id),
    concluded=st.dictionaries(st.sampled_from(Mark), st.integers(1, 99)),
    anomalies=st.dictionaries(st.text(max_size=10), st.integers(1, 99), max_size=4),
    sessions=st.lists(st.tuples(st.text(max_size=10), INTS, INTS), max_size=5, unique_by=lambda s: s[:2]),
)
def test_a_fold_comes_back_as_it_was(
    calls: list[OpenCall],
    concluded: dict[Mark, int],
    anomalies: dict[str, int],
    sessions: list[tuple[str, int, int]],
) -> None:
    fold = a_fold()
    fold.accepted = len(calls)
    fold.concluded.update(concluded)
    fold.anomalies.update(anomalies)
    fold.sessions.load(sessions)
    fold.open.update({call.call_id: call for call in calls})
    after = loaded(dump_calls(fold))
    assert after.to_plain() == fold.to_plain()
    assert after.sessions.dump() == fold.sessions.dump()
    assert [fields(call) for call in after.open.values()] == [fields(call) for call in fold.open.values()]


@settings(max_examples=60)
@given(st.data())
def test_a_fold_that_came_out_of_a_snapshot_goes_on_like_the_one_that_went_in(data: st.DataObject) -> None:
    fold = a_fold()
    fold.hold("i1", 1)
    payload = encode_calls(
        CallFrame(1, 1, 1, [CallEntry(call_id, "m", 1000, None) for call_id in CALLS], [b"b"] * len(CALLS))
    )
    call_subject, subject = S.call("orders", "g", "c"), S.pen("orders", "g", "i1")
    fold.apply(Record(1, call_subject, payload, 1), S.parse(call_subject))
    records = []
    for seq in range(2, 12):
        entries = data.draw(
            st.lists(st.builds(PenEntry, st.sampled_from(Mark), st.sampled_from(CALLS)), max_size=3)
        )
        number = data.draw(st.integers(1, seq))
        frame = PenFrame(2, number, 1, entries, [b"r"] * len(entries))
        records.append(Record(seq, subject, encode_pen(frame), seq))
    cut = data.draw(st.integers(0, len(records)))
    for record in records[:cut]:
        fold.apply(record, S.parse(subject))
    other = loaded(dump_calls(fold))
    other.hold("i1", 1)
    for record in records[cut:]:
        fold.apply(record, S.parse(subject))
        other.apply(record, S.parse(subject))
    assert other.to_plain() == fold.to_plain()
    assert other.sessions.dump() == fold.sessions.dump()


@pytest.mark.parametrize("state", [None, b"", b"\x00" * 100_000])
def test_a_snapshot_comes_back_as_it_was(state: bytes | None) -> None:
    snapshot = GroupSnapshot(17, 3, dump_calls(a_fold()), state)
    payload = encode_snapshot(snapshot)
    assert decode_snapshot(payload) == snapshot
    assert len(payload) < 1000


# -- what is none --------------------------------------------------------------------------------------


def packed(*parts: Any) -> bytes:
    return zlib.compress(msgpack.packb(list(parts)))


GOOD = encode_snapshot(GroupSnapshot(1, 1, [0, [], {}, [], [], None], b"state"))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nonsense",
        GOOD[:-1],
        GOOD[:5],
        zlib.compress(b"\xc1"),
        zlib.compress(b""),
        packed(),
        packed("group.snapshot.v1", 1, 1, [], None),
        packed(SNAPSHOT_TYPE, 1, 1, []),
        packed(SNAPSHOT_TYPE, "1", 1, [], None),
        packed(SNAPSHOT_TYPE, True, 1, [], None),
        packed(SNAPSHOT_TYPE, 1, None, [], None),
        packed(SNAPSHOT_TYPE, 1, 1, {}, None),
        packed(SNAPSHOT_TYPE, 1, 1, [], "state"),
        zlib.compress(msgpack.packb(7)),
        zlib.compress(b"\x91" * 5000),
    ],
)
def test_what_is_no_snapshot_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedPayload, match="cannot read a snapshot"):
        decode_snapshot(payload)


def test_one_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegisipc.eventstore.group_snapshots.MAX_SNAPSHOT_BYTES", 1000)
    bomb = encode_snapshot(GroupSnapshot(1, 1, [0, [], {}, [], [], None], b"\x00" * 100_000))
    with pytest.raises(MalformedPayload, match="too large"):
        decode_snapshot(bomb)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_bytes_that_anybody_wrote_are_refused(payload: bytes) -> None:
    for each in (payload, zlib.compress(payload)):
        with pytest.raises(MalformedPayload):
            decode_snapshot(each)


CALL: list[Any] = [CALLS[0], "c", "m", None, 1, 2, b"", 3, "accepted", None, 0, 0, None, "key", 1, 2, 7]
CALL += [["a", "why"], False]


def with_item(index: int, value: Any) -> list[Any]:
    return [*CALL[:index], value, *CALL[index + 1 :]]


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [1, [], {}, [], []],
        ["x", [], {}, [], [], None],
        [None, [], {}, [], [], None],
        [1, [[99, 1]], {}, [], [], None],
        [1, [[1]], {}, [], [], None],
        [1, 7, {}, [], [], None],
        [1, [], [7], [], [], None],
        [1, [], {"a": None}, [], [], None],
        [1, [], {}, [["s", 1]], [], None],
        [1, [], {}, [["s", 1, "2"]], [], None],
        [1, [], {}, 7, [], None],
        [1, [], {}, [], [7], None],
        [1, [], {}, [], [[]], None],
        [1, [], {}, [], [CALL[:-1]], None],
        *([1, [], {}, [], [with_item(index, 1.5)], None] for index in range(len(CALL))),
        [1, [], {}, [], [with_item(8, "no such state")], None],
        [1, [], {}, [], [with_item(12, [1])], None],
        [1, [], {}, [], [with_item(12, [99, None, "w", []])], None],
        [1, [], {}, [], [with_item(12, [1, None, "w", ["text"]])], None],
        [1, [], {}, [], [with_item(17, ["a"])], None],
        [1, [], {}, [], [with_item(17, ["a", 7])], None],
    ],
)
def test_calls_that_do_not_hold_together_are_refused_and_change_nothing(calls: list[Any]) -> None:
    fold = a_fold()
    before = (fold.to_plain(), fold.sessions.dump())
    with pytest.raises(MalformedPayload, match="cannot read the calls in a snapshot"):
        load_calls(calls, fold)
    assert (fold.to_plain(), fold.sessions.dump()) == before


def test_the_calls_that_the_others_were_made_from_are_fine() -> None:
    fold = a_fold()
    load_calls([1, [[1, 2]], {"late": 1}, [["s", 1, 2]], [CALL], None], fold)
    assert list(fold.open) == [CALLS[0]]
    assert (fold.accepted, fold.concluded[Mark.SUCCEEDED], fold.anomalies["late"]) == (1, 2, 1)

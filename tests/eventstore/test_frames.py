"""Frames: many calls, or many outcomes, in one record; and bytes that only claim to be frames."""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload, NotEncodable
from aegisipc.eventstore.frames import (
    CALLS_TYPE,
    CALLS_TYPE_V1,
    FOLDED_BODIES,
    MAX_ENTRIES,
    MAX_TIMEOUT_MS,
    PEN_TYPE,
    CallEntry,
    CallFrame,
    CallOptions,
    Mark,
    PenEntry,
    PenFrame,
    decode_calls,
    decode_pen,
    encode_calls,
    encode_pen,
)

ID_1, ID_2 = bytes(range(16)), bytes(range(16, 32))

OPTIONS = CallOptions("ord-17", 2, (41, "strategy-7"))
GOLDEN_CALLS = CallFrame(
    session=(1 << 42) - 1,
    number=7,
    epoch=3,
    entries=[CallEntry(ID_1, "place", 1000, "acc_ä", OPTIONS), CallEntry(ID_2, "ping", MAX_TIMEOUT_MS, None)],
    bodies=[b"\x93\x01\x02\x03", b""],
)
GOLDEN_CALLS_V1_HEX = (
    "95a863616c6c732e7631cf000003ffffffffff07039294c410000102030405060708090a0b0c0d0e0fa5706c616365cd03e8"
    "a66163635fc3a494c410101112131415161718191a1b1c1d1e1fa470696e67ce9a7ec800c092c40493010203c400"
)
GOLDEN_CALLS_HEX = (
    "95a863616c6c732e7632cf000003ffffffffff07039295c410000102030405060708090a0b0c0d0e0fa5706c616365cd03e8"
    "a66163635fc3a493a66f72642d3137029229aa73747261746567792d3795c410101112131415161718191a1b1c1d1e1fa470"
    "696e67ce9a7ec800c0c092c40493010203c400"
)
GOLDEN_PEN = PenFrame(
    session=1,
    number=1,
    epoch=3,
    entries=[PenEntry(Mark(number), ID_1) for number in range(5)],
    bodies=[None, b"fill", b"error", None, None],
)
GOLDEN_PEN_HEX = (
    "95a670656e2e7631010103959200c410000102030405060708090a0b0c0d0e0f9201c410000102030405060708090a0b0c0d"
    "0e0f9202c410000102030405060708090a0b0c0d0e0f9203c410000102030405060708090a0b0c0d0e0f9204c41000010203"
    "0405060708090a0b0c0d0e0f95c0c40466696c6cc4056572726f72c0c0"
)

counters = st.integers(0, (1 << 63) - 1)
numbers = st.integers(1, (1 << 63) - 1)
sessions = st.integers(0, (1 << 42) - 1)
call_ids = st.binary(min_size=16, max_size=16)
methods = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,62}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)
call_options = st.builds(
    CallOptions,
    st.none() | texts,
    st.integers(0, 2),
    st.none() | st.tuples(numbers, st.text(st.characters(codec="ascii"), min_size=1, max_size=63)),
)
call_entries = st.builds(
    CallEntry, call_ids, methods, st.integers(1, MAX_TIMEOUT_MS), st.none() | texts, st.none() | call_options
)
pen_entries = st.builds(PenEntry, st.sampled_from(Mark), call_ids)


@st.composite
def call_frames(draw: st.DrawFn) -> CallFrame:
    entries = draw(st.lists(call_entries, max_size=8))
    bodies = [draw(st.binary(max_size=40)) for _ in entries]
    return CallFrame(draw(sessions), draw(numbers), draw(counters), entries, bodies)


@st.composite
def pen_frames(draw: st.DrawFn) -> PenFrame:
    entries = draw(st.lists(pen_entries, max_size=8))
    bodies = [draw(st.none() | st.binary(max_size=40)) for _ in entries]
    return PenFrame(draw(sessions), draw(numbers), draw(counters), entries, bodies)


# -- there and back ---------------------------------------------------------------------------------------


@given(call_frames())
def test_a_call_frame_is_read_as_it_was_written(frame: CallFrame) -> None:
    assert decode_calls(encode_calls(frame)) == frame


@given(pen_frames())
def test_a_pen_frame_is_read_as_it_was_written(frame: PenFrame) -> None:
    decoded = decode_pen(encode_pen(frame))
    assert decoded == frame
    assert all(type(entry.mark) is Mark for entry in decoded.entries)


@given(call_frames(), pen_frames())
def test_a_header_only_decode_differs_by_the_bodies_alone(calls: CallFrame, pen: PenFrame) -> None:
    assert decode_calls(encode_calls(calls), bodies=False) == calls._replace(bodies=())
    is_needed = any(entry.mark in FOLDED_BODIES for entry in pen.entries)
    assert decode_pen(encode_pen(pen), bodies=False) == (pen if is_needed else pen._replace(bodies=[]))


def test_frames_of_the_first_version_are_read_as_calls_without_options() -> None:
    before = [entry._replace(options=None) for entry in GOLDEN_CALLS.entries]
    assert decode_calls(bytes.fromhex(GOLDEN_CALLS_V1_HEX)) == GOLDEN_CALLS._replace(entries=before)


def test_the_bytes_of_frames_are_frozen() -> None:
    assert encode_calls(GOLDEN_CALLS).hex() == GOLDEN_CALLS_HEX
    assert encode_pen(GOLDEN_PEN).hex() == GOLDEN_PEN_HEX
    assert decode_calls(bytes.fromhex(GOLDEN_CALLS_HEX)) == GOLDEN_CALLS
    assert decode_pen(bytes.fromhex(GOLDEN_PEN_HEX)) == GOLDEN_PEN


def test_the_marks_are_frozen_numbers() -> None:
    assert {mark.name: int(mark) for mark in Mark} == {
        "CLAIMED": 0,
        "SUCCEEDED": 1,
        "FAILED": 2,
        "EXPIRED": 3,
        "IN_DOUBT": 4,
        "NOT_EXECUTED": 5,
        "EXECUTED": 6,
        "EMITTED": 7,
        "CHECKED": 8,
        "ATTEMPTED": 9,
        "DEAD_LETTERED": 10,
        "KEYED": 11,
        "RELEASED": 12,
        "DUPLICATE": 13,
        "RETRY_SCHEDULED": 14,
        "REQUEUED": 15,
        "DISCARDED": 16,
        "CANCELLED": 17,
    }


# -- the limits, when writing -----------------------------------------------------------------------------


def calls_with(**changes: object) -> CallFrame:
    """A frame of one call, changed."""
    entry = CallEntry(ID_1, "place", 1000, None)._replace(**changes)  # type: ignore[arg-type]
    return CallFrame(1, 1, 0, [entry], [b""])


@pytest.mark.parametrize("resource", ["é" * 128, "x" * 256, "😀" * 64, "a\0b"])
def test_a_resource_of_256_bytes_of_utf_8_travels(resource: str) -> None:
    frame = calls_with(resource=resource)
    assert decode_calls(encode_calls(frame)) == frame


@pytest.mark.parametrize(
    "changes",
    [
        {"resource": "é" * 129},
        {"resource": "x" * 257},
        {"resource": ""},
        {"resource": "\ud800"},
        {"resource": 7},
        {"method": ""},
        {"method": "m" * 73},
        {"method": b"place"},
        {"method": "\ud800"},
        {"timeout_ms": 0},
        {"timeout_ms": -1},
        {"timeout_ms": MAX_TIMEOUT_MS + 1},
        {"timeout_ms": 1.5},
        {"timeout_ms": True},
        {"call_id": b"short"},
        {"call_id": "x" * 16},
        {"options": ()},
        {"options": 7},
        {"options": CallOptions(key="")},
        {"options": CallOptions(key="k" * 257)},
        {"options": CallOptions(key="é" * 129)},
        {"options": CallOptions(key="\ud800")},
        {"options": CallOptions(priority=3)},
        {"options": CallOptions(priority=-1)},
        {"options": CallOptions(priority=True)},
        {"options": CallOptions(requeue=(0, "c"))},
        {"options": CallOptions(requeue=(1, ""))},
        {"options": CallOptions(requeue=(1, "c" * 64))},
        {"options": CallOptions(requeue=(1,))},  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_no_reader_would_take_is_never_written(changes: dict[str, object]) -> None:
    with pytest.raises(NotEncodable, match=r"cannot encode a calls\.v2 frame"):
        encode_calls(calls_with(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"session": 1 << 42},
        {"session": -1},
        {"number": 0},
        {"number": 1 << 63},
        {"epoch": -1},
        {"epoch": None},
        {"bodies": []},
        {"bodies": [b"", b""]},
        {"bodies": ["text"]},
        {"bodies": [None]},
        {"bodies": b"x"},
    ],
    ids=str,
)
def test_a_frame_that_does_not_hold_together_is_never_written(changes: dict[str, object]) -> None:
    with pytest.raises(NotEncodable):
        encode_calls(calls_with()._replace(**changes))  # type: ignore[arg-type]


def test_a_pen_frame_with_an_unknown_mark_is_never_written() -> None:
    for mark in (99, True, "0"):
        with pytest.raises(NotEncodable):
            encode_pen(PenFrame(1, 1, 0, [PenEntry(mark, ID_1)], [None]))  # type: ignore[arg-type]


def test_a_frame_holds_up_to_4096_entries() -> None:
    entry = CallEntry(ID_1, "place", 1000, None)
    full = CallFrame(1, 1, 0, [entry] * MAX_ENTRIES, [b""] * MAX_ENTRIES)
    assert decode_calls(encode_calls(full)) == full
    with pytest.raises(LimitExceeded, match="4096"):
        encode_calls(full._replace(entries=[entry] * (MAX_ENTRIES + 1), bodies=[b""] * (MAX_ENTRIES + 1)))


# -- hostile bytes ----------------------------------------------------------------------------------------


def decode_each_way(payload: bytes) -> list[CallFrame | PenFrame | None]:
    """Decode as both kinds, with and without bodies; ``None`` for malformed. Others fail the test."""
    results: list[CallFrame | PenFrame | None] = []
    for decode in (decode_calls, decode_pen):
        for bodies in (True, False):
            try:
                results.append(decode(payload, bodies=bodies))
            except MalformedPayload as error:
                assert str(error).startswith("cannot read a ")  # noqa: PT017 - it may not be raised at all
                results.append(None)
    return results


def pack(*values: object) -> bytes:
    return b"".join(msgpack.packb(value) for value in values)


GOOD_CALL = [ID_1, "place", 1000, None, None]

_UP_TO_ENTRIES = pack([CALLS_TYPE, 1, 1, 0])[:-1].replace(b"\x94", b"\x95") + b"\x00"
_NOT_UTF8 = pack([CALLS_TYPE, 1, 1, 0, [[ID_1, "@", 1, None, None]]], [b""]).replace(b"@", b"\xff")

MALFORMED = {
    "nothing": b"",
    "a number": pack(1),
    "a map": pack({"a": 1}, []),
    "an empty array": pack([]),
    "header alone": pack([CALLS_TYPE, 1, 1, 0, []]),
    "too short a header": pack([CALLS_TYPE, 1, 1, 0], []),
    "too long a header": pack([CALLS_TYPE, 1, 1, 0, [], 1], []),
    "another type": pack(["calls.v9", 1, 1, 0, []], []),
    "type is no text": pack([1, 1, 1, 0, []], []),
    "session is text": pack([CALLS_TYPE, "1", 1, 0, []], []),
    "session is true": pack([CALLS_TYPE, True, 1, 0, []], []),
    "session over 42 bits": pack([CALLS_TYPE, 1 << 42, 1, 0, []], []),
    "number is zero": pack([CALLS_TYPE, 1, 0, 0, []], []),
    "number is negative": pack([CALLS_TYPE, 1, -1, 0, []], []),
    "number over 63 bits": pack([CALLS_TYPE, 1, 1 << 63, 0, []], []),
    "epoch is a float": pack([CALLS_TYPE, 1, 1, 0.0, []], []),
    "entries are text": pack([CALLS_TYPE, 1, 1, 0, ""], []),
    "entries are a map": pack([CALLS_TYPE, 1, 1, 0, {}], []),
    "entries are binary": pack([CALLS_TYPE, 1, 1, 0, b"abcd"], [b""] * 4),
    "bodies are text": pack([CALLS_TYPE, 1, 1, 0, []], ""),
    "bodies are a map": pack([CALLS_TYPE, 1, 1, 0, []], {}),
    "bodies are nil": pack([CALLS_TYPE, 1, 1, 0, []], None),
    "an entry too short": pack([CALLS_TYPE, 1, 1, 0, [GOOD_CALL[:3]]], [b""]),
    "an entry too long": pack([CALLS_TYPE, 1, 1, 0, [[*GOOD_CALL, 1]]], [b""]),
    "an entry of text": pack([CALLS_TYPE, 1, 1, 0, ["abcd"]], [b""]),
    "options of text": pack([CALLS_TYPE, 1, 1, 0, [[*GOOD_CALL[:4], "abc"]]], [b""]),
    "options that are a number": pack([CALLS_TYPE, 1, 1, 0, [[*GOOD_CALL[:4], 7]]], [b""]),
    "options too short": pack([CALLS_TYPE, 1, 1, 0, [[*GOOD_CALL[:4], [None, 1]]]], [b""]),
    "an entry of the first version": pack([CALLS_TYPE, 1, 1, 0, [GOOD_CALL[:4]]], [b""]),
    "an entry of text, first version": pack([CALLS_TYPE_V1, 1, 1, 0, ["abcd"]], [b""]),
    "an entry too long, first version": pack([CALLS_TYPE_V1, 1, 1, 0, [GOOD_CALL]], [b""]),
    "a short id": pack([CALLS_TYPE, 1, 1, 0, [[b"x", "place", 1000, None, None]]], [b""]),
    "an id of text": pack([CALLS_TYPE, 1, 1, 0, [["x" * 16, "place", 1000, None, None]]], [b""]),
    "a timeout of zero": pack([CALLS_TYPE, 1, 1, 0, [[ID_1, "place", 0, None, None]]], [b""]),
    "a timeout for ever": pack([CALLS_TYPE, 1, 1, 0, [[ID_1, "p", MAX_TIMEOUT_MS + 1, None, None]]], [b""]),
    "a resource over 256 bytes": pack([CALLS_TYPE, 1, 1, 0, [[ID_1, "p", 1, "é" * 129, None]]], [b""]),
    "no body": pack([CALLS_TYPE, 1, 1, 0, [GOOD_CALL]], []),
    "a body too many": pack([CALLS_TYPE, 1, 1, 0, [GOOD_CALL]], [b"", b""]),
    "a body of text": pack([CALLS_TYPE, 1, 1, 0, [GOOD_CALL]], [""]),
    "a call without body": pack([CALLS_TYPE, 1, 1, 0, [GOOD_CALL]], [None]),
    "something behind it": pack([CALLS_TYPE, 1, 1, 0, []], [], 1),
    "half a value behind it": pack([CALLS_TYPE, 1, 1, 0, []], []) + b"\xdc",
    "text that is not UTF-8": _NOT_UTF8,
    "a huge array header": b"\xdd\xff\xff\xff\xff",
    "a huge array of entries": _UP_TO_ENTRIES + b"\xdd\x7f\xff\xff\xff",
    "a huge map": b"\xdf\xff\xff\xff\xff",
    "a huge text": b"\xdb\xff\xff\xff\xff",
    "a huge binary": b"\xc6\xff\xff\xff\xff",
    "an extension": msgpack.packb(msgpack.ExtType(5, b"x")),
    "deep nesting": b"\x91" * 100_000 + b"\xc0",
    "deep nesting in an entry": _UP_TO_ENTRIES + b"\x91" * 5000,
    "an unknown mark": pack([PEN_TYPE, 1, 1, 0, [[99, ID_1]]], [None]),
    "a mark of true": pack([PEN_TYPE, 1, 1, 0, [[True, ID_1]]], [None]),
    "a mark that is a list": pack([PEN_TYPE, 1, 1, 0, [[[], ID_1]]], [None]),
    "a result of text": pack([PEN_TYPE, 1, 1, 0, [[1, ID_1]]], ["x"]),
}  # fmt: skip


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_a_frame_is_malformed_with_and_without_bodies(payload: bytes) -> None:
    assert decode_each_way(payload) == [None, None, None, None]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_malformed_payload(payload: bytes) -> None:
    decode_each_way(payload)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 300) | st.binary(max_size=16) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=5),
        max_leaves=20,
    ),
    st.lists(st.binary() | st.none()),
)
def test_any_entries_under_a_good_header_raise_nothing_but_malformed_payload(
    entries: object, bodies: list[object]
) -> None:
    for type_name in (CALLS_TYPE, CALLS_TYPE_V1, PEN_TYPE):
        decode_each_way(pack([type_name, 1, 1, 0, entries], bodies))


@given(st.one_of(call_frames().map(encode_calls), pen_frames().map(encode_pen)), st.data())
def test_a_mutated_frame_reads_alike_with_and_without_bodies_or_not_at_all(
    payload: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(payload) - 1))
    replacement = data.draw(st.binary(max_size=3))
    mutated = payload[:at] + replacement + payload[at + data.draw(st.integers(0, 3)) :]
    calls, calls_header, pen, pen_header = decode_each_way(mutated)
    assert (calls and calls._replace(bodies=())) == calls_header
    assert (pen and pen.entries) == (pen_header and pen_header.entries)
    assert calls is None or pen is None


@given(call_frames().map(encode_calls), st.data())
def test_a_frame_cut_short_is_malformed(payload: bytes, data: st.DataObject) -> None:
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    assert decode_each_way(cut) == [None, None, None, None]

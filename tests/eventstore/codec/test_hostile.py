"""Bytes from anybody: a value or one of two errors, in bounded time and space."""

from __future__ import annotations

import struct
import time
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import ExtType, packb  # type: ignore[import-untyped]

from aegisipc.eventstore.codec import DEFAULT_LIMITS, Limits, decode, encode
from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload

TUPLE, SET, FROZENSET = (ExtType(16, bytes([number])) for number in (1, 2, 3))
MAP_HEADER_BYTES = st.sampled_from(
    [0x80, 0x81, 0x91, 0x92, 0x93, 0xC7, 0xD4, 0xD6, 0xDC, 0xDD, 0xDE, 0xDF, 16, 1, 2, 3]
)
SEED = encode(
    {
        "a": [1, (2, {3, Decimal("4.5")}), {5: b"6", (7,): "8"}],
        "at": datetime(2024, 1, 1, tzinfo=UTC),
        "n": 2**70,
    },
)


def decodes_or_is_refused(data: bytes, limits: Limits = DEFAULT_LIMITS) -> None:
    try:
        value = decode(data, limits=limits)
    except (MalformedPayload, LimitExceeded):
        return
    encode(value)


@given(st.binary(max_size=200))
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_are_decoded_or_refused(data: bytes) -> None:
    decodes_or_is_refused(data)


@given(st.lists(st.one_of(MAP_HEADER_BYTES, st.integers(0, 255)), max_size=60).map(bytes))
@settings(max_examples=400, deadline=None)
def test_bytes_that_look_like_the_format_are_decoded_or_refused(data: bytes) -> None:
    decodes_or_is_refused(data)


@given(
    st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(SEED)),
)
@settings(max_examples=400, deadline=None)
def test_damaged_payloads_are_decoded_or_refused(edits: list[tuple[int, int]], end: int) -> None:
    data = bytearray(SEED)
    for position, byte in edits:
        data[position] = byte
    decodes_or_is_refused(bytes(data))
    decodes_or_is_refused(bytes(data[:end]))


@given(st.integers(-128, 127), st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_every_extension_code_with_any_payload_is_decoded_or_refused(code: int, payload: bytes) -> None:
    decodes_or_is_refused(struct.pack(">BBb", 0xC7, len(payload), code) + payload)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        b"\x01\x02",
        b"\xa1\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdd\x00\x00\x00\x09",
        b"\xd4\xff\x00",
        b"\xd7\xff" + b"\xff" * 8,
        packb([1, TUPLE]),
        packb({"a": TUPLE}),
        packb([TUPLE, TUPLE]),
        packb(TUPLE),
        packb([ExtType(16, b"\x09")]),
        packb([ExtType(16, b"")]),
        packb(ExtType(99, b"x")),
        packb([SET, []]),
        packb([SET, {}]),
        packb([SET, 1, 1]),
        packb([FROZENSET, 1, True]),
        b"\x81\x90\x01",
        packb(ExtType(1, b"")),
        packb(ExtType(1, b"\x05")),
        packb(ExtType(1, b"\x00\x00" + b"\xff" * 8)),
        packb(ExtType(2, b"1_0")),
        packb(ExtType(2, b" 1")),
        packb(ExtType(2, b"")),
        packb(ExtType(2, "\u0661".encode())),
        packb(ExtType(2, b"1E+99999999999999999999")),
        packb(ExtType(3, b"\x07\xe8\x0d\x01\x00\x00\x00\x00\x00\x00\x00\x00")),
        packb(ExtType(3, b"\x07\xe8\x01\x01\x18\x00\x00\x00\x00\x00\x00\x00")),
        packb(ExtType(3, b"\x07\xe8\x01\x01\x00\x00\x00\x0a\x00\x00\x00\x00")),
        packb(ExtType(3, b"\x07\xe8\x01\x01\x00\x00\x00\x08\x00\x00\x00\x00UTC")),
        packb(ExtType(4, b"\x00\x00\x01\x01")),
        packb(ExtType(5, b"\x00\x00\x3c\x00\x00\x00\x00\x00")),
        packb(ExtType(6, struct.pack(">iII", 1, 86_400, 0))),
        packb(ExtType(6, struct.pack(">iII", 2_000_000_000, 0, 0))),
        packb(ExtType(7, b"short")),
        packb(ExtType(8, b"short")),
    ],
    ids=lambda data: data.hex() or "empty",
)
def test_malformed_bytes_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(MalformedPayload):
        decode(data)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "Europe/../Paris",
        "No/Such",
        "Europe",
        "a" * 65,
        "",
        "Europe/Paris\0",
        "tzdata.zi",
    ],
)
def test_a_zone_name_can_only_be_a_zone(name: str) -> None:
    payload = struct.pack(">HBBBBBBIq", 2024, 1, 1, 0, 0, 0, 6, 0, 0) + name.encode()
    with pytest.raises(MalformedPayload):
        decode(packb(ExtType(3, payload)))


@pytest.mark.parametrize(
    "wrapped", [b"\x91", b"\x92\xd4\x10\x01", b"\x92\xd4\x10\x03", b"\x81\xa1a", b"\x81\x01"], ids=bytes.hex
)
def test_depth_is_limited_to_the_level(wrapped: bytes) -> None:
    innermost = b"\x91\xd4\x10\x03"  # an empty frozenset: also fit for a set
    decode(wrapped * 63 + innermost)
    with pytest.raises(LimitExceeded):
        decode(wrapped * 64 + innermost)


@pytest.mark.parametrize(
    "opener",
    [b"\x91", b"\x92\xd4\x10\x01", b"\x92\xd4\x10\x03", b"\x81\x01", b"\x81\x92\xd4\x10\x01"],
    ids=bytes.hex,
)
@pytest.mark.parametrize("levels", [900, 1_100, 100_000])
def test_bottomless_nesting_is_refused(opener: bytes, levels: int) -> None:
    with pytest.raises((LimitExceeded, MalformedPayload)):
        decode(opener * levels + b"\x01" * levels)


def test_containers_inside_keys_count_for_the_depth() -> None:
    key: Any = ()
    for _ in range(70):
        key = (key,)
    with pytest.raises(LimitExceeded):
        decode(encode({key: 1}))


@pytest.mark.parametrize("header", [b"\xdd", b"\xdf"])
def test_a_header_that_claims_billions_allocates_nothing(header: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            decode((header + b"\xff\xff\xff\xff") * 1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("limits", "value"),
    [
        (Limits(max_bytes=10), "a" * 11),
        (Limits(max_items=10), list(range(11))),
        (Limits(max_items=10), {str(number): 1 for number in range(11)}),
        (Limits(max_objects=10), [[] for _ in range(11)]),
        (Limits(max_objects=10), [Decimal(number) for number in range(11)]),
        (Limits(max_number_bytes=10), 1 << 100),
        (Limits(max_number_bytes=10), Decimal(12345678901)),
        (Limits(max_depth=2), [[[]]]),
        (Limits(max_depth=0), [1]),
        (DEFAULT_LIMITS, 1 << (8 * 70_000)),
    ],
    ids=lambda part: str(part)[:40] if isinstance(part, Limits) else "",
)
def test_every_limit_holds(limits: Limits, value: Any) -> None:
    with pytest.raises(LimitExceeded):
        decode(encode(value), limits=limits)
    decode(encode(value), limits=Limits(max_number_bytes=1_000_000))


def test_a_memoryview_over_the_limit_is_refused_before_it_is_copied() -> None:
    with pytest.raises(LimitExceeded):
        decode(memoryview(bytes(100)), limits=replace(DEFAULT_LIMITS, max_bytes=99))


PRIME = (1 << 61) - 1  # hash(n) == hash(n + PRIME)


@pytest.mark.parametrize("tag", [1, 2])
def test_members_that_share_a_hash_are_refused(tag: int) -> None:
    members = b"".join(encode(1 + PRIME * number) for number in range(1000))
    with pytest.raises(LimitExceeded):
        decode(b"\xdc" + struct.pack(">H", 1001) + bytes([0xD4, 16, tag + 1]) + members)


def test_keys_that_share_a_hash_are_refused_quickly() -> None:
    count = 60_000
    body = b"".join(encode(1 + PRIME * (8 + number)) + b"\x01" for number in range(count))
    started = time.perf_counter()
    with pytest.raises(LimitExceeded):
        decode(b"\xdf" + struct.pack(">I", count) + body)
    assert time.perf_counter() - started < 5


def test_a_few_keys_may_share_a_hash() -> None:
    value = {1 + PRIME * number: number for number in range(64)}
    assert decode(encode(value)) == value

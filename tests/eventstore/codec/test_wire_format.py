"""The bytes are a contract: values stored years ago must read as what they were."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from aegisipc.eventstore.codec import decode, encode

PARIS = ZoneInfo("Europe/Paris")

GOLDEN: list[tuple[Any, str]] = [
    (None, "c0"),
    (True, "c3"),
    ([1, -1, 1.5, "a", b"b"], "9501ffcb3ff8000000000000a161c40162"),
    ({"a": {1: None}}, "81a1618101c0"),
    (2**64, "c70901010000000000000000"),
    (-(2**63) - 1, "c70901ff7fffffffffffffff"),
    (Decimal("-1.50"), "c705022d312e3530"),
    (Decimal("1E+9"), "d60231452b39"),
    (datetime(2024, 2, 29, 13, 14, 15, 16), "c70c0307e8021d0d0e0f0000000010"),  # noqa: DTZ001
    (datetime(2024, 2, 29, 13, 14, 15, 16, fold=1), "c70c0307e8021d0d0e0f0100000010"),  # noqa: DTZ001
    (datetime(2024, 2, 29, 13, 14, 15, 16, tzinfo=UTC), "c70c0307e8021d0d0e0f0200000010"),
    (
        datetime(2024, 2, 29, 13, 14, 15, 16, tzinfo=timezone(timedelta(hours=-5, seconds=-1))),
        "c7140307e8021d0d0e0f0400000010fffffffbcf0e89c0",
    ),
    (
        datetime(2024, 10, 27, 2, 30, tzinfo=PARIS, fold=1),
        "c7200307e80a1b021e00070000000000000000d693a4004575726f70652f5061726973",
    ),
    (date(2024, 2, 29), "d60407e8021d"),
    (time(13, 14, 15, 16), "d7050d0e0f0000000010"),
    (time(13, 14, tzinfo=UTC), "d7050d0e000200000000"),
    (time(13, 14, tzinfo=timezone(timedelta(hours=1))), "d8050d0e00040000000000000000d693a400"),
    (time(13, 14, tzinfo=PARIS, fold=1), "c714050d0e0009000000004575726f70652f5061726973"),
    (time(13, 14, tzinfo=ZoneInfo("UTC")), "c713050d0e0006000000000000000000000000555443"),
    (timedelta(days=-1, seconds=2, microseconds=3), "c70c06ffffffff0000000200000003"),
    (UUID("00112233-4455-6677-8899-aabbccddeeff"), "d80700112233445566778899aabbccddeeff"),
    (complex(1, -2), "d8083ff0000000000000c000000000000000"),
    ((1, (2,)), "93d410010192d4100102"),
    ((), "91d41001"),
    ({1, 2}, "93d410020102"),
    (frozenset({"a"}), "92d41003a161"),
    ({(1, "a"): {Decimal(5): date(2024, 1, 1)}}, "8193d4100101a16181d40235d60407e80101"),
]


@pytest.mark.parametrize(("value", "wire"), GOLDEN, ids=[repr(case[0]) for case in GOLDEN])
def test_a_value_has_the_bytes_it_always_had(value: Any, wire: str) -> None:
    assert encode(value).hex() == wire
    assert repr(decode(bytes.fromhex(wire))) == repr(value)


def test_the_timestamp_of_other_messagepack_writers_is_read_as_utc() -> None:
    assert decode(bytes.fromhex("d6ff00000001")) == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_when_zone_databases_disagree_the_instant_is_kept() -> None:
    wire = encode(datetime(2024, 1, 1, 12, tzinfo=PARIS))
    hour = (3_600_000_000).to_bytes(8, "big")
    other = wire.replace(hour, (7_200_000_000).to_bytes(8, "big"))
    assert other != wire
    assert decode(other) == datetime(2024, 1, 1, 10, tzinfo=UTC)
    assert decode(other).tzinfo is PARIS

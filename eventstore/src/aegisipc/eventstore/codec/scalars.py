"""Extension values: one writer and one reader per scalar type that MessagePack lacks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID

from aegisipc.eventstore.codec import wire
from aegisipc.eventstore.codec.moments import (
    date_bytes,
    datetime_bytes,
    read_date,
    read_datetime,
    read_time,
    time_bytes,
)
from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload

_TIMEDELTA: Final = struct.Struct(">iII")
_COMPLEX: Final = struct.Struct(">dd")
_SECONDS_PER_DAY: Final = 86_400
_MICROSECONDS_PER_SECOND: Final = 1_000_000

# Without the trap an exponent out of range would silently become NaN.
_DECIMAL_CONTEXT: Final = Context(traps=[InvalidOperation])


def write_int(value: int) -> Any:
    """An exact int if MessagePack can hold it, else an extension value."""
    exact = int(value)
    if wire.MIN_INT64 <= exact <= wire.MAX_UINT64:
        return exact
    return wire.ext(wire.BIG_INT, exact.to_bytes(_signed_size(exact), "big", signed=True))


def _signed_size(value: int) -> int:
    return (value if value >= 0 else ~value).bit_length() // 8 + 1


def _read_int(payload: bytes) -> int:
    value = int.from_bytes(payload, "big", signed=True)
    if wire.MIN_INT64 <= value <= wire.MAX_UINT64 or len(payload) != _signed_size(value):
        raise ValueError("not the shortest form")
    return value


def write_decimal(value: Decimal) -> Any:
    """The exact value: digits, exponent and sign, also of zero and NaN."""
    return wire.ext(wire.DECIMAL, Decimal.__str__(value).encode("ascii"))


def _read_decimal(payload: bytes) -> Decimal:
    text = payload.decode("ascii")
    value = Decimal(text, _DECIMAL_CONTEXT)
    # The parser takes many spellings; one value must have one, except that the decimal context of the
    # sender, like ours here, chooses between ``E`` and ``e``.
    canonical = str(value)
    if canonical != text and canonical.upper() != text.upper():
        raise ValueError("not in canonical form")
    return value


def _write_timedelta(value: timedelta) -> Any:
    return wire.ext(wire.TIMEDELTA, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds))


def _read_timedelta(payload: bytes) -> timedelta:
    days, seconds, microseconds = _TIMEDELTA.unpack(payload)
    if seconds >= _SECONDS_PER_DAY or microseconds >= _MICROSECONDS_PER_SECOND:
        raise ValueError("not normalized")
    return timedelta(days, seconds, microseconds)


def _read_uuid(payload: bytes) -> UUID:
    return UUID(bytes=payload)


def _read_complex(payload: bytes) -> complex:
    return complex(*_COMPLEX.unpack(payload))


WRITERS: Final[dict[type, Callable[[Any], Any]]] = {
    int: write_int,
    Decimal: write_decimal,
    datetime: lambda value: wire.ext(wire.DATETIME, datetime_bytes(value)),
    date: lambda value: wire.ext(wire.DATE, date_bytes(value)),
    time: lambda value: wire.ext(wire.TIME, time_bytes(value)),
    timedelta: _write_timedelta,
    UUID: lambda value: wire.ext(wire.UUID_BYTES, value.bytes),
    complex: lambda value: wire.ext(wire.COMPLEX, _COMPLEX.pack(value.real, value.imag)),
}

_READERS: Final[dict[int, Callable[[bytes], Any]]] = {
    wire.BIG_INT: _read_int,
    wire.DECIMAL: _read_decimal,
    wire.DATETIME: read_datetime,
    wire.DATE: read_date,
    wire.TIME: read_time,
    wire.TIMEDELTA: _read_timedelta,
    wire.UUID_BYTES: _read_uuid,
    wire.COMPLEX: _read_complex,
}


def read_scalar(code: int, payload: bytes, max_bytes: int) -> Any:
    """The value of an extension; raises `MalformedPayload` or `LimitExceeded`."""
    reader = _READERS.get(code)
    if reader is None:
        raise MalformedPayload(f"cannot decode: unknown extension code {code}", ext_code=code)
    if len(payload) > max_bytes:
        message = f"cannot decode: an extension value of {len(payload)} bytes is over {max_bytes}"
        raise LimitExceeded(message, size_bytes=len(payload), limit_bytes=max_bytes)
    try:
        return reader(payload)
    except Exception as error:
        raise MalformedPayload(f"cannot decode extension {code}: {error}", ext_code=code) from error

"""Dates and times as fixed fields, with the fold, the offset and the zone's name.

::

    date      year u16, month u8, day u8
    time      hour u8, minute u8, second u8, flags u8, microsecond u32, then the zone
    datetime  a date, then a time
    zone      nothing (naive, UTC); offset from UTC in microseconds, int64; that, then the zone's name

The flags are the fold (1) plus one of: naive (0), UTC (2), offset (4), offset and name (6), name only (8: a
time of day in a zone whose offset depends on the date). All big-endian.
"""

from __future__ import annotations

import re
import struct
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

_DATE: Final = struct.Struct(">HBB")
_TIME: Final = struct.Struct(">BBBBI")
_DATETIME: Final = struct.Struct(">HBBBBBBI")
_OFFSET: Final = struct.Struct(">q")

_FOLD: Final = 1
_NAIVE: Final = 0
_UTC: Final = 2
_WITH_OFFSET: Final = 4
_WITH_OFFSET_AND_NAME: Final = 6
_WITH_NAME: Final = 8

_MICROSECOND: Final = timedelta(microseconds=1)
# No dots, no leading slash: a name can only be a file below the zone database's own directories.
_ZONE_NAME: Final = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9_+\-]+(?:/[A-Za-z0-9_+\-]+)*")


def datetime_bytes(value: datetime) -> bytes:
    """The wall clock, the fold, the offset and the zone's name."""
    kind, zone = _zone_bytes(value)
    fields = _DATETIME.pack(
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        kind + value.fold,
        value.microsecond,
    )
    return fields + zone if zone else fields


def time_bytes(value: time) -> bytes:
    """Like `datetime_bytes`, for a time of day."""
    kind, zone = _zone_bytes(value)
    return _TIME.pack(value.hour, value.minute, value.second, kind + value.fold, value.microsecond) + zone


def date_bytes(value: date) -> bytes:
    """Year, month and day."""
    return _DATE.pack(value.year, value.month, value.day)


def read_datetime(payload: bytes) -> datetime:
    """The inverse of `datetime_bytes`; raises ValueError, struct.error or OverflowError.

    The offset on the wire wins over the local zone database: if they disagree, the instant is kept.
    """
    year, month, day, hour, minute, second, flags, microsecond = _DATETIME.unpack_from(payload)
    fold = flags & _FOLD
    if flags < _WITH_OFFSET and len(payload) == _DATETIME.size:  # nearly all of them
        zone_or_none = UTC if flags & _UTC else None
        return datetime(year, month, day, hour, minute, second, microsecond, zone_or_none, fold=fold)
    offset, zone = _read_zone(flags, payload, _DATETIME.size)
    if zone is not None and offset is None:
        raise ValueError("a zone needs an offset")
    local = datetime(year, month, day, hour, minute, second, microsecond, zone or offset, fold=fold)
    if zone is None or local.utcoffset() == _utc_offset(offset):
        return local
    return local.replace(tzinfo=offset).astimezone(zone)


def read_time(payload: bytes) -> time:
    """The inverse of `time_bytes`; raises ValueError or struct.error."""
    hour, minute, second, flags, microsecond = _TIME.unpack_from(payload)
    offset, zone = _read_zone(flags, payload, _TIME.size)
    return time(hour, minute, second, microsecond, zone or offset, fold=flags & _FOLD)


def read_date(payload: bytes) -> date:
    """The inverse of `date_bytes`; raises ValueError or struct.error."""
    return date(*_DATE.unpack(payload))


def _zone_bytes(value: datetime | time) -> tuple[int, bytes]:
    zone = value.tzinfo
    if zone is None:
        return _NAIVE, b""
    if zone is UTC:
        return _UTC, b""
    offset = value.utcoffset()
    name = zone.key if isinstance(zone, ZoneInfo) else None
    if name and _ZONE_NAME.fullmatch(name):
        encoded = name.encode("ascii")
        return (
            (_WITH_NAME, encoded)
            if offset is None
            else (_WITH_OFFSET_AND_NAME, _offset_bytes(offset) + encoded)
        )
    return (_NAIVE, b"") if offset is None else (_WITH_OFFSET, _offset_bytes(offset))


def _offset_bytes(offset: timedelta) -> bytes:
    return _OFFSET.pack(offset // _MICROSECOND)


def _read_zone(flags: int, payload: bytes, start: int) -> tuple[tzinfo | None, ZoneInfo | None]:
    kind = flags & ~_FOLD
    if kind in {_WITH_OFFSET, _WITH_OFFSET_AND_NAME}:
        (microseconds,) = _OFFSET.unpack_from(payload, start)
        start += _OFFSET.size
        offset: tzinfo | None = timezone(timedelta(microseconds=microseconds))
    elif kind in {_NAIVE, _UTC, _WITH_NAME}:
        offset = UTC if kind == _UTC else None
    else:
        raise ValueError("unknown flags")
    if kind >= _WITH_OFFSET_AND_NAME:
        return offset, _zone_named(payload[start:])
    if len(payload) != start:
        raise ValueError("wrong size")
    return offset, None


def _zone_named(name: bytes) -> ZoneInfo:
    text = name.decode("ascii")
    if not _ZONE_NAME.fullmatch(text):
        raise ValueError("not a zone name")
    return ZoneInfo(text)


def _utc_offset(zone: tzinfo | None) -> timedelta | None:
    return None if zone is None else zone.utcoffset(None)

"""Which part of a log to export: around a call, or between two points."""

from __future__ import annotations

from typing import Final, NamedTuple

from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Start
from aegisipc.eventstore.replay.bundle_errors import BadRange
from aegisipc.eventstore.replay.finding import calls_beginning_with
from aegisipc.eventstore.replay.point_texts import (
    Ago,
    AtTime,
    BadPoint,
    OfCall,
    TimeOfDay,
    parse_point,
)
from aegisipc.eventstore.replay.points import Extent, Point, extent_of, resolve
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.replay.timeline import first_from
from aegisipc.eventstore.seeking import read_history

MARGIN_NS: Final = 30_000_000_000
"""So much before a call was accepted, and after it was concluded, belongs to what happened around it."""


class Range(NamedTuple):
    """Records ``from_seq`` up to and with ``until_seq``; and heartbeats up to ``until_ns``."""

    from_seq: int
    until_seq: int
    until_ns: int


async def around(source: Source, call: str) -> Range:
    """Return the range from 30 s before a call (an id, or 8 hexadecimal digits of its beginning) was accepted
    to 30 s after its outcome, or to the end of the log if that is earlier.

    Raises:
        BadPoint: that can be no call.
        UnknownCall, AmbiguousCall: the log has no such call, or several.
    """
    accepted = await calls_beginning_with(source.log, source.subjects, digits_of(call))
    history = await read_history(source.log, source.subjects, accepted.call_id, until_final=True)
    extent = await extent_of(source)
    concluded_ns = _concluded_ns(history)
    until_ns = extent.end_ns if concluded_ns is None else min(extent.end_ns, concluded_ns + MARGIN_NS)
    first = await _first_at(source, max(0, accepted.at_ns - MARGIN_NS), extent)
    return Range(first, await _last_at(source, until_ns, extent), until_ns)


def digits_of(call: str) -> str:
    """Return the hexadecimal digits that somebody gave of a call's id.

    Raises:
        BadPoint: that can be no call.
    """
    wanted = parse_point(call)
    if isinstance(wanted.what, OfCall) and not wanted.before:
        return wanted.what.digits
    raise BadPoint(
        f"cannot export what is around {call!r:.80}: give a call's id, or its first 8 digits or more",
        text=call,
    )


def _concluded_ns(history: CallHistory) -> int | None:
    if history.is_final and history.steps:
        return history.steps[-1].at_ns
    if history.state is CallState.DEAD_LETTERED and history.dead_letter is not None:
        return history.dead_letter.at_ns
    return None


async def between(source: Source, begin: str, end: str) -> Range:
    """Return the range from one point to another, both of which belong to it; see
    :func:`~aegisipc.eventstore.replay.points.resolve` for how they are written.

    Raises:
        BadPoint, PointOutsideLog, NoSuchEvent, UnknownCall, AmbiguousCall: as there.
        BadRange: the end is before the beginning, or no record is between them.
    """
    first, last = await resolve(source, begin), await resolve(source, end)
    from_seq = await _first_of(source, begin, first)
    if from_seq > last.seq:
        swapped = first.at_ns > last.at_ns
        raise BadRange(
            f"cannot export from {begin!r} to {end!r}: "
            + (
                "that is backwards; swap them"
                if swapped
                else "no record is between them; choose a wider range"
            ),
            from_seq=from_seq,
            until_seq=last.seq,
            first_seq=first.extent.first_seq,
            last_seq=first.extent.last_seq,
        )
    return Range(from_seq, last.seq, last.at_ns)


async def _first_of(source: Source, text: str, point: Point) -> int:
    """The state at a point is the one after a record; a range begins with the first record of a time."""
    if isinstance(parse_point(text).what, AtTime | TimeOfDay | Ago):
        return await _first_at(source, point.at_ns, point.extent)
    return max(point.seq, point.extent.first_seq)


async def _first_at(source: Source, at_ns: int, extent: Extent) -> int:
    found = await first_from(source.log, [source.subjects.everything], Start(time_ns=at_ns))
    return extent.last_seq + 1 if found is None else found.seq


async def _last_at(source: Source, at_ns: int, extent: Extent) -> int:
    following = await first_from(source.log, [source.subjects.everything], Start(time_ns=at_ns + 1))
    return extent.last_seq if following is None else min(extent.last_seq, following.seq - 1)

"""Points in a history: finding the one that somebody means.

The state *at* a point is the state after the record ``seq``, with the heartbeats up to ``at_ns``. How a point
is written: :mod:`aegisipc.eventstore.replay.point_texts`.
"""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.replay.extents import Extent, Point
from aegisipc.eventstore.replay.filters import ALL, Filters
from aegisipc.eventstore.replay.finding import calls_beginning_with, first_event, last_event, latest_word
from aegisipc.eventstore.replay.moments import iso
from aegisipc.eventstore.replay.point_texts import (
    NS,
    Ago,
    AtSeq,
    AtTime,
    BadPoint,
    Edge,
    OfCall,
    OfEvent,
    TimeOfDay,
    Wanted,
    meant,
    parse_point,
)
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.replay.timeline import first_from

__all__ = [
    "BadPoint",
    "Extent",
    "NoSuchEvent",
    "Point",
    "PointOutsideLog",
    "extent_of",
    "resolve",
]

_DAY_NS: Final = 86_400 * NS


class PointOutsideLog(AegisError):
    """A point before the log or after its end. Fields: ``first_seq``, ``last_seq``, ``first``, ``end``."""

    code = "point_outside_log"


class NoSuchEvent(AegisError):
    """Nothing like that ever happened in this log. Field: ``event``."""

    code = "no_such_event"


async def extent_of(source: Source) -> Extent:
    """Look up what the log holds now."""
    bounds = await source.log.bounds()
    first = last = None
    if bounds.last_seq >= bounds.first_seq:
        first = await first_from(source.log, [source.subjects.everything], Start(bounds.first_seq))
        last = await _record_at(source, bounds.last_seq)
    first_ns = first.timestamp_ns if first is not None else 0
    last_ns = last.timestamp_ns if last is not None else 0
    return Extent(bounds.first_seq, bounds.last_seq, first_ns, last_ns, max(last_ns, bounds.now_ns))


async def resolve(source: Source, text: str, filters: Filters = ALL) -> Point:
    """Find the point that `text` means. Service and group of the `filters` choose among events and marks.

    Raises:
        BadPoint: it is no point.
        PointOutsideLog: the log does not reach so far; the message says what it holds.
        NoSuchEvent: nothing of the kind is in the log.
        UnknownCall, AmbiguousCall: no call's id begins so, or several do.
    """
    wanted = parse_point(text)
    extent = await extent_of(source)
    if extent.is_empty:
        raise PointOutsideLog(
            f"cannot find {wanted.text!r}: the log of {source.about} is empty",
            **_range(extent),
        )
    match wanted.what:
        case AtTime() | TimeOfDay() | Ago():
            return await _at_time(source, wanted, extent)
        case Edge(is_end=True) if not wanted.before:
            return Point(extent.last_seq, extent.end_ns, wanted.text, extent)
        case Edge(is_end=is_end):
            seq = extent.last_seq if is_end else extent.first_seq
        case AtSeq(seq):
            pass
        case OfCall() as call:
            seq = await _of_call(source, call)
        case OfEvent() as event:
            seq = await _of_event(source, wanted, event, filters)
    if not extent.first_seq <= seq <= extent.last_seq:
        raise _outside(wanted, f"sequence {seq}", "before" if seq < extent.first_seq else "after", extent)
    record = await _record_at(source, seq)
    at_ns = record.timestamp_ns if record is not None else extent.last_ns
    # Just before it, with all that was heard until then: what differs is what this record made of it.
    return Point(seq - 1 if wanted.before else seq, at_ns, wanted.text, extent)


# -- times ----------------------------------------------------------------------------------------------


async def _at_time(source: Source, wanted: Wanted, extent: Extent) -> Point:
    at_ns = _moment(wanted, extent)
    if at_ns < extent.first_ns:
        raise _outside(wanted, _shown(at_ns), "before", extent)
    if at_ns > extent.end_ns:
        raise _outside(wanted, _shown(at_ns), "after", extent)
    at_ns -= wanted.before  # a whole nanosecond
    following = await first_from(source.log, [source.subjects.everything], Start(time_ns=at_ns + 1))
    is_later = following is not None and following.seq <= extent.last_seq
    seq = following.seq - 1 if following is not None and is_later else extent.last_seq
    return Point(seq, at_ns, wanted.text, extent)


def _moment(wanted: Wanted, extent: Extent) -> int:
    match wanted.what:
        case Ago(ns):
            return extent.end_ns - ns
        case TimeOfDay(ns):
            midnight_ns = extent.end_ns - extent.end_ns % _DAY_NS
            return midnight_ns + ns - (_DAY_NS if midnight_ns + ns > extent.end_ns else 0)
        case AtTime(ns):
            return ns
    raise BadPoint(f"cannot find a time in {wanted.text!r}", text=wanted.text)


# -- calls and events -----------------------------------------------------------------------------------


async def _of_call(source: Source, call: OfCall) -> int:
    found = await calls_beginning_with(source.log, source.subjects, call.digits)
    return found.seq if call.which == "first" else await latest_word(source.log, source.subjects, found)


async def _of_event(source: Source, wanted: Wanted, event: OfEvent, filters: Filters) -> int:
    filters = Filters(filters.service, filters.group)
    find = first_event if event.which == "first" else last_event
    found = await find(source.log, source.subjects, event, filters)
    if found is None:
        name = f"{event.name}.{event.version}" if event.version else event.name
        among = f" of {filters.said}" if filters.said else ""
        raise NoSuchEvent(
            f"cannot find {wanted.text!r}: no {name}{among} is in the log of {source.about}; "
            f"{meant(event.name)}'aegis log tail' shows what there is",
            event=name,
        )
    return found.seq


async def _record_at(source: Source, seq: int) -> Record | None:
    return await first_from(source.log, [source.subjects.everything], Start(seq))


# -- what is told ---------------------------------------------------------------------------------------


def _outside(wanted: Wanted, what: str, side: str, extent: Extent) -> PointOutsideLog:
    is_it = "" if what == wanted.text else f" ({what})"
    return PointOutsideLog(
        f"cannot go to {wanted.text!r}{is_it}: it is {side} the log, which holds sequences "
        f"{extent.first_seq} to {extent.last_seq}, from {_shown(extent.first_ns)} to {_shown(extent.end_ns)}",
        **_range(extent),
    )


def _range(extent: Extent) -> dict[str, object]:
    return {
        "first_seq": extent.first_seq,
        "last_seq": extent.last_seq,
        "first": _shown(extent.first_ns) if not extent.is_empty else None,
        "end": _shown(extent.end_ns),
    }


def _shown(ns: int) -> str:
    """A time as it may be given again; of what no calendar has, its seconds."""
    return iso(ns) or f"{ns // NS} s of Unix time"

"""Finding calls by a part of their id, and the first or last event of a type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.errors import AegisError, MalformedPayload, UnknownCall
from aegisipc.eventstore.frames import Mark, decode_calls, decode_pen
from aegisipc.eventstore.histories import PEN_MOVES, AcceptedCall
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.log import Log, Record, Start
from aegisipc.eventstore.replay.filters import Filters
from aegisipc.eventstore.replay.point_texts import ACCEPTED, MARKS, OfEvent
from aegisipc.eventstore.seeking import MAX_ACCEPT_DELAY_S, SEEK_MARGIN_S, find_call, read_history
from aegisipc.eventstore.subjects import CALL, CANCEL, CONTRACT, DEAD, HA, PEN, Subjects

MAX_CANDIDATES: Final = 8
"""So many calls are named whose ids begin alike."""

_HEX: Final = 32
_MS_HEX: Final = 12
"""Digits of an id that are its time, in milliseconds."""
_MS_NS: Final = 1_000_000
_NEAR_S: Final = 1
_FIRST_WINDOW: Final = 256
_WIDEN: Final = 8
_DEAD_MARKS: Final = frozenset({Mark.DEAD_LETTERED, Mark.REQUEUED, Mark.DISCARDED})


class AmbiguousCall(AegisError):
    """Several calls' ids begin so. Field: ``candidates``, the first few of them."""

    code = "ambiguous_call"


# -- calls ----------------------------------------------------------------------------------------------


async def calls_beginning_with(log: Log, subjects: Subjects, digits: str) -> AcceptedCall:
    """Return the one call whose id begins with these hexadecimal digits (at least 8, without hyphens).

    Raises:
        UnknownCall: the log has none.
        AmbiguousCall: it has several.
    """
    if len(digits) == _HEX:
        return await find_call(log, subjects, bytes.fromhex(digits))
    found: list[CallId] = []
    # Nearly every call is accepted within a second of the time in its id: look further only for want of any.
    for before_s, after_s in ((_NEAR_S, _NEAR_S), (SEEK_MARGIN_S, MAX_ACCEPT_DELAY_S)):
        found = await _candidates(log, subjects, digits, before_s, after_s)
        if found:
            break
    if not found:
        raise UnknownCall(
            f"cannot find a call whose id begins with {digits!r}: the log holds none; give the whole id, "
            "as submit() returned it",
            call_id=digits,
        )
    if len(found) > 1:
        raise _ambiguous(digits, found)
    return await find_call(log, subjects, found[0])


def _ambiguous(digits: str, found: Sequence[CallId]) -> AmbiguousCall:
    shown = [format_call_id(call_id) for call_id in found[:MAX_CANDIDATES]]
    more = "\n  and others" if len(found) > MAX_CANDIDATES else ""
    listed = "".join(f"\n  {candidate}" for candidate in shown)
    return AmbiguousCall(
        f"cannot tell which call {digits!r} is: give more digits of one of{listed}{more}",
        digits=digits,
        candidates=shown,
    )


async def _candidates(log: Log, subjects: Subjects, digits: str, before_s: int, after_s: int) -> list[CallId]:
    """The ids that begin so, among the calls that were accepted around the time which that means: one more
    than are named at the most.
    """
    time_part = digits[:_MS_HEX]
    earliest_ns = int(time_part.ljust(_MS_HEX, "0"), 16) * _MS_NS
    latest_ns = int(time_part.ljust(_MS_HEX, "f"), 16) * _MS_NS
    give_up_ns = latest_ns + after_s * 1_000_000_000
    start = Start(time_ns=max(0, earliest_ns - before_s * 1_000_000_000))
    found: dict[CallId, None] = {}
    async for record in log.read([subjects.of_kind("*", "*", CALL)], start=start):
        if record.timestamp_ns > give_up_ns:
            break
        for call_id in _calls_in(record):
            if call_id.hex().startswith(digits):
                found[call_id] = None
        if len(found) > MAX_CANDIDATES:
            break
    return list(found)


def _calls_in(record: Record) -> Iterator[CallId]:
    try:
        yield from (entry.call_id for entry in decode_calls(record.payload, bodies=False).entries)
    except MalformedPayload:  # the fold counts it
        return


async def latest_word(log: Log, subjects: Subjects, call: AcceptedCall) -> int:
    """Return where the latest word about a call stands that counted. A move of the pen is none."""
    history = await read_history(log, subjects, call.call_id)
    moves = PEN_MOVES.values()
    words = (step.seq for step in history.steps if step.counts and step.what not in moves)
    return max(words, default=call.seq)


# -- events ---------------------------------------------------------------------------------------------


async def first_event(log: Log, subjects: Subjects, event: OfEvent, filters: Filters) -> Record | None:
    """Return the first record that says so, or ``None``."""
    says = _says(event)
    async for record in log.read(_where(subjects, event, filters)):
        if says(record):
            return record
    return None


async def last_event(log: Log, subjects: Subjects, event: OfEvent, filters: Filters) -> Record | None:
    """Return the last record that says so, or ``None``. Reads from near the end, and further back only while
    there is none.
    """
    says, where = _says(event), _where(subjects, event, filters)
    bounds = await log.bounds()
    upper, window = bounds.last_seq + 1, _FIRST_WINDOW
    while upper > bounds.first_seq:
        start = max(bounds.first_seq, upper - window)
        found = None
        async for record in log.read(where, start=Start(start)):
            if record.seq >= upper:
                break
            if says(record):
                found = record
        if found is not None:
            return found
        upper, window = start, window * _WIDEN
    return None


def _where(subjects: Subjects, event: OfEvent, filters: Filters) -> list[str]:
    """Filters for the records that may say so."""
    if event.name == ACCEPTED:
        return [filters.subject(subjects, f"{CALL}.*")]
    if event.name in MARKS:
        kinds = (DEAD,) if MARKS[event.name] in _DEAD_MARKS else (PEN, DEAD)
        return [filters.subject(subjects, f"{kind}.*") for kind in kinds]
    if event.name.startswith("router."):
        return [subjects.term]
    if event.name.startswith(("group.", "instance.")):
        return [filters.subject(subjects, f"{HA}.*")]
    others = [filters.subject(subjects, f"{kind}.*") for kind in (HA, CANCEL, CONTRACT)]
    return [*others, subjects.term]


def _says(event: OfEvent) -> Callable[[Record], bool]:
    if event.name == ACCEPTED:
        return lambda record: any(True for _ in _calls_in(record))
    if event.name in MARKS:
        mark = MARKS[event.name]
        return lambda record: mark in _marks_in(record)
    wanted = f"{event.name}.{event.version or 'v'}"

    def says(record: Record) -> bool:
        name = type_in(record.payload)
        return name == wanted if event.version else name.startswith(wanted)

    return says


def _marks_in(record: Record) -> set[Mark]:
    try:
        return {entry.mark for entry in decode_pen(record.payload, bodies=False).entries}
    except MalformedPayload:
        return set()


def type_in(payload: bytes) -> str:
    """Return the type of the event in a payload, of one that nobody knows, too; empty if it is none."""
    try:
        said = msgpack.unpackb(payload)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return ""
    match said:
        case [str(name), dict()]:
            return name
    return ""

"""``aegis replay --from``: what happened between two points, with the silences between heartbeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import aclosing
from typing import Any, Final

from aegisipc.eventstore import replay as history
from aegisipc.eventstore.cli.output import Paint, print_json
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.replay import Filters, Moment, Point, Source
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, EVIDENCE, Subjects
from aegisipc.eventstore.system import GroupKey, SystemState
from aegisipc.router.cli.records import as_line, as_plain
from aegisipc.router.cli.replay_silences import Silence, Silences
from aegisipc.router.cli.replaying import warn_of

_HEARD_BEFORE_NS: Final = 30_000_000_000
"""Heartbeats are read from so long before the first point, to know who was silent by then."""

_MAX_FOLLOWED: Final = 100_000
"""So many calls of a resource are followed to their outcomes; of those before, only frames of calls are told.
"""


async def list_events(source: Source, first: Point, last: Point, filters: Filters, *, as_json: bool) -> int:
    """Print each record from one point to the other, and where an instance was silent."""
    wanted = await _wanted(source, first, last, filters)
    silences = Silences(source.subjects)
    show = _Printer(source.subjects, as_json=as_json)
    moments: Any = history.timeline(
        source,
        from_seq=max(1, first.seq),
        until_seq=last.seq,
        pulses_from_ns=max(0, first.at_ns - _HEARD_BEFORE_NS),
        pulses_until_ns=last.at_ns,
    )
    async with aclosing(moments) as found:
        async for moment in found:
            _tell(moment, first, wanted, silences, show)
    _tell_silences(silences.until(last.at_ns), first, wanted, show)
    if not show.count and not as_json:
        print(f"nothing was stored from {first.said} to {last.said}")
    return 0


def _tell(moment: Moment, first: Point, wanted: _Wanted, silences: Silences, show: _Printer) -> None:
    record = moment.record
    found = silences.heard(record) if moment.is_pulse else silences.noted(record)
    _tell_silences(found, first, wanted, show)
    # What follows the point belongs to it, also if the server's clock went back; the point's own record does
    # unless it was a time that was asked for, and that record was before it.
    is_in = record.seq > first.seq or record.timestamp_ns >= first.at_ns
    if not moment.is_pulse and is_in and wanted.takes(record):
        show.record(record)


def _tell_silences(found: Iterable[Silence], first: Point, wanted: _Wanted, show: _Printer) -> None:
    for silence in found:
        if silence.at_ns >= first.at_ns and wanted.has_group(silence.instance[:2]):
            show.silence(silence)


class _Printer:
    """Prints lines for people, or objects for programs; counts them."""

    def __init__(self, subjects: Subjects, *, as_json: bool) -> None:
        self._subjects, self._as_json = subjects, as_json
        self._paint = Paint()
        self.count = 0

    def record(self, record: Record) -> None:
        self.count += 1
        if self._as_json:
            print_json(as_plain(record, self._subjects))
        else:
            print(as_line(record, self._subjects, self._paint))

    def silence(self, silence: Silence) -> None:
        self.count += 1
        if self._as_json:
            print_json(silence.to_plain())
        else:
            print(silence.to_line(self._paint))


# -- which records --------------------------------------------------------------------------------------


async def _wanted(source: Source, first: Point, last: Point, filters: Filters) -> _Wanted:
    """See what the filters mean: whose a resource is may change on the way."""
    if not filters.said:
        return _Wanted(source.subjects, filters, None, set())
    state = await history.state_at(source, first, on_skip=warn_of)
    owners, calls = _owners(state, filters), _calls(state, filters)
    names = history.names_in(state)
    await history.fold_on(source, state, last.seq)
    history.check_filters(filters, names, history.names_in(state))
    return _Wanted(source.subjects, filters, owners | _owners(state, filters), calls)


def _owners(state: SystemState, filters: Filters) -> set[GroupKey]:
    wanted = filters.resource
    names = history.names_in(state).items()
    return {
        key for key, resources in names if filters.holds(*key) and (wanted is None or wanted in resources)
    }


def _calls(state: SystemState, filters: Filters) -> set[CallId]:
    """The open calls of the resource, if one is wanted."""
    if filters.resource is None:
        return set()
    groups = (calls for key, calls in state.calls.items() if filters.holds(*key))
    return {
        call.call_id for calls in groups for call in calls.open.values() if call.resource == filters.resource
    }


class _Wanted:
    """Which records are asked for: all of a group; with a resource, of its calls only those for it."""

    def __init__(
        self, subjects: Subjects, filters: Filters, groups: set[GroupKey] | None, calls: set[CallId]
    ) -> None:
        self._subjects, self._filters = subjects, filters
        self._groups, self._calls = groups, calls

    def has_group(self, key: tuple[str, ...]) -> bool:
        """Tell whether a group is asked for."""
        return self._groups is None or key in self._groups

    def takes(self, record: Record) -> bool:
        """Tell whether a record is asked for."""
        try:
            place = self._subjects.parse(record.subject)
        except MalformedPayload:
            return self._groups is None
        if not self.has_group((place.service, place.group)):
            return False
        if self._filters.resource is None:
            return True
        if place.kind == CALL:
            return self._takes_calls(record)
        if place.kind in CONCLUSIONS or place.kind == EVIDENCE:
            return any(call_id in self._calls for call_id in _concluded_in(record))
        return True

    def _takes_calls(self, record: Record) -> bool:
        try:
            entries = decode_calls(record.payload, bodies=False).entries
        except MalformedPayload:
            return False
        found = [entry.call_id for entry in entries if entry.resource == self._filters.resource]
        if len(self._calls) < _MAX_FOLLOWED:
            self._calls.update(found)
        return bool(found)


def _concluded_in(record: Record) -> Iterator[CallId]:
    try:
        yield from (entry.call_id for entry in decode_pen(record.payload, bodies=False).entries)
    except MalformedPayload:
        return

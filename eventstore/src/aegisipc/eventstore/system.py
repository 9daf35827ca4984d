"""What a router believes: the fold of the whole log.

The same fold runs in every router, in ``aegis replay``, and in the projector of the SQL read model. Its whole
state can be written down and taken up again: :mod:`aegisipc.eventstore.system_snapshots`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import NOTHING, Folded, GroupCalls, OpenCall
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.known_schemas import KnownSchemas
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.pulses import InstanceKey
from aegisipc.eventstore.rates import Rate
from aegisipc.eventstore.subjects import (
    CALL,
    CANCEL,
    CONCLUSIONS,
    CONTRACT,
    EVIDENCE,
    GROUP_WHO,
    HA,
    TERM,
    WATCH_WHO,
    Place,
    Subjects,
)
from aegisipc.eventstore.topology import InstanceView, Topology

OF_CALLS: Final = frozenset({CALL, CANCEL, EVIDENCE}) | CONCLUSIONS
"""Kinds of the records that the fold of a group's calls is made of."""

type GroupKey = tuple[str, str]
"""Service, group."""


class Counts(NamedTuple):
    """How many calls of a group have no outcome, and how many of these are claimed, or in doubt."""

    open: int = 0
    claimed: int = 0
    doubts: int = 0


class Doubt(NamedTuple):
    """A call in doubt, and whose it is."""

    service: str
    group: str
    call: OpenCall


class Effect(NamedTuple):
    """What one record came to. ``place`` is ``None`` if its subject is none of ours; ``event`` is set for
    records of kind ``ha`` and ``term``, ``folded`` for those that are about calls. ``decides``: it may change
    what a router decides.
    """

    place: Place | None
    event: ev.Event | ev.UnknownEvent | None = None
    folded: Folded = NOTHING
    decides: bool = False


class SystemState:
    """The fold. Deterministic: equal records give equal states.

    It reads headers only: arguments and results are not part of it. ``position`` and ``position_ns`` are
    those of the last record that was folded.
    """

    def __init__(self, subjects: Subjects) -> None:
        self.subjects = subjects
        self.topology = Topology(subjects)
        self.calls: dict[GroupKey, GroupCalls] = {}
        self.schemas = KnownSchemas()
        self.position = 0
        self.position_ns = 0
        self.unreadable = 0
        self.rates: dict[GroupKey, Rate] = {}
        self.finished: dict[GroupKey, bool] = {}
        """Of the vacant groups: whether their last holder had finished what it ran."""
        self.suspected: dict[InstanceKey, tuple[str, int]] = {}
        """Of suspected instances: the incarnation, and its last pulse when the suspicion was written."""

    def apply(self, record: Record) -> bool:
        """Fold one record; tells whether it may change what the router decides."""
        return self.fold(record).decides

    def fold(self, record: Record) -> Effect:
        """Fold one record; returns what it came to."""
        self.position, self.position_ns = record.seq, record.timestamp_ns
        try:
            place = self.subjects.parse(record.subject)
        except MalformedPayload:
            self.unreadable += 1
            return Effect(None)
        if place.kind in (HA, TERM):
            event = self.topology.apply(record, place)
            if place.kind == HA and place.who == GROUP_WHO:
                self._fence_moved(place, event)
            elif place.kind == HA:
                self._note_suspicion(place, event)
            return Effect(place, event, decides=True)
        if place.kind in OF_CALLS:
            folded = self.calls_of(place.service, place.group).apply(record, place)
            if folded.concluded:
                self.rates.setdefault((place.service, place.group), Rate()).note(
                    len(folded.concluded), record.timestamp_ns
                )
            return Effect(place, folded=folded)
        if place.kind == CONTRACT:
            self.schemas.apply(record)
        return Effect(place)

    def calls_of(self, service: str, group: str) -> GroupCalls:
        """Return the fold of a group's calls; an empty one is made where there is none."""
        key = (service, group)
        calls = self.calls.get(key)
        if calls is None:
            owned = group != POOL_GROUP
            calls = self.calls[key] = GroupCalls(keep_bodies=False, is_fenced=owned)
            self._tell_holder(key, calls)
        return calls

    def _tell_holder(self, key: GroupKey, calls: GroupCalls) -> None:
        group = self.topology.group(*key)
        if group is not None:
            calls.hold(group.holder, group.epoch)

    def _fence_moved(self, place: Place, event: ev.Event | ev.UnknownEvent | None) -> None:
        key = (place.service, place.group)
        if (calls := self.calls.get(key)) is not None:
            self._tell_holder(key, calls)
        if isinstance(event, ev.GroupVacated):
            self.finished[key] = event.evidence.get("finished") is True
        elif isinstance(event, ev.GroupPromoted):
            self.finished.pop(key, None)

    def _note_suspicion(self, place: Place, event: ev.Event | ev.UnknownEvent | None) -> None:
        match event:
            case ev.InstanceSuspected() if place.who == WATCH_WHO:
                key = (place.service, place.group, event.instance)
                self.suspected[key] = (event.incarnation, event.last_pulse_ns)
            case ev.InstanceRecovered() | ev.InstanceLost() if place.who == WATCH_WHO:
                self.suspected.pop((place.service, place.group, event.instance), None)
            case ev.InstanceRegistered() | ev.InstanceLeft():
                self.suspected.pop((place.service, place.group, place.who), None)

    def replay(self, records: Iterable[Record]) -> SystemState:
        """Fold many records."""
        for record in records:
            self.apply(record)
        return self

    def was_finished(self, service: str, group: str) -> bool:
        """Tell whether the last holder of a vacant group had finished all that it had begun."""
        return self.finished.get((service, group), False)

    def pulse_at_suspicion_ns(self, instance: InstanceView) -> int:
        """Return the time of the last pulse that was known of a suspected instance when it became so; 0 for
        none.
        """
        incarnation, at_ns = self.suspected.get((instance.service, instance.group, instance.id), ("", 0))
        return at_ns if incarnation == instance.incarnation else 0

    def open_calls(self, service: str, group: str) -> int:
        """Return how many calls of a group have no outcome."""
        calls = self.calls.get((service, group))
        return len(calls.open) if calls else 0

    def rate(self, service: str, group: str, now_ns: int) -> float:
        """Return how many calls a second a group concluded lately."""
        rate = self.rates.get((service, group))
        return rate.per_second(now_ns) if rate is not None else 0.0

    def counts(self, service: str, group: str) -> Counts:
        """Count the calls of a group that have no outcome. Looks at each of them."""
        calls = self.calls.get((service, group))
        if calls is None:
            return Counts()
        states = [call.state for call in calls.open.values()]
        return Counts(len(states), states.count(CallState.STARTED), states.count(CallState.IN_DOUBT))

    def doubts(self, service: str | None = None, group: str | None = None) -> Iterator[Doubt]:
        """Iterate over the calls in doubt, of one service or group only if so asked; in no order."""
        for (of_service, of_group), calls in self.calls.items():
            if service in (None, of_service) and group in (None, of_group):
                for call in calls.open.values():
                    if call.state is CallState.IN_DOUBT:
                        yield Doubt(of_service, of_group, call)

    def to_plain(self) -> dict[str, Any]:
        """Return the state as plain, sorted data: equal states give equal data."""
        return {
            "position": self.position,
            "topology": self.topology.to_plain() | {"position": self.position},
            "calls": {
                f"{service}/{group}": calls.to_plain()
                for (service, group), calls in sorted(self.calls.items())
            },
            "finished": {
                f"{service}/{group}": finished for (service, group), finished in sorted(self.finished.items())
            },
            "schemas": sorted(self.schemas),
            "pulses_at_suspicion": {"/".join(key): told for key, told in sorted(self.suspected.items())},
        }

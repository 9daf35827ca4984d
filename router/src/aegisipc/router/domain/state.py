"""What a router believes: the fold of the whole log, and of the heartbeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import GroupCalls, OpenCall
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
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
from aegisipc.router.domain.flow import Rate
from aegisipc.router.domain.pulses import InstanceKey
from aegisipc.router.domain.schemas import KnownSchemas

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


class RouterState:
    """The fold. Deterministic: equal records give equal states."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self.topology = Topology(subjects)
        self.calls: dict[GroupKey, GroupCalls] = {}
        self.schemas = KnownSchemas()
        self.position = 0
        self.unreadable = 0
        self._rates: dict[GroupKey, Rate] = {}
        self._finished: dict[GroupKey, bool] = {}
        """Of the vacant groups: whether their last holder had finished what it ran."""
        self._suspected: dict[InstanceKey, tuple[str, int]] = {}
        """Of suspected instances: the incarnation, and its last pulse when the suspicion was written."""

    def apply(self, record: Record) -> bool:
        """Fold one record; tells whether it may change what the router decides."""
        self.position = record.seq
        try:
            place = self._subjects.parse(record.subject)
        except MalformedPayload:
            self.unreadable += 1
            return False
        if place.kind in (HA, TERM):
            event = self.topology.apply(record, place)
            if place.kind == HA and place.who == GROUP_WHO:
                self._fence_moved(place, event)
            elif place.kind == HA:
                self._note_suspicion(place, event)
            return True
        if place.kind == CONTRACT:
            self.schemas.apply(record)
        elif place.kind in OF_CALLS:
            folded = self._calls_of(place).apply(record, place)
            if folded.concluded:
                self._rates.setdefault((place.service, place.group), Rate()).note(
                    len(folded.concluded), record.timestamp_ns
                )
        return False

    def _calls_of(self, place: Place) -> GroupCalls:
        key = (place.service, place.group)
        calls = self.calls.get(key)
        if calls is None:
            owned = place.group != POOL_GROUP
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
            self._finished[key] = event.evidence.get("finished") is True
        elif isinstance(event, ev.GroupPromoted):
            self._finished.pop(key, None)

    def _note_suspicion(self, place: Place, event: ev.Event | ev.UnknownEvent | None) -> None:
        match event:
            case ev.InstanceSuspected() if place.who == WATCH_WHO:
                key = (place.service, place.group, event.instance)
                self._suspected[key] = (event.incarnation, event.last_pulse_ns)
            case ev.InstanceRecovered() | ev.InstanceLost() if place.who == WATCH_WHO:
                self._suspected.pop((place.service, place.group, event.instance), None)
            case ev.InstanceRegistered() | ev.InstanceLeft():
                self._suspected.pop((place.service, place.group, place.who), None)

    def replay(self, records: Iterable[Record]) -> RouterState:
        """Fold many records."""
        for record in records:
            self.apply(record)
        return self

    def was_finished(self, service: str, group: str) -> bool:
        """Tell whether the last holder of a vacant group had finished all that it had begun."""
        return self._finished.get((service, group), False)

    def pulse_at_suspicion_ns(self, instance: InstanceView) -> int:
        """Return the time of the last pulse that was known of a suspected instance when it became so; 0 for
        none.
        """
        incarnation, at_ns = self._suspected.get((instance.service, instance.group, instance.id), ("", 0))
        return at_ns if incarnation == instance.incarnation else 0

    def open_calls(self, service: str, group: str) -> int:
        """Return how many calls of a group have no outcome."""
        calls = self.calls.get((service, group))
        return len(calls.open) if calls else 0

    def rate(self, service: str, group: str, now_ns: int) -> float:
        """Return how many calls a second a group concluded lately."""
        rate = self._rates.get((service, group))
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
                f"{service}/{group}": finished
                for (service, group), finished in sorted(self._finished.items())
            },
            "schemas": sorted(self.schemas),
            "pulses_at_suspicion": {"/".join(key): told for key, told in sorted(self._suspected.items())},
        }

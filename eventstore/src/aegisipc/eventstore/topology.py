"""The routing fold: who serves what, who is active, since when and why.

The same fold runs in every client (its routing table), in every router and in every tool. It is a pure
function of the records in log order: :meth:`Topology.apply` reads no clock, draws no random number, and
refuses nothing, because events are facts. What does not fit (an event of an earlier incarnation, a transition
the lifecycle does not have, a record that cannot be read) is counted in ``anomalies`` and changes nothing
else but the sequence that the next compare-and-set has to name. An epoch or term that does not rise is
counted too, and holds all the same: the fence is where the log says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.lifecycles import (
    GONE,
    GROUP,
    INSTANCE,
    GroupEvent,
    GroupState,
    InstanceEvent,
    InstanceState,
)
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import GROUP_WHO, HA, TERM, WATCH_WHO, Place, Subjects
from aegisipc.eventstore.views import (
    READY_STATES,
    Congestion,
    GroupView,
    Handover,
    InstanceView,
    Leadership,
    ServiceView,
    offered,
    service_plain,
)

__all__ = [
    "MAX_ANOMALIES",
    "MAX_GONE_INSTANCES",
    "READY_STATES",
    "GroupView",
    "Handover",
    "InstanceView",
    "Leadership",
    "ServiceView",
    "Topology",
]

MAX_GONE_INSTANCES: Final = 64
"""How many gone instances a group remembers, newest first; older ones are in the log, not in the fold."""

MAX_POLICY: Final = 32
"""How many parts of a leader's policy are remembered."""

MAX_ANOMALIES: Final = 64
"""How many kinds of anomaly are told apart; the rest counts as ``other``. Their names may come from a hostile
record.
"""


class Topology:
    """The state of the fold. ``position`` is the sequence of the last record applied."""

    __slots__ = ("anomalies", "leadership", "position", "services", "subjects")

    def __init__(self, subjects: Subjects) -> None:
        self.subjects = subjects
        self.services: dict[str, ServiceView] = {}
        self.leadership = Leadership()
        self.anomalies: Counter[str] = Counter()
        self.position = 0

    def groups(self) -> Iterator[GroupView]:
        """Iterate over every group of every service."""
        return (group for service in self.services.values() for group in service.groups.values())

    def group(self, service: str, group: str) -> GroupView | None:
        """Return one group, or ``None``."""
        found = self.services.get(service)
        return found.groups.get(group) if found else None

    def instance(self, service: str, group: str, instance: str) -> InstanceView | None:
        """Return one instance, or ``None``."""
        found = self.group(service, group)
        return found.instances.get(instance) if found else None

    def apply(self, record: Record, place: Place | None = None) -> ev.Event | ev.UnknownEvent | None:
        """Fold one record. Records of other kinds only move ``position``. Returns the event, if it was one of
        ours.
        """
        self.position = record.seq
        try:
            place = place or self.subjects.parse(record.subject)
            if place.kind not in (HA, TERM):
                return None
            self._note_guard(record, place)
            event = ev.decode_event(record.payload)
        except MalformedPayload:
            self._count("malformed")
            return None
        if isinstance(event, ev.UnknownEvent):
            self._count(f"unknown type {event.type[:80]}")
        elif place.kind == TERM:
            self._term(record, event)
        else:
            self._ha(record, place, event)
        return event

    def _note_guard(self, record: Record, place: Place) -> None:
        """Whatever the record says, and be it nothing we know: the next compare-and-set must name it."""
        if place.kind == TERM:
            self.leadership.seq = record.seq
        elif place.who == GROUP_WHO:
            self._group_at(place).fence_seq = record.seq
        elif place.who == WATCH_WHO:
            self._group_at(place).watch_seq = record.seq

    def _group_at(self, place: Place) -> GroupView:
        service = self.services.setdefault(place.service, ServiceView(place.service))
        return service.groups.setdefault(place.group, GroupView(place.service, place.group))

    def _count(self, anomaly: str) -> None:
        known = anomaly in self.anomalies or len(self.anomalies) < MAX_ANOMALIES
        self.anomalies[anomaly if known else "other"] += 1

    # -- leadership -------------------------------------------------------------------------------------

    def _term(self, record: Record, event: ev.Event) -> None:
        lead = self.leadership
        match event:
            case ev.RouterElected():
                if event.term <= lead.term:
                    self._count("term did not rise")
                self.leadership = Leadership(
                    event.term,
                    event.router,
                    event.incarnation,
                    record.seq,
                    record.timestamp_ns,
                    _policy(event.policy),
                )
            case ev.RouterResigned() if (event.term, event.incarnation) != (lead.term, lead.incarnation):
                self._count("resigned without leading")
            case ev.RouterResigned():
                self.leadership = Leadership(lead.term, None, None, record.seq, record.timestamp_ns)
            case _:
                self._count("misplaced")

    # -- groups and instances ---------------------------------------------------------------------------

    def _ha(self, record: Record, place: Place, event: ev.Event) -> None:
        group = self._group_at(place)
        if place.who == GROUP_WHO:
            self._fence(record, group, event)
        elif place.who == WATCH_WHO:
            self._watch(record, self.services[place.service], group, event)
        else:
            self._own(record, group, place.who, event)
        group.contract = offered(group)

    def _own(self, record: Record, group: GroupView, who: str, event: ev.Event) -> None:
        match event:
            case ev.InstanceRegistered():
                self._register(record, group, who, event)
            case ev.InstanceReady():
                ready = InstanceEvent.JOINED_POOL if group.mode == "pool" else InstanceEvent.READY
                self._move(record, group, who, event.incarnation, ready)
            case ev.InstanceDraining():
                self._move(record, group, who, event.incarnation, InstanceEvent.DRAINING)
            case ev.InstanceLeft():
                left = self._move(record, group, who, event.incarnation, InstanceEvent.LEFT)
                if left is not None:
                    left.has_finished = event.finished
            case ev.InstanceYielded():
                self._yielded(group, who, event)
            case ev.InstanceUnhealthy():
                self._set_health(group, who, event.incarnation, event.reason)
            case ev.InstanceHealthy():
                self._set_health(group, who, event.incarnation, None)
            case _:
                self._count("misplaced")

    def _register(self, record: Record, group: GroupView, who: str, event: ev.InstanceRegistered) -> None:
        former = group.instances.get(who)
        if former is not None and former.incarnation == event.incarnation:
            self._count("registered twice")  # stored twice, or lost and not come back as a new incarnation
            return
        group.instances.pop(who, None)  # the order of the dictionary is that of registration
        group.instances[who] = InstanceView(
            group.service,
            group.name,
            who,
            InstanceState.JOINING,
            event,
            record.seq,
            record.timestamp_ns,
            quarantined=event.quarantined,
        )

    def _yielded(self, group: GroupView, who: str, event: ev.InstanceYielded) -> None:
        instance = group.instances.get(who)
        if (group.holder, group.holder_incarnation, group.epoch) != (who, event.incarnation, event.epoch):
            self._count("yielded without holding")
        elif group.handover is None and (instance is None or instance.unhealthy is None):
            self._count("yielded without need")  # the handover was called off just before: it goes on
        else:
            group.yielded_epoch = event.epoch

    def _set_health(self, group: GroupView, who: str, incarnation: str, reason: str | None) -> None:
        instance = self._current(group, who, incarnation)
        if instance is not None:
            instance.unhealthy = reason
            if reason is None and group.holder == who and group.handover is None:
                group.yielded_epoch = 0  # it held on, and goes on

    def _watch(  # noqa: C901 - one line for each event
        self, record: Record, service: ServiceView, group: GroupView, event: ev.Event
    ) -> None:
        match event:
            case ev.InstanceAdmitted():
                self._admit(service, group, event)
            case ev.InstanceRefused():
                refused = self._move(record, group, event.instance, event.incarnation, InstanceEvent.REFUSED)
                if refused is not None:
                    refused.refusal = event.error
            case ev.InstanceSuspected():
                self._move(record, group, event.instance, event.incarnation, InstanceEvent.SUSPECTED)
            case ev.InstanceRecovered():
                self._move(record, group, event.instance, event.incarnation, InstanceEvent.RECOVERED)
            case ev.InstanceLost():
                self._move(record, group, event.instance, event.incarnation, InstanceEvent.LOST)
            case ev.InstanceDrainRequested():
                wanted = self._current(group, event.instance, event.incarnation)
                if wanted is not None:
                    wanted.drain_requested_by = _by(event.author, event.reason)
            case ev.GroupCongested() | ev.GroupRelieved():
                group.congestion = _congestion(record, group, event)
            case ev.GroupPaused() | ev.GroupResumed():
                self._pause(record, service, group, event)
            case _:
                self._count("misplaced")

    @staticmethod
    def _pause(
        record: Record, service: ServiceView, group: GroupView, event: ev.GroupPaused | ev.GroupResumed
    ) -> None:
        group.paused = isinstance(event, ev.GroupPaused)
        group.paused_by = _by(event.author, event.reason) if group.paused else ""
        group.pause_seq = record.seq
        if event.scope == "service" and service.paused is not group.paused:
            service.paused, service.pause_seq = group.paused, record.seq
        if not group.paused:
            for instance in group.instances.values():
                instance.quarantined = False

    def _admit(self, service: ServiceView, group: GroupView, event: ev.InstanceAdmitted) -> None:
        instance = self._current(group, event.instance, event.incarnation)
        if instance is None:
            return
        if not instance.is_live:
            self._count(f"instance {instance.state} admitted")
            return
        instance.admitted = True
        for resource in instance.registration.resources:
            former = service.resources.get(resource)
            if former is not None and former != group.name:
                service.groups[former].resources.discard(resource)
            service.resources[resource] = group.name
            group.resources.add(resource)

    def _fence(self, record: Record, group: GroupView, event: ev.Event) -> None:
        match event:
            case ev.GroupPromoted() if _is_reaffirmed(group, event):
                pass  # the same holder at the same epoch, written again so that the fence does not age out
            case ev.GroupPromoted():
                if event.epoch <= group.epoch:
                    self._count("epoch did not rise")
                if (group.holder, group.holder_incarnation) != (event.holder, event.incarnation):
                    self._demote_holder(record, group)
                self._move(record, group, event.holder, event.incarnation, InstanceEvent.PROMOTED)
                group.holder, group.holder_incarnation = event.holder, event.incarnation
                group.epoch = event.epoch
                group.handover, group.yielded_epoch = None, 0
                self._group_moved(record, group, GroupEvent.PROMOTED, event.cause)
            case ev.GroupVacated():
                self._demote_holder(record, group)
                group.holder = group.holder_incarnation = None
                group.handover, group.yielded_epoch = None, 0
                self._group_moved(record, group, GroupEvent.VACATED, event.cause)
            case ev.GroupHandoverStarted() | ev.GroupHandoverCancelled():
                self._handover(record, group, event)
            case _:
                self._count("misplaced")

    def _handover(
        self, record: Record, group: GroupView, event: ev.GroupHandoverStarted | ev.GroupHandoverCancelled
    ) -> None:
        if event.epoch != group.epoch:
            self._count("handover of another epoch")
        elif isinstance(event, ev.GroupHandoverCancelled):
            if self._group_moved(record, group, GroupEvent.HANDOVER_CANCELLED, event.cause):
                group.handover, group.yielded_epoch = None, 0
        elif self._group_moved(record, group, GroupEvent.HANDOVER_STARTED, event.cause):
            group.handover = Handover(
                event.to, event.to_incarnation, event.cause, event.author, record.timestamp_ns
            )

    def _demote_holder(self, record: Record, group: GroupView) -> None:
        """The holder loses the pen; if that incarnation is gone, or has been followed by another, there is
        none to demote.
        """
        holder = group.instances.get(group.holder or "")
        if holder is not None and holder.is_live and holder.incarnation == group.holder_incarnation:
            self._move(record, group, holder.id, holder.incarnation, InstanceEvent.DEMOTED)

    def _group_moved(self, record: Record, group: GroupView, event: GroupEvent, cause: str) -> bool:
        after = GROUP.next(group.state, event)
        if after is None:
            self._count(f"group {group.state} {event}")
            return False
        group.state, group.cause, group.since_ns = after, cause, record.timestamp_ns
        return True

    def _current(self, group: GroupView, who: str, incarnation: str | None) -> InstanceView | None:
        instance = group.instances.get(who)
        if instance is None or instance.incarnation != incarnation:
            self._count("of another incarnation")
            return None
        return instance

    def _move(
        self, record: Record, group: GroupView, who: str, incarnation: str | None, event: InstanceEvent
    ) -> InstanceView | None:
        instance = self._current(group, who, incarnation)
        if instance is None:
            return None
        after = INSTANCE.next(instance.state, event)
        if after is None:
            self._count(f"instance {instance.state} {event}")
            return None
        if after is not instance.state:
            instance.state, instance.since_ns = after, record.timestamp_ns
            if after in GONE:
                _forget_oldest_gone(group)
        return instance

    # -- canonical form ---------------------------------------------------------------------------------

    def to_plain(self) -> dict[str, Any]:
        """Return the state as plain, sorted data: equal states give equal data."""
        lead = self.leadership
        return {
            "position": self.position,
            "leader": {
                "term": lead.term,
                "router": lead.router,
                "incarnation": lead.incarnation,
                "seq": lead.seq,
                "since_ns": lead.since_ns,
                "policy": lead.policy,
            },
            "services": {name: service_plain(self.services[name]) for name in sorted(self.services)},
            "anomalies": dict(sorted(self.anomalies.items())),
        }


def _congestion(
    record: Record, group: GroupView, event: ev.GroupCongested | ev.GroupRelieved
) -> Congestion | None:
    if isinstance(event, ev.GroupRelieved):
        return None
    since_ns = group.congestion.since_ns if group.congestion else record.timestamp_ns
    return Congestion(event.open, event.limit, event.retry_after_ms, since_ns)


def _policy(written: dict[str, int]) -> dict[str, int]:
    """Return what may be one: a hostile record may hold more, and larger, than there is."""
    sane = ((key, value) for key, value in sorted(written.items()) if 0 <= value < 1 << 63)
    return dict(islice(sane, MAX_POLICY))


def _by(author: str, reason: str) -> str:
    return f"{author}: {reason}" if reason else author


def _is_reaffirmed(group: GroupView, event: ev.GroupPromoted) -> bool:
    known = (group.epoch, group.holder, group.holder_incarnation)
    return group.state is GroupState.HELD and known == (event.epoch, event.holder, event.incarnation)


def _forget_oldest_gone(group: GroupView) -> None:
    gone = [i for i in group.instances.values() if not i.is_live]
    for instance in gone[:-MAX_GONE_INSTANCES]:
        del group.instances[instance.id]

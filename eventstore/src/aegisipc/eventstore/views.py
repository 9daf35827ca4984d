"""What the routing fold knows: instances, groups and services as the log tells them, and who leads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import GONE, GroupState, InstanceState
from aegisipc.eventstore.names import POOL_GROUP

READY_STATES: Final = frozenset(
    {
        InstanceState.STANDBY,
        InstanceState.ACTIVE,
        InstanceState.SUSPECTED_STANDBY,
        InstanceState.SUSPECTED_ACTIVE,
    }
)

type Role = Literal["active", "standby", "worker", "joining", "gone"]
"""What an instance is in its group."""


@dataclass(slots=True)
class InstanceView:
    """One instance as the log tells it. Times are the server's Unix nanoseconds."""

    service: str
    group: str
    id: str
    state: InstanceState
    registration: ev.InstanceRegistered
    registered_seq: int
    since_ns: int
    admitted: bool = False
    refusal: ev.ErrorInfo | None = None
    unhealthy: str | None = None
    quarantined: bool = False
    drain_requested_by: str | None = None
    has_finished: bool = False
    """It left, and all that it ran is concluded."""

    @property
    def incarnation(self) -> str:
        """Which run of the instance this is."""
        return self.registration.incarnation

    @property
    def is_live(self) -> bool:
        """Not left, not refused, not lost."""
        return self.state not in GONE

    @property
    def is_ready(self) -> bool:
        """Can hold the pen, or take calls of a pool."""
        return self.admitted and self.state in READY_STATES

    @property
    def drain_requested(self) -> bool:
        """An operator wants it to leave."""
        return self.drain_requested_by is not None

    @property
    def is_eligible(self) -> bool:
        """May be given the pen. One in quarantine may, too: it accepts and queues."""
        return self.is_ready and self.unhealthy is None and not self.drain_requested


class Handover(NamedTuple):
    """A planned change of the holder that is under way."""

    to: str
    to_incarnation: str
    cause: str
    author: str
    since_ns: int


class Congestion(NamedTuple):
    """A group has too many open calls: clients hold back."""

    open: int
    limit: int
    retry_after_ms: int
    since_ns: int


@dataclass(slots=True)
class GroupView:
    """One group as the log tells it. ``fence_seq`` is the sequence of the latest record on its fence.

    ``yielded_epoch`` is the epoch of which its present holder said that it is done with it, else 0.
    ``pause_seq`` is the sequence of the latest word that it is to pause or to go on.
    """

    service: str
    name: str
    state: GroupState = GroupState.VACANT
    epoch: int = 0
    holder: str | None = None
    holder_incarnation: str | None = None
    fence_seq: int = 0
    watch_seq: int = 0
    since_ns: int = 0
    cause: str = "no instance has joined yet"
    paused: bool = False
    paused_by: str = ""
    pause_seq: int = 0
    handover: Handover | None = None
    yielded_epoch: int = 0
    congestion: Congestion | None = None
    resources: set[str] = field(default_factory=set)
    instances: dict[str, InstanceView] = field(default_factory=dict)
    contract: ev.Contract = field(default_factory=dict)
    """What may be called: what the active instance offers, or the latest one if there is none; of a pool,
    what every worker offers.
    """

    @property
    def mode(self) -> Literal["owned", "pool"]:
        """How calls reach the group."""
        return "pool" if self.name == POOL_GROUP else "owned"

    def live(self) -> Iterator[InstanceView]:
        """Iterate over the instances that are admitted and not gone, in order of registration."""
        return (i for i in self.instances.values() if i.admitted and i.is_live)

    def ready(self) -> Iterator[InstanceView]:
        """Iterate over the instances that could serve now, first come first."""
        return (i for i in self.instances.values() if i.is_ready)


def role_of(group: GroupView, instance: InstanceView) -> Role:
    """Return what an instance is in its group: ``active`` (it holds the pen), ``standby``, ``worker`` of a
    pool, ``joining``, or ``gone``.
    """
    if not instance.is_live:
        return "gone"
    if group.mode == "pool":
        return "worker" if instance.admitted else "joining"
    if (group.holder, group.holder_incarnation) == (instance.id, instance.incarnation):
        return "active"
    return "standby" if instance.admitted and instance.is_ready else "joining"


@dataclass(slots=True)
class ServiceView:
    """One service: its groups, and which group each resource belongs to.

    ``paused`` says whether groups that it will have are to begin paused; ``pause_seq`` is where that was last
    said.
    """

    name: str
    paused: bool = False
    pause_seq: int = 0
    groups: dict[str, GroupView] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)

    @property
    def contract(self) -> ev.Contract:
        """What may be called in one of its groups that have a live instance, or in any if none has."""
        alive = [group for group in self.groups.values() if any(True for _ in group.live())]
        found: ev.Contract = {}
        for group in alive or self.groups.values():
            found = {**group.contract, **found}
        return found

    def live(self) -> Iterator[InstanceView]:
        """Iterate over all admitted instances that are not gone."""
        return (i for group in self.groups.values() for i in group.live())


@dataclass(slots=True)
class Leadership:
    """Which router leads. ``router`` is ``None`` when nobody does; ``policy`` is with how much patience it
    decides, as it said when it was elected.
    """

    term: int = 0
    router: str | None = None
    incarnation: str | None = None
    seq: int = 0
    since_ns: int = 0
    policy: dict[str, int] = field(default_factory=dict)


def service_plain(service: ServiceView) -> dict[str, Any]:
    """Return a service as plain, sorted data."""
    return {
        "paused": service.paused,
        "pause_seq": service.pause_seq,
        "methods": {name: m.model_dump(mode="json") for name, m in sorted(service.contract.items())},
        "resources": dict(sorted(service.resources.items())),
        "groups": {name: _group_plain(service.groups[name]) for name in sorted(service.groups)},
    }


def _group_plain(group: GroupView) -> dict[str, Any]:
    return {
        "mode": group.mode,
        "state": str(group.state),
        "epoch": group.epoch,
        "holder": group.holder,
        "holder_incarnation": group.holder_incarnation,
        "fence_seq": group.fence_seq,
        "watch_seq": group.watch_seq,
        "since_ns": group.since_ns,
        "cause": group.cause,
        "paused": group.paused,
        "paused_by": group.paused_by,
        "pause_seq": group.pause_seq,
        "handover": group.handover._asdict() if group.handover else None,
        "yielded_epoch": group.yielded_epoch,
        "congestion": group.congestion._asdict() if group.congestion else None,
        "resources": sorted(group.resources),
        "instances": {name: _instance_plain(group.instances[name]) for name in sorted(group.instances)},
        "methods": sorted(group.contract),
    }


def offered(group: GroupView) -> ev.Contract:
    """Return what may be called in a group now, see ``GroupView.contract``."""
    live = list(group.live())
    if group.mode == "pool":
        return _offered_by_all(live) if live else group.contract
    for instance in live:
        if (instance.id, instance.incarnation) == (group.holder, group.holder_incarnation):
            return instance.registration.contract
    if not live or any(instance.registration.contract == group.contract for instance in live):
        return group.contract  # until somebody is promoted: calls wait
    return live[0].registration.contract


def _offered_by_all(live: list[InstanceView]) -> ev.Contract:
    """Any of them may get a call. Of methods that differ, the one registered first says what it takes: the
    others were admitted beside it.
    """
    first, *others = (instance.registration.contract for instance in live)
    return {name: method for name, method in first.items() if all(name in other for other in others)}


def _instance_plain(instance: InstanceView) -> dict[str, Any]:
    return {
        "state": str(instance.state),
        "admitted": instance.admitted,
        "incarnation": instance.incarnation,
        "registered_seq": instance.registered_seq,
        "resources": sorted(instance.registration.resources),
        "since_ns": instance.since_ns,
        "host": instance.registration.host,
        "pid": instance.registration.pid,
        "version": instance.registration.version,
        "unhealthy": instance.unhealthy,
        "quarantined": instance.quarantined,
        "drain_requested_by": instance.drain_requested_by,
        "has_finished": instance.has_finished,
        "refusal": instance.refusal.model_dump(mode="json") if instance.refusal else None,
    }

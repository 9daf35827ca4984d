"""What a simulated router believes, and when that is what the recorded one believed."""

from __future__ import annotations

from copy import deepcopy

from aegisipc.eventstore.system import Counts, GroupKey, SystemState
from aegisipc.eventstore.topology import InstanceView


class Simulated(SystemState):
    """What a simulated router believes. It begins as the recorded state is, and shares its calls and schemas
    for ever.
    """

    def __init__(self, recorded: SystemState) -> None:
        super().__init__(recorded.subjects)
        self._recorded = recorded
        self.topology = deepcopy(recorded.topology)
        self.schemas = recorded.schemas
        self.finished = dict(recorded.finished)
        self.suspected = dict(recorded.suspected)
        self.position, self.position_ns = recorded.position, recorded.position_ns
        self.seen: tuple[GroupKey, int] | None = None
        """How many open calls the recorded router saw in a group when it looked, just now."""

    def open_calls(self, service: str, group: str) -> int:
        """Return how many calls of a group have no outcome."""
        if self.seen is not None and self.seen[0] == (service, group):
            return self.seen[1]
        return self._recorded.open_calls(service, group)

    def rate(self, service: str, group: str, now_ns: int) -> float:
        """Return how many calls a second a group concluded lately."""
        return self._recorded.rate(service, group, now_ns)

    def counts(self, service: str, group: str) -> Counts:
        """Count the calls of a group that have no outcome."""
        return self._recorded.counts(service, group)


def outline(state: SystemState, key: GroupKey) -> object:
    """Return all of a group that a router decides by, but times, epochs and sequences."""
    group = state.topology.group(*key)
    if group is None:
        return None
    holder = group.instances.get(group.holder or "")
    handover = group.handover
    return (
        group.state,
        group.holder,
        group.holder_incarnation,
        (holder.state, holder.has_finished, holder.incarnation) if holder is not None else None,
        (handover.to, handover.to_incarnation, handover.author) if handover is not None else None,
        0 < group.epoch == group.yielded_epoch,
        state.was_finished(*key),
        group.paused,
        group.congestion is None,
        sorted(group.resources),
        sorted(_member(instance) for instance in group.instances.values() if instance.is_live),
    )


def _member(instance: InstanceView) -> tuple[str, str, str, tuple[bool, ...]]:
    flags = (
        instance.admitted,
        instance.unhealthy is not None,
        instance.quarantined,
        instance.drain_requested,
    )
    return instance.id, instance.incarnation, str(instance.state), flags

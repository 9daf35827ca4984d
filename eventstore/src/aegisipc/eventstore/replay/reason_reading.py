"""What explanations are built from: who held the pen of a group and why, read from the few records that say
so, and what was heard of an instance around a moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import LogMissing
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.pulses import InstanceKey, Pulse, PulseBoard
from aegisipc.eventstore.replay.reason_steps import UnknownGroup, named
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.subjects import HA
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.views import GroupView, Handover, InstanceView, Leadership

MAX_HAPPENINGS: Final = 500
"""Events between two changes of the pen that are kept, the latest ones."""

_BEFORE_NS: Final = 10_000_000_000
_AFTER_NS: Final = 60_000_000_000
_NO_GAP_MS: Final = 1 << 40
"""Here a board only reads heartbeats; what it would make of gaps does not matter."""


class Happening(NamedTuple):
    """An event about a group, or about the routers. ``who`` is the last part of its subject."""

    seq: int
    at_ns: int
    who: str
    event: ev.Event


class Standing(NamedTuple):
    """A group just before a change of its pen: copies, which nothing changes any more."""

    holder: str | None
    incarnation: str | None
    epoch: int
    cause: str
    yielded: bool
    handover: Handover | None
    instances: Sequence[InstanceView]

    def instance(self, name: str | None, incarnation: str | None = None) -> InstanceView | None:
        """Return an instance; of that incarnation only, if one is given."""
        for each in self.instances:
            if each.id == name and incarnation in (None, each.incarnation):
                return each
        return None


class Turn(NamedTuple):
    """A change of the pen: a promotion to another holder or epoch, or that nobody holds it any more.

    ``lead`` and ``elected`` tell who led the routers then; ``since`` is what happened in the group between
    the change before this one and this one.
    """

    happening: Happening
    before: Standing
    lead: Leadership
    elected: Happening | None
    since: Sequence[Happening]


@dataclass
class GroupTale:
    """The events of one group, folded up to a point."""

    service: str
    name: str
    state: SystemState
    turn: Turn | None = None
    """The latest change of the pen; ``None`` if the history has none."""
    former: Turn | None = None
    """The one before it."""
    after: deque[Happening] = field(default_factory=lambda: deque(maxlen=MAX_HAPPENINGS))
    """What happened since the latest change of the pen."""
    elected: Happening | None = None
    ready: dict[str, Happening] = field(default_factory=dict)
    """Of the instances of the group: the latest word that it is ready."""

    @property
    def found(self) -> GroupView | None:
        """The group as far as was read; ``None`` if there is none."""
        return self.state.topology.group(self.service, self.name)

    @property
    def view(self) -> GroupView:
        """The group as far as was read; an empty one if there is none."""
        return self.found or GroupView(self.service, self.name)

    def apply(self, record: Record) -> None:
        """Fold one record that is about the group, or about the leadership among routers."""
        fence = self.state.subjects.fence(self.service, self.name)
        before = self._standing() if record.subject == fence else None
        lead = replace(self.state.topology.leadership)
        effect = self.state.fold(record)
        if not isinstance(effect.event, ev.Event) or effect.place is None:
            return
        happening = Happening(record.seq, record.timestamp_ns, effect.place.who, effect.event)
        if effect.place.kind != HA:
            if isinstance(effect.event, ev.RouterElected):
                self.elected = happening
            return
        if isinstance(effect.event, ev.InstanceReady):
            self.ready[effect.place.who] = happening
        if before is not None and self._is_turn(happening.event, before):
            self.former = self.turn
            self.turn = Turn(happening, before, lead, self.elected, tuple(self.after))
            self.after.clear()
        else:
            self.after.append(happening)

    def _is_turn(self, event: ev.Event, before: Standing) -> bool:
        """Written again so that it does not age out, a promotion changes nothing."""
        if not isinstance(event, ev.GroupPromoted | ev.GroupVacated):
            return False
        view = self.view
        return (view.holder, view.holder_incarnation, view.epoch) != (
            before.holder,
            before.incarnation,
            before.epoch,
        )

    def _standing(self) -> Standing:
        view = self.view
        return Standing(
            view.holder,
            view.holder_incarnation,
            view.epoch,
            view.cause,
            0 < view.epoch == view.yielded_epoch,
            view.handover,
            [replace(instance) for instance in view.instances.values()],
        )


async def read_group(source: Source, service: str, group: str, until_seq: int) -> GroupTale:
    """Read who held the pen of a group up to and with `until_seq`, from the events of that group alone.

    Raises:
        UnknownGroup: there is none of that name up to there.
        AegisError: the history cannot be read now.
    """
    subjects = source.subjects
    tale = GroupTale(service, group, base_of(source))
    async for record in bounded(source, [subjects.of_kind(service, group, HA), subjects.term], 1, until_seq):
        tale.apply(record)
    if tale.found is None:
        groups = await groups_of(source, until_seq)
        raise UnknownGroup(
            f"cannot explain group {service}/{group}: there is none up to sequence {until_seq}; give one of "
            f"these: {named(groups)}",
            group=f"{service}/{group}",
            groups=groups,
        )
    return tale


def base_of(source: Source) -> SystemState:
    """Return the state just before the first record of a history."""
    return source.base() if source.base is not None else SystemState(source.subjects)


async def topology_of(source: Source, until_seq: int) -> SystemState:
    """Fold the events about instances and groups, which are few, and nothing else."""
    state = base_of(source)
    async for record in bounded(source, [source.subjects.topology], 1, until_seq):
        state.fold(record)
    return state


async def groups_of(source: Source, until_seq: int) -> list[str]:
    """List the groups that there are, as ``service/group``."""
    state = await topology_of(source, until_seq)
    return sorted(f"{group.service}/{group.name}" for group in state.topology.groups())


async def bounded(
    source: Source, subjects: Sequence[str], from_seq: int, until_seq: int
) -> AsyncGenerator[Record]:
    """Iterate over the records that match from one sequence up to and with another."""
    reading = source.log.read(list(subjects), start=Start(max(1, from_seq)))
    async with aclosing(reading) as records:
        async for record in records:
            if record.seq > until_seq:
                return
            yield record


# -- what was heard -------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """The heartbeats of one run of an instance around a moment, as far as the stream still has them.

    ``last``: the last one up to then. ``again``: the first one after it. ``fenced`` is how many of its
    frames the server refused, as it said itself after that moment; ``None`` if it said nothing.
    """

    last: Pulse | None = None
    again: Pulse | None = None
    fenced: int | None = None


async def heard_of(
    source: Source, key: InstanceKey, incarnation: str, around_ns: int, until_ns: int
) -> Heard:
    """Read the heartbeats from a while before `around_ns` up to a while after it, or to `until_ns`."""
    if source.pulses is None:
        return Heard()
    board = PulseBoard(source.subjects, gap_ms=_NO_GAP_MS)
    end_ns = min(until_ns, around_ns + _AFTER_NS)
    start = Start(time_ns=max(0, around_ns - _BEFORE_NS))
    heard = Heard()
    try:
        reading = source.pulses.read([source.subjects.pulse("instance", key[2])], start=start)
        async with aclosing(reading) as records:
            async for record in records:
                if record.timestamp_ns > end_ns:
                    break
                board.apply(record)
                pulse = board.instances.get(key)
                if pulse is not None and pulse.at_ns == record.timestamp_ns:
                    heard = _hear(heard, pulse, incarnation, around_ns)
    except LogMissing:  # the stream of heartbeats may be gone: the log says enough
        return heard
    return heard


def _hear(heard: Heard, pulse: Pulse, incarnation: str, around_ns: int) -> Heard:
    if pulse.incarnation != incarnation:
        return heard
    if pulse.at_ns <= around_ns:
        return heard._replace(last=pulse)
    fenced = pulse.report.get("fenced")
    return heard._replace(
        again=heard.again or pulse, fenced=fenced if isinstance(fenced, int) else heard.fenced
    )

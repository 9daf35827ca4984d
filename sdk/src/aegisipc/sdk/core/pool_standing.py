"""Where a worker of a pool stands: what the log says of it and of the others, and what it may do by that."""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore.ids import session_of
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import Place, Subjects
from aegisipc.eventstore.topology import InstanceView, Topology
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.core.pool_facts import Known

_FATES: Final = {
    InstanceState.LOST: "was lost",
    InstanceState.LEFT: "left",
    InstanceState.REFUSED: "was refused",
}


class Standing:
    """One worker among the others of its pool. ``is_draining`` and ``is_held`` are what its host wants of it;
    the rest is a fold of the pool's ``ha`` records.
    """

    def __init__(self, identity: Identity, subjects: Subjects) -> None:
        self.identity = identity
        self.topology = Topology(subjects)
        self.is_draining = False
        self.is_held = False
        self._is_paused = False
        self._is_aside = False
        self._is_to_leave = False

    def apply(self, record: Record, place: Place) -> None:
        """Fold a record about instances and the pool."""
        self.topology.apply(record, place)
        group = self.topology.group(self.identity.service, self.identity.group)
        me = self.me
        self._is_paused = group is not None and group.paused
        self._is_aside = me is not None and (me.quarantined or me.unhealthy is not None)
        self._is_to_leave = me is not None and me.drain_requested

    @property
    def me(self) -> InstanceView | None:
        """This instance as the log tells it; ``None`` before this incarnation's registration was folded."""
        found = self._instance(self.identity.instance)
        return found if found is not None and found.incarnation == self.identity.incarnation else None

    @property
    def is_eldest(self) -> bool:
        """Of the workers that are ready, this one registered first."""
        group = self.topology.group(self.identity.service, self.identity.group)
        return group is not None and next(group.ready(), None) is self.me

    @property
    def may_start(self) -> bool:
        """Whether calls may be begun here: nobody said that they are to wait."""
        is_to_leave = self._is_to_leave and not self.is_draining  # draining, it ends what it has begun
        return not (self.is_held or self._is_paused or self._is_aside or is_to_leave)

    @property
    def keeps_frames(self) -> bool:
        """Whether a frame is in good hands here. A paused worker keeps it: all others are paused, too."""
        return not (self.is_draining or self.is_held or self._is_aside or self._is_to_leave)

    def is_alive(self, known: Known) -> bool:
        """Whether the run of the instance that wrote this still lives. What an earlier run had on its way may
        be stored after the next one registered; its session tells.
        """
        writer = self._instance(known.writer)
        if writer is None or not writer.is_live or writer.registered_seq > known.seq:
            return False
        return known.session in (0, session_of(writer.incarnation))

    def fate_of(self, known: Known) -> str:
        """Say what became of the writer of this, who is gone."""
        writer = self._instance(known.writer)
        if writer is None:
            return "is gone"
        return "was started anew" if writer.is_live else _FATES.get(writer.state, "is gone")

    def _instance(self, name: str) -> InstanceView | None:
        return self.topology.instance(self.identity.service, self.identity.group, name)

"""Messages that are delivered twice, late, in another order, or not at all.

TCP does none of this, and within one connection neither does a nats-server. Across connections it happens:
a publisher that repeats after a lost acknowledgement makes two of one; two publishers on two connections, or
two nodes of a cluster, are not ordered; and core NATS loses what is sent while a subscriber reconnects. So
for plain messages (hints of replies, questions, answers, pulses as they pass by) these faults are real. A
JetStream consumer's deliveries can be lost on the way and sent again late, but an ordered consumer notices a
gap by the numbers in them; let ``picks`` choose such messages on purpose only.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import Final, NamedTuple

from aegisipc.chaos.nemeses.protocol import Frame, Picks, is_plain

REORDER_S: Final = 0.05
"""A message that was to be overtaken goes on after so long, even if none came."""


@dataclass(slots=True)
class DeliveryCounts:
    """How many messages were looked at, and what was done to how many."""

    seen: int = 0
    duplicated: int = 0
    late: int = 0
    reordered: int = 0
    dropped: int = 0
    spared: int = 0
    """Left alone because too many bytes were kept back already."""


class Planned(NamedTuple):
    """One copy of a message. ``after_s`` is how long it is kept back while others pass; a copy that is
    ``overtaken`` goes on as soon as another message has passed it.
    """

    after_s: float
    overtaken: bool = False


_AT_ONCE: Final = (Planned(0.0),)


class _Fault(enum.Enum):
    DROP = enum.auto()
    DUPLICATE = enum.auto()
    LATE = enum.auto()
    REORDER = enum.auto()


@dataclass(slots=True)
class Delivery:
    """The rates, each the share of picked messages (0 to 1), tried in the order in which they stand here; a
    message gets one fault at most. ``by_s`` is the longest that a late one, or the second of two, is kept.
    """

    rng: random.Random
    counts: DeliveryCounts
    picks: Picks = is_plain
    drop: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    reorder: float = 0.0
    late_by_s: float = 0.0
    duplicate_by_s: float = 0.0

    @property
    def is_on(self) -> bool:
        """Whether any message may be hit."""
        return (self.drop + self.duplicate + self.late + self.reorder) > 0

    def stop(self) -> None:
        """Deliver everything as it comes."""
        self.drop = self.duplicate = self.late = self.reorder = 0.0

    def plan(self, frame: Frame, *, has_room: bool) -> tuple[Planned, ...]:
        """Decide what becomes of a message: which copies are delivered, and when. Empty: none."""
        if not self.picks(frame):
            return _AT_ONCE
        self.counts.seen += 1
        fault = self._draw()
        if fault is _Fault.DROP:
            self.counts.dropped += 1
            return ()
        if fault is None or not has_room:
            self.counts.spared += fault is not None
            return _AT_ONCE
        if fault is _Fault.DUPLICATE:
            self.counts.duplicated += 1
            return (Planned(0.0), Planned(self.rng.uniform(0.0, self.duplicate_by_s)))
        if fault is _Fault.LATE:
            self.counts.late += 1
            return (Planned(self.rng.uniform(0.0, self.late_by_s)),)
        self.counts.reordered += 1
        return (Planned(REORDER_S, overtaken=True),)

    def _draw(self) -> _Fault | None:
        drawn = self.rng.random()
        for fault, rate in (
            (_Fault.DROP, self.drop),
            (_Fault.DUPLICATE, self.duplicate),
            (_Fault.LATE, self.late),
            (_Fault.REORDER, self.reorder),
        ):
            drawn -= rate
            if drawn < 0:
                return fault
        return None

"""Calls that come to a group and end: what the tests of its flow share."""

from __future__ import annotations

import itertools
from typing import Final

from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.router.domain.decide import RouterIdentity
from tests.router.domain.world import World
from tests.sdk.kit import GROUP, NS, SERVICE, registered

OTHER: Final = RouterIdentity("r2", "i2")
_ids = CallIds(3)


class Traffic:
    """Calls of one client that come to a group, and their ends."""

    def __init__(self, world: World, group: str = GROUP) -> None:
        self.world, self.group = world, group
        self.open: list[CallId] = []
        self._frames = itertools.count(1)

    def call(self, count: int) -> None:
        ids = [_ids.next(1) for _ in range(count)]
        entries = [CallEntry(call_id, "get", 60_000, None) for call_id in ids]
        frame = CallFrame(5, next(self._frames), 1, entries, [b""] * count)
        self.world.log.append(NS.call(SERVICE, self.group, "c1"), encode_calls(frame))
        self.open += ids

    def conclude(self, count: int, mark: Mark = Mark.SUCCEEDED) -> None:
        ended, self.open = self.open[:count], self.open[count:]
        if not ended:
            return
        view = self.world.group(self.group)
        entries = [PenEntry(mark, call_id) for call_id in ended]
        frame = PenFrame(7, next(self._frames), view.epoch, entries, [b"x"] * len(entries))
        kind = NS.dead if mark is Mark.DEAD_LETTERED else NS.pen
        self.world.log.append(kind(SERVICE, self.group, view.holder or "a"), encode_pen(frame))


def joins(world: World, instance: str, max_backlog: int, group: str = GROUP, incarnation: str = "1") -> None:
    event = registered(incarnation, group=group).model_copy(update={"max_backlog": max_backlog})
    world.say(instance, event, group)
    world.settle()
    world.pulse(instance, group=group, incarnation=incarnation)

"""Watching the order gateway's groups in the log, as it grows: who holds the pen, and each holder's first
outcome.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import GroupPromoted, InstanceReady, InstanceRecovered, decode_event
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import CONCLUSIONS, GROUP_WHO, HA, Place, Subjects

_SERVICE: Final = "orders"
_WORKED: Final = frozenset({Mark.SUCCEEDED, Mark.FAILED})
"""Outcomes that take a handler."""


class Holder(NamedTuple):
    """Who may conclude a group's calls, in which epoch, since when (the server's Unix nanoseconds)."""

    instance: str
    epoch: int
    since_ns: int


class Watch:
    """What the log has said so far of the groups. :meth:`take` gets each record."""

    def __init__(self, subjects: Subjects) -> None:
        self.holders: dict[str, Holder] = {}
        self.outcomes: Counter[str] = Counter()
        """Outcomes of each group, of handlers that ran."""
        self.first_ns: dict[tuple[str, int], int] = {}
        """When the first of them was stored, by group and epoch."""
        self.arrivals: Counter[str] = Counter()
        """How often each instance got ready, or was heard again after it had been suspected."""
        self._subjects = subjects
        self._changed = asyncio.Event()

    @property
    def filters(self) -> list[str]:
        """What to follow."""
        return [self._subjects.of_kind(_SERVICE, "*", kind) for kind in (HA, *sorted(CONCLUSIONS))]

    def take(self, record: Record) -> None:
        """Take in one record; whatever cannot be read is the recount's business."""
        try:
            place = self._subjects.parse(record.subject)
            if place.kind in CONCLUSIONS:
                self._facts(record, place)
            else:
                self._event(record, place)
        except MalformedPayload:
            return
        self._changed.set()

    def _facts(self, record: Record, place: Place) -> None:
        frame = decode_pen(record.payload, bodies=False)
        worked = sum(mark in _WORKED for mark, _ in frame.entries)
        if worked:
            self.outcomes[place.group] += worked
            self.first_ns.setdefault((place.group, frame.epoch), record.timestamp_ns)

    def _event(self, record: Record, place: Place) -> None:
        match decode_event(record.payload):
            case GroupPromoted() as promoted if place.who == GROUP_WHO:
                known = self.holders.get(place.group)
                if known is None or promoted.epoch > known.epoch:
                    holder = Holder(promoted.holder, promoted.epoch, record.timestamp_ns)
                    self.holders[place.group] = holder
            case InstanceReady():
                self.arrivals[place.who] += 1
            case InstanceRecovered() as recovered:
                self.arrivals[recovered.instance] += 1

    async def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as `condition` holds."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def taken_over(self, group: str, epoch: int) -> tuple[Holder, int]:
        """Wait for a holder after `epoch` to give its first outcome; returns it, and when that was stored."""

        def working() -> Holder | None:
            holder = self.holders[group]
            is_working = holder.epoch > epoch and (group, holder.epoch) in self.first_ns
            return holder if is_working else None

        await self.until(working)
        holder = self.holders[group]
        return holder, self.first_ns[group, holder.epoch]


@asynccontextmanager
async def watching(url: str, subjects: Subjects) -> AsyncIterator[Watch]:
    """Follow the log by a connection of its own."""
    watch = Watch(subjects)
    async with await Connection.open(ConnectOptions(url, name="aegis:demo:watch")) as connection:
        log = await open_log(connection, subjects)
        following = await log.follow(watch.filters, watch.take)
        try:
            yield watch
        finally:
            await following.stop()

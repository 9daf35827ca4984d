"""Histories in memory, to be replayed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.replay import Source
from tests.sdk.kit import GROUP, NS, SERVICE, ListLog, ms


@dataclass
class History:
    """A log and the heartbeats beside it, which the test writes."""

    log: ListLog = field(default_factory=ListLog)
    pulses: list[Record] = field(default_factory=list)

    def wait(self, milliseconds: float) -> None:
        """Time passes."""
        self.log.now_ns += ms(milliseconds)

    def pulse(self, *instances: str, incarnation: str = "1", group: str = GROUP) -> None:
        """These instances, and the router, give a heartbeat."""
        report = {"service": SERVICE, "group": group, "incarnation": incarnation}
        self._pulse(NS.pulse("router", "r"), {"incarnation": "r1"})
        for instance in instances:
            self._pulse(NS.pulse("instance", instance), report)

    def _pulse(self, subject: str, report: dict[str, str]) -> None:
        payload = msgpack.packb(report)
        self.pulses.append(Record(len(self.pulses) + 1, subject, payload, self.log.now_ns))

    async def source(self, *, with_pulses: bool = True) -> Source:
        """The history, to be replayed; its clock stands where the test's does."""
        end_ns = self.log.now_ns
        pulses = await stored(self.pulses, end_ns) if with_pulses else None
        return Source(await stored(self.log.records, end_ns), NS, "a test", pulses)


async def stored(records: Iterable[Record], end_ns: int) -> MemoryLog:
    """Return a log with these records, at their times; afterwards its clock says `end_ns`."""
    now = [0]
    log = MemoryLog(lambda: now[0])
    for record in records:
        now[0] = record.timestamp_ns
        await log.append(record.subject, record.payload)
    now[0] = end_ns
    return log

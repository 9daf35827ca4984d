"""Histories with their heartbeats, and what would have become of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.replay import Source
from aegisipc.eventstore.system import SystemState
from aegisipc.router.domain.decide import RouterIdentity
from aegisipc.router.domain.what_if import Change, Report, WhatIf
from aegisipc.router.domain.what_if_facts import Known
from tests.router.domain.world import ME, World
from tests.sdk.kit import GROUP, NS, SERVICE

STEP_MS = 50


class _Taped(PulseBoard):
    """Keeps the heartbeats, too."""

    def __init__(self, tape: list[Record]) -> None:
        super().__init__(NS, gap_ms=500)
        self.tape = tape

    def apply(self, record: Record) -> None:
        self.tape.append(record._replace(seq=len(self.tape) + 1))
        super().apply(record)


class Tape(World):
    """A world whose router leads, and looks at everything every 50 ms."""

    def __init__(self, *instances: str, policy: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.pulses: list[Record] = []
        start_ns = self.board.now_ns
        self.board = _Taped(self.pulses)
        self.board.now_ns = self.board.floor_ns = start_ns
        self.elected(ME, policy)
        self.pulse()
        self.joined(*instances)
        self.connect(*instances)

    def elected(self, router: RouterIdentity, policy: Mapping[str, int] | None = None, term: int = 1) -> None:
        event = ev.RouterElected(
            term=term,
            router=router.id,
            incarnation=router.incarnation,
            cause="nobody leads",
            policy=dict(policy or {}),
        )
        self.log.say(NS.term, event)

    def pulse_of(self, kind: str, who: str, incarnation: str = "1") -> None:
        """One heartbeat, now."""
        told = {"service": SERVICE, "group": GROUP, "incarnation": incarnation}
        self.board.apply(Record(1, NS.pulse(kind, who), msgpack.packb(told), self.log.now_ns))

    def live(self, milliseconds: int, *who: str, **options: str) -> list[ev.Event]:
        """Time passes, in which these pulse, and the router decides what there is to decide."""
        decided: list[ev.Event] = []
        for _ in range(milliseconds // STEP_MS):
            self.pulse(*who, after_ms=STEP_MS, **options)
            decided += self.settle()
        return decided


def what_if(
    world: Tape,
    changes: Mapping[str, int] | None = None,
    *,
    from_seq: int = 1,
    given: Mapping[str, int] | None = None,
) -> Report:
    """Simulate the whole history, or what follows a record."""
    before = [record for record in world.log.records if record.seq < from_seq]
    known = Known(NS, given)
    for record in world.log.records:
        known.note(record)
    from_ns = world.log.records[from_seq - 1].timestamp_ns if from_seq > 1 else 0
    found = WhatIf(SystemState(NS).replay(before), known, changes or {}, from_ns=from_ns)
    for _, is_record, record in merged(world.log.records[from_seq - 1 :], world.pulses):
        if is_record:
            found.on_record(record)
        else:
            found.on_pulse(record)
    return found.report()


async def source_of(world: Tape) -> Source:
    """The same history, to be read as from a server."""
    clock = [world.log.records[0].timestamp_ns]
    logs = MemoryLog(lambda: clock[0]), MemoryLog(lambda: clock[0])
    for _, is_record, record in merged(world.log.records, world.pulses):
        clock[0] = record.timestamp_ns
        await logs[not is_record].append(record.subject, record.payload)
    return Source(logs[0], NS, "a test", logs[1])


def merged(records: Sequence[Record], pulses: Sequence[Record]) -> list[tuple[int, bool, Record]]:
    """In the order of the server's time, heartbeats first."""
    every = [(r.timestamp_ns, True, r) for r in records] + [(p.timestamp_ns, False, p) for p in pulses]
    return sorted(every, key=lambda each: (each[0], each[1], each[2].seq))


def said(changes: Sequence[Change]) -> list[str]:
    """What changes, in short: ``missing instance.suspected a``."""
    shown = []
    for change in changes:
        about = change.shown.subject
        name = about.type.rpartition(".v")[0] or about.type
        shift = str(abs(change.shift_ms)) if change.shift_ms else ""
        shown.append(" ".join(filter(None, (change.how, name, about.who, shift))))
    return shown

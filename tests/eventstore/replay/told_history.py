"""A history to explain and to walk through: a world of the router's tests, as a source of a replay."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
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
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.replay import Source
from aegisipc.eventstore.streams import create_log
from aegisipc.eventstore.subjects import subjects_of
from tests.router.domain.world import World
from tests.sdk.kit import EPOCH_NS, GROUP, NS, SERVICE, ms

IN_DOUBT = encode(ev.ErrorInfo(code="in_doubt", message="i1 is gone"))
BY_ANN = encode(ev.Resolution(source="operator", author="ann@box", reason="the venue has it"))

type Fact = tuple[Mark, CallId, bytes | None]


class RecordedLog(MemoryLog):
    """A log of records that were stored before, with their own times."""

    def __init__(self, records: Sequence[Record]) -> None:
        super().__init__(lambda: records[-1].timestamp_ns if records else 0)
        self._records = list(records)
        self._last_on = {record.subject: record.seq for record in records}


class Tale(World):
    """A world whose heartbeats are kept, and whose calls have bodies; its clock goes on by 10 ms a record."""

    def __init__(self, now_ns: int = EPOCH_NS) -> None:
        super().__init__()
        self.log.now_ns = self.board.now_ns = self.board.floor_ns = now_ns
        self.pulses: list[Record] = []
        self._ids = CallIds(5)
        self._frames = itertools.count(1)
        self.log.say(
            NS.term,
            ev.RouterElected(term=1, router="r1", incarnation="i1", cause="nobody leads"),
        )

    def pulse(self, *who: str, after_ms: float = 0, incarnation: str = "1", group: str = GROUP) -> None:
        super().pulse(*who, after_ms=after_ms, incarnation=incarnation, group=group)
        told = {"service": SERVICE, "group": group, "incarnation": incarnation}
        for instance in who:
            self._keep(NS.pulse("instance", instance), told)
        self._keep(NS.pulse("router", "r1"), {"incarnation": "i1"})

    def says(self, instance: str, **report: int | str) -> None:
        """One heartbeat of an instance, with more in its report, that the router does not hear."""
        told = {"service": SERVICE, "group": GROUP, "incarnation": "1", **report}
        self._keep(NS.pulse("instance", instance), told)

    def _keep(self, subject: str, told: Mapping[str, int | str]) -> None:
        self.pulses.append(Record(len(self.pulses) + 1, subject, msgpack.packb(dict(told)), self.log.now_ns))

    def later(self, milliseconds: float) -> None:
        """Time passes, and nobody is heard."""
        self.log.now_ns += ms(milliseconds)

    def call(self, method: str = "pay", resource: str | None = "acc_1", group: str = GROUP) -> CallId:
        """A client calls."""
        call_id = self._ids.next(self.log.now_ns // 1_000_000)
        frame = CallFrame(
            9, next(self._frames), 1, [CallEntry(call_id, method, 60_000, resource)], [encode([[], {}])]
        )
        self.log.append(NS.call(SERVICE, group, "c1"), encode_calls(frame))
        return call_id

    def pen(self, writer: str, *facts: Fact, epoch: int | None = None, kind: str = "pen") -> int:
        """Somebody writes a pen frame; of the present epoch unless it is given."""
        frame = PenFrame(
            11,
            next(self._frames),
            self.group().epoch if epoch is None else epoch,
            [PenEntry(mark, call_id) for mark, call_id, _ in facts],
            [body for *_, body in facts],
        )
        return self.log.append(f"{NS.log_root}.{SERVICE}.{GROUP}.{kind}.{writer}", encode_pen(frame))

    def source(self) -> Source:
        """The history so far."""
        return Source(RecordedLog(self.log.records), NS, "a test", RecordedLog(self.pulses))


def tale_of(*instances: str, now_ns: int = EPOCH_NS) -> Tale:
    """These joined in that order, have connections, and have just pulsed: the first holds the pen."""
    tale = Tale(now_ns)
    tale.joined(*instances)
    tale.connect(*instances)
    tale.pulse(*instances)
    return tale


def frozen(now_ns: int = EPOCH_NS) -> tuple[Tale, CallId, CallId]:
    """``i1`` begins a call and freezes; ``i2`` takes over; ``i1`` wakes up too late; ann ends the doubt."""
    tale = tale_of("i1", "i2", "i3", now_ns=now_ns)
    begun, waiting = tale.call(), tale.call("put", "acc_2")
    tale.pen("i1", (Mark.CLAIMED, begun, None))
    tale.silence(1500, "i2", "i3")
    tale.settle()
    tale.later(3)
    tale.pen("i1", (Mark.SUCCEEDED, begun, b"\x01"), epoch=1)
    tale.pen("i2", (Mark.IN_DOUBT, begun, IN_DOUBT))
    tale.later(2)
    tale.pen("i2", (Mark.SUCCEEDED, waiting, b"\x01"))
    tale.later(100)
    tale.says("i1", fenced=1)
    tale.pulse("i1", "i2", "i3", after_ms=5)
    tale.settle()
    tale.pen("i2", (Mark.EXECUTED, begun, BY_ANN), (Mark.SUCCEEDED, begun, b"\x01"))
    return tale, begun, waiting


async def store(tale: Tale, url: str, namespace: str) -> None:
    """Write a tale to a server, as the log and the heartbeats of a namespace; all of it now."""
    subjects = subjects_of(namespace)
    async with await Connection.open(ConnectOptions(url)) as connection:
        log = await create_log(connection, subjects)
        pulses = JetStreamLog(connection, subjects.pulse_stream)
        for target, records in ((pulses, tale.pulses), (log, tale.log.records)):
            for record in records:
                subject = record.subject.replace(f"aegis.{NS.namespace}.", f"aegis.{namespace}.", 1)
                await target.append(subject, record.payload)

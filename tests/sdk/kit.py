"""What the tests of the cores share: a log as a list, clients, and members and workers to drive by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    decode_pen,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.eventstore.log import Expect, Record
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Identity, Start, Written
from aegisipc.sdk.core.pool import PoolWorker

NS: Final[Subjects] = subjects_of("t")
SERVICE, GROUP, POOL = "orders", "acc", "_pool"
EPOCH_NS: Final = 1_800_000_000_000_000_000
"""Where the clocks of these tests start."""

EFFECTS: Final = {"pay": Effect.ONCE, "put": Effect.IDEMPOTENT, "get": Effect.PURE}
CONTRACT: Final[ev.Contract] = {
    name: ev.MethodContract(effect=effect, arguments="a", returns="r", signature=f"{name}() -> int")
    for name, effect in EFFECTS.items()
}

type Reply = tuple[CallId, int, bytes | None]


def ms(milliseconds: float) -> int:
    """Nanoseconds of so many milliseconds."""
    return int(milliseconds * 1_000_000)


@dataclass
class ListLog:
    """A log as a list, with the server's checks and a clock that only the test moves."""

    records: list[Record] = field(default_factory=list)
    now_ns: int = EPOCH_NS
    stored: dict[str, int] = field(default_factory=dict)

    def append(
        self, subject: str, payload: bytes, expect: Expect | None = None, record_id: str | None = None
    ) -> int:
        """Store a record and return its sequence; checks the expectation before the record id, as one server
        does.
        """
        if expect is not None:
            guarded = expect.subject or subject
            found = self.last_seq(guarded)
            if found != expect.seq:
                raise WrongSequence(f"{guarded} is at {found}", subject=guarded, expected=expect.seq)
        if record_id is not None and record_id in self.stored:
            return self.stored[record_id]
        record = Record(len(self.records) + 1, subject, payload, self.now_ns)
        self.records.append(record)
        if record_id is not None:
            self.stored[record_id] = record.seq
        return record.seq

    def say(self, subject: str, event: ev.Event) -> int:
        """Store an event."""
        return self.append(subject, ev.encode_event(event))

    def last(self, subject: str) -> Record | None:
        """The last record on a subject."""
        return next((r for r in reversed(self.records) if r.subject == subject), None)

    def last_seq(self, subject: str) -> int:
        """Its sequence, or 0."""
        last = self.last(subject)
        return last.seq if last else 0

    # -- what instances and routers say --------------------------------------------------------------------

    def join(self, instance: str, incarnation: str = "1", *, group: str = GROUP) -> None:
        """An instance registers, is admitted and is ready."""
        own = NS.instance(SERVICE, group, instance)
        self.say(own, registered(incarnation, group=group))
        self.say(
            NS.watch(SERVICE, group),
            ev.InstanceAdmitted(instance=instance, incarnation=incarnation, decided_by="r"),
        )
        self.say(own, ev.InstanceReady(incarnation=incarnation))

    def promote(self, instance: str, epoch: int, incarnation: str = "1") -> int:
        """The router gives an instance the pen."""
        event = ev.GroupPromoted(
            epoch=epoch, holder=instance, incarnation=incarnation, cause="test", decided_by="r"
        )
        return self.say(NS.fence(SERVICE, GROUP), event)

    def vacate(self, epoch: int) -> int:
        """The router takes the pen away."""
        return self.say(NS.fence(SERVICE, GROUP), ev.GroupVacated(epoch=epoch, cause="test", decided_by="r"))

    def lose(self, instance: str, incarnation: str = "1", *, group: str = GROUP) -> None:
        """The router takes an instance for dead."""
        watch = NS.watch(SERVICE, group)
        self.say(
            watch,
            ev.InstanceSuspected(
                instance=instance, incarnation=incarnation, last_pulse_ns=0, silence_ms=1, decided_by="r"
            ),
        )
        self.say(
            watch,
            ev.InstanceLost(
                instance=instance, incarnation=incarnation, last_pulse_ns=0, silence_ms=1, decided_by="r"
            ),
        )


def registered(
    incarnation: str,
    *,
    group: str = GROUP,
    resources: Sequence[str] | None = None,
    contract: ev.Contract = CONTRACT,
) -> ev.InstanceRegistered:
    """A registration."""
    is_pool = group == POOL
    return ev.InstanceRegistered(
        incarnation=incarnation,
        mode="pool" if is_pool else "owned",
        resources=tuple(resources) if resources is not None else (() if is_pool else ("acc_1",)),
        contract=contract,
        host="h",
        pid=1,
        version="0",
    )


def a_call(
    method: str = "get", resource: str | None = None, timeout_ms: int = 10_000, body: bytes = b"\x92\x90\x80"
) -> tuple[str, str | None, int, bytes]:
    """One call for :meth:`Caller.send`."""
    return method, resource, timeout_ms, body


class FakeClient:
    """Writes call frames the way a client does."""

    _sessions = itertools.count(1)

    def __init__(self, log: ListLog, name: str = "c1", group: str = GROUP) -> None:
        self.name, self.session = name, next(self._sessions)
        self._log, self._group = log, group
        self._ids = CallIds(self.session)
        self._number = 0

    def send(self, *calls: tuple[str, str | None, int, bytes]) -> list[CallId]:
        """Store one frame of these calls; returns their ids."""
        frame = self.frame(*calls)
        self._log.append(NS.call(SERVICE, self._group, self.name), encode_calls(frame))
        return [entry.call_id for entry in frame.entries]

    def frame(self, *calls: tuple[str, str | None, int, bytes]) -> CallFrame:
        """The next frame, not stored."""
        self._number += 1
        entries = [
            CallEntry(self._ids.next(self._log.now_ns // 1_000_000), method, timeout_ms, resource)
            for method, resource, timeout_ms, _ in calls
        ]
        return CallFrame(self.session, self._number, 0, entries, [body for *_, body in calls])


class MemberRig:
    """One group member, its place in the log, and its frame in flight."""

    _sessions = itertools.count(1000)

    def __init__(
        self,
        log: ListLog,
        name: str = "a",
        *,
        incarnation: str = "1",
        max_running: int = 100,
        max_frame_bytes: int = 1 << 20,
        threaded: Sequence[str] = (),
    ) -> None:
        self.log, self.name = log, name
        identity = Identity(SERVICE, GROUP, name, incarnation, next(self._sessions))
        self.core = GroupMember(
            identity,
            EFFECTS,
            NS,
            max_running=max_running,
            max_frame_bytes=max_frame_bytes,
            threaded=threaded,
            max_threaded=1,
        )
        self.position = 0
        self.running: list[Start] = []
        self.replies: list[tuple[str, Reply]] = []

    @property
    def pen(self) -> str:
        """The subject it writes."""
        return NS.pen(SERVICE, GROUP, self.name)

    def read(self, count: int | None = None) -> None:
        """Deliver what it has not read yet, or the next `count` records."""
        unread = self.log.records[self.position :]
        for record in unread if count is None else unread[:count]:
            self.position = record.seq
            self.core.on_record(record, self.log.now_ns)
        self.take()

    def take(self) -> list[Start]:
        """Take the starts it gives."""
        new: list[Start] = []
        while starts := self.core.take_starts():
            new += starts
        self.running += new
        return new

    def write(self) -> PenFrame | None:
        """Store its next frame and acknowledge it; ``None`` when it has nothing to write."""
        written = self.core.next_frame()
        if written is None:
            return None
        self.store(written)
        self.ack(written)
        return decode_pen(written.payload)

    def store(self, written: Written) -> int:
        """What the server does with a frame."""
        return self.log.append(self.pen, written.payload, written.expect, written.record_id)

    def ack(self, written: Written) -> None:
        """The frame's acknowledgement arrives."""
        self.core.on_acked(written, self.log.now_ns)
        for client, replies in self.core.replies(written).items():
            self.replies += [(client, reply) for reply in replies]
        self.take()

    def refuse(self, written: Written) -> Written | None:
        """The frame's refusal arrives, and the fence is read."""
        latest = self.log.last(NS.fence(SERVICE, GROUP))
        event = ev.decode_event(latest.payload) if latest else None
        again = self.core.on_refused(written, latest.seq if latest else 0, event)
        self.take()
        return again

    def finish(self, call_id: CallId, body: bytes = b"\x01", mark: Mark = Mark.SUCCEEDED) -> bool:
        """A handler returns."""
        start = next(s for s in self.running if s.call.call_id == call_id)
        self.running.remove(start)
        accepted = self.core.on_finished(start, mark, body, self.log.now_ns)
        self.take()
        return accepted

    def started(self) -> list[CallId]:
        """Ids of the calls that run now, in the order in which they were started."""
        return [start.call.call_id for start in self.running]

    def pass_time(self, milliseconds: float) -> None:
        """Move the clock, and let the member know."""
        self.log.now_ns += ms(milliseconds)
        self.core.on_tick(self.log.now_ns)
        self.take()

    def run_everything(self) -> None:
        """Read, run and write until nothing moves any more."""
        while True:
            self.read()
            moved = bool(self.running)
            for start in list(self.running):
                self.finish(start.call.call_id)
            if self.write() is None and not moved and not self.running:
                return


def active_member(
    log: ListLog,
    name: str = "a",
    *,
    max_running: int = 100,
    max_frame_bytes: int = 1 << 20,
    threaded: Sequence[str] = (),
) -> MemberRig:
    """A member that joined and holds the pen at the next epoch."""
    log.join(name)
    log.promote(name, 1)
    rig = MemberRig(log, name, max_running=max_running, max_frame_bytes=max_frame_bytes, threaded=threaded)
    rig.read()
    return rig


class WorkerRig:
    """One worker of a pool, and its place in the log."""

    _sessions = itertools.count(100_000)

    def __init__(
        self, log: ListLog, name: str = "w1", *, incarnation: str = "1", max_running: int = 100
    ) -> None:
        self.log, self.name = log, name
        identity = Identity(SERVICE, POOL, name, incarnation, next(self._sessions))
        self.core = PoolWorker(identity, EFFECTS, NS, max_running=max_running, max_frame_bytes=1 << 20)
        self.position = 0
        self.running: list[Start] = []
        self.replies: list[Reply] = []
        self.acks: list[str] = []
        self.unacked: Written | None = None

    def read(self) -> None:
        """Deliver what it has not read yet."""
        for record in self.log.records[self.position :]:
            self.position = record.seq
            self.core.on_record(record, self.log.now_ns)
        self.take()

    def take(self) -> None:
        """Take everything it gives."""
        self.running += self.core.take_starts()
        for replies in self.core.take_replies().values():
            self.replies += replies
        self.acks += self.core.take_acks()

    def hand(
        self, seq: int, frame: CallFrame, token: str = "t1", client: str = "c1", **known: object
    ) -> None:
        """Hand it the call frame stored as `seq`."""
        record = Record(seq, NS.call(SERVICE, POOL, client), b"", self.log.records[seq - 1].timestamp_ns)
        self.core.on_frame(token, record, frame, {}, self.log.now_ns)
        self.take()

    def store(self) -> PenFrame | None:
        """Store its next frame; it is acknowledged, but not read back yet."""
        written = self.core.next_frame()
        if written is None:
            return None
        self.log.append(NS.pen(SERVICE, POOL, self.name), written.payload, None, written.record_id)
        self.core.on_acked()
        return decode_pen(written.payload)

    def write(self) -> PenFrame | None:
        """Store its next frame and read it back."""
        frame = self.store()
        self.read()
        return frame

    def finish(self, call_id: CallId, body: bytes = b"\x01") -> None:
        """A handler returns."""
        start = next(s for s in self.running if s.call.call_id == call_id)
        self.running.remove(start)
        self.core.on_finished(start, Mark.SUCCEEDED, body, self.log.now_ns)
        self.take()

    def started(self) -> list[CallId]:
        """Ids of the calls that run now."""
        return [start.call.call_id for start in self.running]


def pool_client(log: ListLog, name: str = "c1") -> FakeClient:
    """A client of the pool."""
    return FakeClient(log, name, POOL)


def stored_frame(
    log: ListLog, client: FakeClient, *calls: tuple[str, str | None, int, bytes]
) -> tuple[int, CallFrame]:
    """Store one frame of calls; returns its sequence and itself."""
    frame = client.frame(*calls)
    seq = log.append(NS.call(SERVICE, client._group, client.name), encode_calls(frame))
    return seq, frame


def ids(frame: CallFrame | PenFrame) -> list[CallId]:
    """The ids of the calls of a frame."""
    return [entry.call_id for entry in frame.entries]


def marks(frame: PenFrame | None) -> list[tuple[Mark, CallId]]:
    """What a pen frame says."""
    return [] if frame is None else [(mark, call_id) for mark, call_id in frame.entries]


def pen_frame(session: int, number: int, *facts: tuple[Mark, CallId, bytes | None]) -> bytes:
    """The payload of somebody else's pen frame."""
    entries = [PenEntry(mark, call_id) for mark, call_id, _ in facts]
    return encode_pen(PenFrame(session, number, 0, entries, [body for *_, body in facts]))

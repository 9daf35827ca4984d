"""What the tests of the cores share: a log as a list, clients, frames."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.events import Effect
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
from aegisipc.eventstore.log import Expect, Record
from aegisipc.eventstore.subjects import Subjects, subjects_of

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

    def join(
        self, instance: str, incarnation: str = "1", *, group: str = GROUP, quarantined: bool = False
    ) -> None:
        """An instance registers, is admitted and is ready."""
        own = NS.instance(SERVICE, group, instance)
        self.say(own, registered(incarnation, group=group, quarantined=quarantined))
        self.say(
            NS.watch(SERVICE, group),
            ev.InstanceAdmitted(instance=instance, incarnation=incarnation, decided_by="r"),
        )
        self.say(own, ev.InstanceReady(incarnation=incarnation))

    def promote(
        self,
        instance: str,
        epoch: int,
        incarnation: str = "1",
        kind: Literal["first", "planned", "failover"] = "failover",
    ) -> int:
        """The router gives an instance the pen."""
        event = ev.GroupPromoted(
            epoch=epoch, holder=instance, incarnation=incarnation, kind=kind, cause="test", decided_by="r"
        )
        return self.say(NS.fence(SERVICE, GROUP), event)

    def hand_over(self, epoch: int, holder: str, to: str, to_incarnation: str = "1") -> int:
        """The router asks the holder to finish, so that another one can have the pen."""
        event = ev.GroupHandoverStarted(
            epoch=epoch,
            holder=holder,
            to=to,
            to_incarnation=to_incarnation,
            cause="test",
            decided_by="r",
        )
        return self.say(NS.fence(SERVICE, GROUP), event)

    def call_off(self, epoch: int) -> int:
        """The router cancels a handover."""
        event = ev.GroupHandoverCancelled(epoch=epoch, cause="test", decided_by="r")
        return self.say(NS.fence(SERVICE, GROUP), event)

    def pause(self) -> int:
        """An operator pauses the group."""
        event = ev.GroupPaused(scope="group", author="ann", reason="test", decided_by="r")
        return self.say(NS.watch(SERVICE, GROUP), event)

    def resume(self) -> int:
        """An operator lets the group go on."""
        event = ev.GroupResumed(scope="group", author="ann", reason="test", decided_by="r")
        return self.say(NS.watch(SERVICE, GROUP), event)

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
    quarantined: bool = False,
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
        quarantined=quarantined,
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

"""A member of an owned group to drive by hand, and a shared state that shows all there is to see."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Literal

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.events import Resolution
from aegisipc.eventstore.frames import Mark, PenEntry, PenFrame, decode_pen, encode_pen
from aegisipc.eventstore.group_snapshots import decode_snapshot, load_calls
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import HA
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Identity, Start, Written
from tests.sdk.kit import EFFECTS, GROUP, NS, SERVICE, FakeClient, ListLog, Reply, a_call, marks, ms


class ListState:
    """A shared state that shows all there is to see: the events, in the order in which they were applied."""

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def apply(self, body: bytes) -> None:
        """Apply an event; one that begins with ``!`` cannot be applied, and leaves a mess."""
        self.events.append(body)
        if body.startswith(b"!"):
            raise ValueError(f"{body!r} makes no sense")

    def digest(self) -> bytes:
        """A digest of all."""
        return hashlib.sha256(self.snapshot()).digest()

    def snapshot(self) -> bytes:
        """All of it."""
        return b"\n".join(self.events)

    def restore(self, blob: bytes | None) -> None:
        """Start from a snapshot, or from nothing."""
        self.events = blob.split(b"\n") if blob else []


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
        state: ListState | None = None,
        snapshots_every: int = 50_000,
    ) -> None:
        self.log, self.name, self.state = log, name, state
        identity = Identity(SERVICE, GROUP, name, incarnation, next(self._sessions))
        self.core = GroupMember(
            identity,
            EFFECTS,
            NS,
            max_running=max_running,
            max_frame_bytes=max_frame_bytes,
            threaded=threaded,
            max_threaded=1,
            state=state,
        )
        self.core.snapshots.every = snapshots_every
        self.position = 0
        self.running: list[Start] = []
        self.doubts: list[OpenCall] = []
        self.replies: list[tuple[str, Reply]] = []
        self._evidence_number = 0

    @property
    def pen(self) -> str:
        """The subject it writes."""
        return NS.pen(SERVICE, GROUP, self.name)

    # -- reading -------------------------------------------------------------------------------------------

    def read(self, count: int | None = None) -> None:
        """Deliver what it has not read yet, or the next `count` records."""
        end = len(self.log.records)
        if count is not None:
            end = min(end, self.position + count)
        while self.position < end:
            record = self.log.records[self.position]
            self.position = record.seq
            self.core.on_record(record, self.log.now_ns)
            self.take()

    def restore(self, record: Record) -> None:
        """Begin with a snapshot instead of reading the log up to there."""
        snapshot = decode_snapshot(record.payload)
        if self.state is not None:
            self.state.restore(snapshot.state)
        load_calls(snapshot.calls, self.core.calls)
        for known in self.log.records[: snapshot.covers]:
            place = NS.parse(known.subject)
            if place.kind == HA:
                self.core.on_routing(known, place)
        self.position = snapshot.covers

    def take(self) -> list[Start]:
        """Take the starts and the doubts that it gives; returns the starts."""
        new: list[Start] = []
        while starts := self.core.take_starts():
            new += starts
        self.running += new
        self.doubts += self.core.take_doubts()
        return new

    # -- writing -------------------------------------------------------------------------------------------

    def write(self) -> PenFrame | None:
        """Store its next frame and acknowledge it; ``None`` when it has none to write. Snapshots that come
        first are stored, too.
        """
        while (written := self.core.next_frame()) is not None:
            self.store(written)
            self.ack(written)
            if written.frame is not None:
                return decode_pen(written.payload)
        return None

    def write_all(self) -> list[tuple[Mark, CallId]]:
        """Write and read until nothing is left to be written; returns what the frames said."""
        told: list[tuple[Mark, CallId]] = []
        while (frame := self.write()) is not None:
            told += marks(frame)
            self.read()
        return told

    def next_frame(self) -> Written:
        """Its next frame, which is in flight from now on."""
        written = self.core.next_frame()
        assert written is not None, "it has nothing to write"
        return written

    def subject_of(self, written: Written) -> str:
        """Where a record of this member belongs."""
        return self.pen if written.frame is not None else NS.state(SERVICE, GROUP, self.name)

    def store(self, written: Written) -> int:
        """What the server does with a frame."""
        return self.log.append(self.subject_of(written), written.payload, written.expect, written.record_id)

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

    # -- running -------------------------------------------------------------------------------------------

    def finish(
        self,
        call_id: CallId,
        body: bytes = b"\x01",
        mark: Mark = Mark.SUCCEEDED,
        emitted: Sequence[bytes] = (),
    ) -> bool:
        """A handler returns."""
        start = next(s for s in self.running if s.call.call_id == call_id)
        return self.finish_start(start, body, mark, emitted)

    def finish_start(
        self, start: Start, body: bytes, mark: Mark = Mark.SUCCEEDED, emitted: Sequence[bytes] = ()
    ) -> bool:
        """A handler returns: this one of several of the same call."""
        self.running.remove(start)
        accepted = self.core.on_finished(start, mark, body, self.log.now_ns, emitted)
        self.take()
        return accepted

    def testify(
        self,
        call_id: CallId,
        body: bytes | None = b"\x01",
        mark: Mark = Mark.SUCCEEDED,
        emitted: Sequence[bytes] = (),
    ) -> int:
        """It has lost the pen, and tells how a call ended that it had begun."""
        self._evidence_number += 1
        facts: list[tuple[Mark, bytes | None]] = [(Mark.EMITTED, event) for event in emitted]
        facts.append((mark, body))
        frame = PenFrame(
            self.core.identity.session,
            self._evidence_number,
            0,
            [PenEntry(mark, call_id) for mark, _ in facts],
            [body for _, body in facts],
        )
        return self.log.append(NS.evidence(SERVICE, GROUP, self.name), encode_pen(frame))

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
    state: ListState | None = None,
    snapshots_every: int = 50_000,
) -> MemberRig:
    """A member that joined and holds the pen at epoch 1."""
    log.join(name)
    log.promote(name, 1, kind="first")
    rig = MemberRig(
        log,
        name,
        max_running=max_running,
        max_frame_bytes=max_frame_bytes,
        threaded=threaded,
        state=state,
        snapshots_every=snapshots_every,
    )
    rig.read()
    return rig


def standby_member(
    log: ListLog,
    name: str = "b",
    *,
    max_running: int = 100,
    max_frame_bytes: int = 1 << 20,
    state: ListState | None = None,
) -> MemberRig:
    """A member that joined, and has read the log so far."""
    log.join(name)
    rig = MemberRig(log, name, max_running=max_running, max_frame_bytes=max_frame_bytes, state=state)
    rig.read()
    return rig


def said_by(source: Literal["operator", "reconcile", "evidence"] = "operator") -> Resolution:
    """Who ended a doubt."""
    return Resolution(source=source, author="ann", reason="test")


def events(rig: MemberRig) -> list[bytes]:
    """What its state is made of."""
    assert rig.state is not None
    return rig.state.events


def run(rig: MemberRig, client: FakeClient, *emitted: bytes) -> CallId:
    """A call that emits these runs to its end; its outcome is not written yet."""
    (call,) = client.send(a_call("put"))
    rig.read()
    rig.finish(call, emitted=emitted)
    return call

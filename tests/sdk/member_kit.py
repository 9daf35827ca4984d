"""A member of an owned group to drive by hand, and a shared state that shows all there is to see."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import CancelRequested, ErrorInfo, Requeued, RequeuedCall, Resolution
from aegisipc.eventstore.frames import (
    CallOptions,
    Mark,
    PenEntry,
    PenFrame,
    decode_pen,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.group_snapshots import decode_snapshot, load_calls
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.keys import KeyOwner, decode_segment, find_in
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import DEAD, HA, KEYS, PEN, STATE
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.core.holding import Rules
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Identity, Start, Written
from aegisipc.sdk.retry import Retry
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
        retries: Mapping[str, Retry] | None = None,
        segment_keys: int = 16_384,
        max_backlog: int = 100_000,
    ) -> None:
        self.log, self.name, self.state = log, name, state
        identity = Identity(SERVICE, GROUP, name, incarnation, next(self._sessions))
        rules = Rules(EFFECTS, max_running, threaded, 1, retries or {}, max_backlog)
        self.core = GroupMember(identity, rules, NS, max_frame_bytes=max_frame_bytes, state=state)
        self.core.snapshots.every = snapshots_every
        self.core.segments.most = segment_keys
        self.position = 0
        self.running: list[Start] = []
        self.doubts: list[OpenCall] = []
        self.cancels: list[CallId] = []
        self.lookups: list[Lookup] = []
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
        keys = self.core.calls.keys
        assert keys is not None
        topology = Topology(NS)
        for known in self.log.records[: snapshot.covers]:
            place = NS.parse(known.subject)
            topology.apply(known)
            group = topology.group(SERVICE, GROUP)
            if place.kind == KEYS and group is not None:
                segment = decode_segment(known.payload)
                if (place.who, segment.epoch) == (group.holder, group.epoch):
                    keys.on_segment(known.seq, segment)
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
        self.cancels += [call.call_id for call in self.core.take_cancels()]
        self.lookups += self.core.take_lookups()
        return new

    def look_up(self) -> None:
        """Read the segments that it wants read, as its host does."""
        while self.lookups:
            lookup = self.lookups.pop(0)
            self.core.on_key_found(lookup, self.found_by(lookup), self.log.now_ns)
            self.take()

    def found_by(self, lookup: Lookup) -> KeyOwner | None:
        """What the segments of a lookup say."""
        for seq in lookup.segments:
            is_there, owner = find_in(decode_segment(self.log.records[seq - 1].payload), lookup.key)
            if is_there:
                return owner
        return None

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
        kinds = {PEN: NS.pen, DEAD: NS.dead, STATE: NS.state, KEYS: NS.keys}
        return kinds[written.kind](SERVICE, GROUP, self.name)

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
        self,
        start: Start,
        body: bytes,
        mark: Mark = Mark.SUCCEEDED,
        emitted: Sequence[bytes] = (),
        *,
        again: bool = False,
    ) -> bool:
        """A handler returns: this one of several of the same call."""
        self.running.remove(start)
        accepted = self.core.on_finished(
            start, mark, body, self.log.now_ns, emitted, again=again, stack=("here",) * again
        )
        self.take()
        return accepted

    def fail(self, call_id: CallId, code: str = "broken") -> bool:
        """A handler raises an error after which it is run again, attempts permitting."""
        start = next(s for s in self.running if s.call.call_id == call_id)
        body = encode(ErrorInfo(code=code, message="it broke"))
        return self.finish_start(start, body, Mark.FAILED, again=True)

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
            self.look_up()
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
    **options: Any,
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
        **options,
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


type ACall = tuple[str, str | None, int, bytes]


def send_keyed(client: FakeClient, *calls: tuple[ACall, str | None]) -> list[CallId]:
    """Store one frame of calls with their idempotency keys."""
    frame = client.frame(*[call for call, _ in calls])
    entries = [
        entry._replace(options=None if key is None else CallOptions(key))
        for entry, (_, key) in zip(frame.entries, calls, strict=True)
    ]
    client._log.append(
        NS.call(SERVICE, client._group, client.name), encode_calls(frame._replace(entries=entries))
    )
    return [entry.call_id for entry in entries]


def ask_to_cancel(log: ListLog, *call_ids: CallId, author: str = "c1", reason: str = "no need") -> None:
    """Somebody wants calls cancelled."""
    event = CancelRequested(
        call_ids=tuple(format_call_id(call_id) for call_id in call_ids), author=author, reason=reason
    )
    log.say(NS.cancel(SERVICE, GROUP, author), event)


def requeue(rig: MemberRig, call: OpenCall, *, timeout_ms: int = 10_000) -> None:
    """An operator lets a dead letter run again."""
    was = RequeuedCall(
        client=call.client,
        method=call.method,
        resource=call.resource,
        key=call.key,
        priority=call.priority,
        body=call.body,
    )
    said = Requeued(author="ann", reason="test", dead_seq=1, timeout_ms=timeout_ms, call=was)
    rig.core.requeue(call, said)


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

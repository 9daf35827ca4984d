"""One worker of a pool, to be driven by hand."""

from __future__ import annotations

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import CallFrame, CallOptions, Mark, PenFrame, decode_pen, encode_calls
from aegisipc.eventstore.ids import CallId, format_call_id, session_of
from aegisipc.eventstore.key_seeking import PoolKeyFold
from aegisipc.eventstore.keys import (
    SEGMENT_KEYS,
    Elsewhere,
    KeyOwner,
    decode_segment,
    encode_segment,
    find_in,
    key_hash,
)
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Outcomes
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.pool_keys import PoolKeys
from aegisipc.eventstore.subjects import CANCEL, CONCLUSIONS, DEAD, HA, KEYS
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.pen import Identity, Start, Written
from aegisipc.sdk.core.pool import PoolWorker, Resolved
from aegisipc.sdk.core.pool_cancels import ToCancel
from aegisipc.sdk.failures import cancelled
from tests.sdk.kit import EFFECTS, NS, POOL, SERVICE, FakeClient, ListLog, Reply

FAILURE = encode(ev.ErrorInfo(code="busy", message="the venue is busy"))
BY_OPERATOR = ev.Resolution(source="operator", author="ann", reason="asked the venue")


def pool_client(log: ListLog, name: str = "c1") -> FakeClient:
    """A client of the pool."""
    return FakeClient(log, name, POOL)


def pause(log: ListLog) -> None:
    """An operator pauses the pool."""
    event = ev.GroupPaused(scope="group", author="ann", reason="look", decided_by="r")
    log.say(NS.watch(SERVICE, POOL), event)


def resume(log: ListLog) -> None:
    """An operator lets the pool go on."""
    event = ev.GroupResumed(scope="group", author="ann", reason="looked", decided_by="r")
    log.say(NS.watch(SERVICE, POOL), event)


def subject_of(name: str, written: Written) -> str:
    """Where a frame of that worker is stored."""
    return (NS.dead if written.kind == DEAD else NS.pen)(SERVICE, POOL, name)


def owner_in(log: ListLog, lookup: Lookup) -> KeyOwner | None:
    """What segments say of a key."""
    for seq in lookup.segments:
        is_told, owner = find_in(decode_segment(log.records[seq - 1].payload), lookup.key)
        if is_told:
            return owner
    return None


def owner_of(log: ListLog, keys: PoolKeys, key: str) -> KeyOwner | None:
    """Who has a key by an index, and the segments to which it points."""
    found = keys.find(key_hash(key))
    if isinstance(found, Elsewhere):
        return owner_in(log, Lookup(key_hash(key), tuple(found.segments)))
    return found


def fold_keys(keys: PoolKeys, record: Record) -> None:
    """Give a record to an index that is no worker's. No frame may be in the log twice."""
    place = NS.parse(record.subject)
    if place.kind == KEYS:
        keys.on_segment(record.seq, record.timestamp_ns, decode_segment(record.payload))
    elif place.kind in CONCLUSIONS:
        frame = decode_pen(record.payload)
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if mark is Mark.KEYED:
                keys.on_keyed(call_id, body, record.seq, place.who, frame.session)
            elif mark is Mark.RELEASED:
                keys.on_released(call_id, body, record.seq)
    keys.position = record.seq


def found_in(log: ListLog, key: str) -> CallId | None:
    """Who has a key for one who reads the log."""
    fold = PoolKeyFold(NS, SERVICE, key)
    for record in log.records:
        if NS.parse(record.subject).kind == KEYS:
            fold.read_segment(record)
    start = fold.join()
    for record in log.records[start - 1 :]:
        fold.apply(record)
    return fold.owner


def with_options(frame: CallFrame, *options: CallOptions | None) -> CallFrame:
    """The frame, with options for its calls."""
    entries = [e._replace(options=o) for e, o in zip(frame.entries, options, strict=True)]
    return frame._replace(entries=entries)


def stored_with(
    log: ListLog, client: FakeClient, call: tuple[str, str | None, int, bytes], options: CallOptions
) -> tuple[int, CallFrame]:
    """Store a frame of one call with options; returns its sequence and itself."""
    frame = with_options(client.frame(call), options)
    return log.append(NS.call(SERVICE, POOL, client.name), encode_calls(frame)), frame


def requeue_frame(frame: CallFrame, dead_seq: int, number: int, timeout_ms: int = 1000) -> CallFrame:
    """What the eldest worker stores when the first call of a frame is to run again, as a dead letter."""
    entry, body = frame.entries[0], frame.bodies[0]
    options = entry.options or CallOptions()
    was = ev.RequeuedCall(
        client="c1",
        method=entry.method,
        resource=None,
        key=options.key,
        priority=options.priority,
        body=body,
    )
    said = ev.Requeued(author="ann", reason="mended", dead_seq=dead_seq, timeout_ms=timeout_ms, call=was)
    again = options._replace(requeue=(dead_seq, "c1"))
    return CallFrame(77, number, 0, [entry._replace(timeout_ms=timeout_ms, options=again)], [encode(said)])


def cancel(log: ListLog, *call_ids: CallId) -> int:
    """A client wants calls cancelled."""
    event = ev.CancelRequested(
        call_ids=tuple(format_call_id(i) for i in call_ids), author="c1", reason="too late"
    )
    return log.say(NS.cancel(SERVICE, POOL, "c1"), event)


class WorkerRig:
    """One worker of a pool, and its place in the log."""

    def __init__(
        self,
        log: ListLog,
        name: str = "w1",
        *,
        incarnation: str = "1",
        max_running: int = 100,
        segment_keys: int = SEGMENT_KEYS,
        outcomes: Outcomes | None = None,
    ) -> None:
        self.log, self.name = log, name
        identity = Identity(SERVICE, POOL, name, incarnation, session_of(incarnation))
        self.core = PoolWorker(
            identity,
            EFFECTS,
            NS,
            max_running=max_running,
            max_frame_bytes=1 << 20,
            segment_keys=segment_keys,
            outcomes=outcomes,
        )
        self.position = 0
        self.running: list[Start] = []
        self.replies: list[Reply] = []
        self.acks: list[str] = []
        self.naks: list[str] = []
        self.laters: list[str] = []
        self.resolved: list[Resolved] = []
        self.to_cancel: list[ToCancel] = []
        self.lookups: list[Lookup] = []

    def join(self) -> None:
        """Begin as a worker does that starts now: it follows from here on, and reads what it needs."""
        core = self.core
        for record in self.log.records:
            if NS.parse(record.subject).kind == HA:
                core.on_record(record, self.log.now_ns)
        segments = [
            (record.seq, record.timestamp_ns, decode_segment(record.payload))
            for record in self.log.records
            if NS.parse(record.subject).kind == KEYS
        ]
        start = core.keys.join(segments)
        for record in self.log.records:
            kind = NS.parse(record.subject).kind
            if start is not None and record.seq >= start and kind in {KEYS, *CONCLUSIONS}:
                core.on_past(record)
            if kind == CANCEL:
                core.on_cancel(record)
        self.position = core.keys.position = len(self.log.records)

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
        self.resolved += self.core.take_resolved()
        self.to_cancel += self.core.take_cancels()
        self.lookups += self.core.take_lookups()
        frames = self.core.frames
        for mine, its in ((self.acks, frames.acks), (self.naks, frames.naks), (self.laters, frames.laters)):
            mine.extend(its)
            its.clear()

    def hand(
        self, seq: int, frame: CallFrame, token: str = "t1", client: str = "c1", *, is_suspect: bool = False
    ) -> None:
        """Hand it the call frame stored as `seq`."""
        record = Record(seq, NS.call(SERVICE, POOL, client), b"", self.log.records[seq - 1].timestamp_ns)
        self.core.on_frame(
            token, record, frame, {}, self.log.now_ns, is_again=is_suspect, is_suspect=is_suspect
        )
        self.take()

    def store(self) -> PenFrame | None:
        """Store its next frame; it is acknowledged, but not read back yet."""
        written = self.next_frame()
        return None if written is None else self.land(written)

    def next_frame(self) -> Written | None:
        """Its next frame, which is on its way from here on."""
        return self.core.next_frame()

    def land(self, written: Written) -> PenFrame:
        """Store a frame that was on its way; it is acknowledged, but not read back yet."""
        self.log.append(subject_of(self.name, written), written.payload, None, written.record_id)
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

    def fail(self, call_id: CallId, delay_ns: int | None = None) -> None:
        """A handler raises an error after which the call is to run again: after so long, or not any more."""
        start = next(s for s in self.running if s.call.call_id == call_id)
        self.running.remove(start)
        self.core.on_failed(start, FAILURE, ("here",), delay_ns, self.log.now_ns)
        self.take()

    def stop(self, call_id: CallId) -> None:
        """A handler ends because it was cancelled."""
        start = next(s for s in self.running if s.call.call_id == call_id)
        cancel = next(c for c in self.to_cancel if c.call_id == call_id)
        self.running.remove(start)
        body = cancelled(start.call.method, cancel.author, cancel.reason, started=True)
        self.core.on_finished(start, Mark.CANCELLED, body, self.log.now_ns)
        self.take()

    def segment(self) -> tuple[str, bytes]:
        """Make the next segment of the index of keys: its subject, and its payload."""
        segment = self.core.keys.next_segment(self.core.identity.session)
        return NS.keys(SERVICE, POOL, self.name), encode_segment(segment)

    def write_segment(self) -> None:
        """Store the next segment of the index of keys, and read it back."""
        self.log.append(*self.segment())
        self.read()

    def look_up_keys(self) -> None:
        """Read the segments that it asked for."""
        lookups, self.lookups = self.lookups, []
        for lookup in lookups:
            self.core.on_key_found(lookup, owner_in(self.log, lookup), self.log.now_ns)
        self.take()

    def owner(self, key: str) -> KeyOwner | None:
        """Who has a key, as far as it has read."""
        return owner_of(self.log, self.core.keys, key)

    def resolve(self, call_id: CallId, result: bytes | None) -> bool:
        """It is told how a doubt ends that it has in hand."""
        return self.core.resolve(self.core.doubts[call_id], BY_OPERATOR, result)

    def resolve_other(self, call_id: CallId, frame_seq: int, result: bytes | None) -> bool:
        """It is told how a doubt ends whose frame another worker has."""
        call = OpenCall(call_id, "c1", "pay", None, frame_seq, 1 << 62, b"")
        return self.core.resolve(call, BY_OPERATOR, result)

    def started(self) -> list[CallId]:
        """Ids of the calls that run now."""
        return [start.call.call_id for start in self.running]


def pool_log(*names: str) -> ListLog:
    """A log in which these workers have joined the pool."""
    log = ListLog()
    for name in names:
        log.join(name, group=POOL)
    return log


def worker(log: ListLog, name: str = "w1", max_running: int = 100, incarnation: str = "1") -> WorkerRig:
    """A worker that has read the log."""
    rig = WorkerRig(log, name, max_running=max_running, incarnation=incarnation)
    rig.read()
    return rig

"""One worker of a pool, to be driven by hand."""

from __future__ import annotations

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.frames import CallFrame, Mark, PenFrame, decode_pen
from aegisipc.eventstore.ids import CallId, session_of
from aegisipc.eventstore.log import Record
from aegisipc.sdk.core.pen import Identity, Start, Written
from aegisipc.sdk.core.pool import PoolWorker, Resolved
from tests.sdk.kit import EFFECTS, NS, POOL, SERVICE, FakeClient, ListLog, Reply

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


class WorkerRig:
    """One worker of a pool, and its place in the log."""

    def __init__(
        self, log: ListLog, name: str = "w1", *, incarnation: str = "1", max_running: int = 100
    ) -> None:
        self.log, self.name = log, name
        identity = Identity(SERVICE, POOL, name, incarnation, session_of(incarnation))
        self.core = PoolWorker(identity, EFFECTS, NS, max_running=max_running, max_frame_bytes=1 << 20)
        self.position = 0
        self.running: list[Start] = []
        self.replies: list[Reply] = []
        self.acks: list[str] = []
        self.naks: list[str] = []
        self.laters: list[str] = []
        self.resolved: list[Resolved] = []

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

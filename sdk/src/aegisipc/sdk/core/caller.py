"""The core of a client: which calls are open, what goes into the next frame, what became of them, what to ask
again.

A client has one *lane* per group it calls; each lane has at most one frame in flight, so calls enter the log
in the order in which they were made. A call is open from its submission until its outcome arrives or its
caller's time is up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from itertools import batched
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.errors import Overloaded, PayloadTooLarge
from aegisipc.eventstore.frames import MAX_TIMEOUT_MS, CallEntry, CallFrame, Mark, encode_calls
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.tuples import new_tuple
from aegisipc.sdk.wire import MAX_ASKED

NEVER_NS: Final = 1 << 62
GRACE_NS: Final = 100_000_000
"""How long a caller waits past the deadline for the word that its call expired (server's clock, one trip, one
fsync).
"""

ASK_AFTER_NS: Final = 250_000_000
"""How long an accepted call may be silent before its group is asked (doubling each time)."""

_ENTRY_BYTES: Final = 128
"""Most that a call takes in a frame beside its arguments and its resource: id, method, timeout, and what
holds them together.
"""


class Fate(Enum):
    """Why a call ended here without an outcome."""

    NOT_SENT = auto()
    """Its frame was never sent: certainly not accepted."""
    REFUSED = auto()
    """The log refused its frame: certainly not accepted."""
    UNKNOWN = auto()
    """Its frame was sent and not acknowledged: it may be accepted, now or later."""
    TIMED_OUT = auto()
    """It is accepted and durable, and has no outcome yet."""
    CLOSED = auto()
    """The client was closed before the outcome came; how far the call got is told by ``sent`` and ``seq``."""


class PendingCall:
    """One call from submission to outcome. Times are local monotonic nanoseconds; the waiters belong to the
    shell.
    """

    __slots__ = (
        "accept_waiters",
        "ask_at_ns",
        "asks",
        "body",
        "call_id",
        "deadline_ns",
        "error",
        "fate",
        "lane",
        "method",
        "outcome",
        "over_waiters",
        "resource",
        "sent",
        "seq",
        "size_bytes",
        "timeout_ms",
    )

    def __init__(  # noqa: PLR0917 - made once per call: keyword arguments would cost more than the lookup
        self,
        call_id: CallId,
        lane: Lane,
        method: str,
        body: bytes,
        timeout_ms: int,
        resource: str | None,
        deadline_ns: int,
    ) -> None:
        self.call_id = call_id
        self.lane = lane
        self.method = method
        self.body = body
        self.timeout_ms = timeout_ms
        self.resource = resource
        self.deadline_ns = deadline_ns
        self.size_bytes = 0
        self.sent = False
        self.seq = 0
        self.ask_at_ns = NEVER_NS
        self.asks = 0
        self.outcome: Outcome | None = None
        self.fate: Fate | None = None
        self.error: Exception | None = None
        self.accept_waiters: list[Any] | None = None
        self.over_waiters: list[Any] | None = None

    @property
    def is_over(self) -> bool:
        """It has an outcome, or its caller was told why not."""
        return self.outcome is not None or self.fate is not None


class Lane:
    """The calls of this client to one group. ``spread``: over how many instances a pool's calls are to be
    split.
    """

    __slots__ = (
        "driver",
        "epoch",
        "group",
        "max_calls",
        "number",
        "queue",
        "service",
        "spread",
        "subject",
    )

    def __init__(self, service: str, group: str, subject: str) -> None:
        self.service = service
        self.group = group
        self.subject = subject
        self.queue: deque[PendingCall] = deque()
        self.number = 0
        self.epoch = 0
        self.max_calls = 1024
        self.spread = 1
        self.driver: Any = None


class CallsOut(NamedTuple):
    """A call frame on its way. ``give_up_ns``: when its last caller's time is up."""

    lane: Lane
    payload: bytes
    record_id: str
    calls: Sequence[PendingCall]
    give_up_ns: int


class Tick(NamedTuple):
    """What time has brought: calls that are over, and questions, each about at most ``MAX_ASKED`` calls of
    one lane.
    """

    over: Sequence[PendingCall]
    ask: Sequence[tuple[Lane, Sequence[CallId]]]


class Caller:
    """State of one client session."""

    def __init__(
        self, client: str, session: int, subjects: Subjects, *, max_open: int, max_frame_bytes: int
    ) -> None:
        self.client = client
        self.open: dict[CallId, PendingCall] = {}
        self.lanes: dict[tuple[str, str], Lane] = {}
        self._session = session
        self._ids = CallIds(session)
        self._subjects = subjects
        self._max_open = max_open
        self._max_frame_bytes = max_frame_bytes
        self._next_deadline_ns = NEVER_NS
        self._next_ask_ns = NEVER_NS

    def lane(self, service: str, group: str) -> Lane:
        """Return the lane to a group."""
        found = self.lanes.get((service, group))
        if found is None:
            found = Lane(service, group, self._subjects.call(service, group, self.client))
            self.lanes[service, group] = found
        return found

    def submit(
        self,
        lane: Lane,
        method: str,
        body: bytes,
        timeout_ms: int,
        resource: str | None,
        *,
        now_ns: int,
        server_ms: int,
    ) -> PendingCall:
        """Take a call in; it goes out with the lane's next frame.

        Raises:
            Overloaded: too many calls of this client are open.
            PayloadTooLarge: the arguments do not fit in a frame.
        """
        if len(self.open) >= self._max_open:
            raise Overloaded(
                f"cannot accept a call: {self._max_open} calls of client {self.client!r} are open; "
                "await some of them first, or raise max_open",
                limit=self._max_open,
            )
        size = len(body) + _ENTRY_BYTES + len(resource or "") * 4
        if size > self._max_frame_bytes:
            raise PayloadTooLarge(
                f"cannot send arguments of {len(body)} bytes: the limit is "
                f"{self._max_frame_bytes - _ENTRY_BYTES}; "
                "send less, or raise max_payload on the server",
                size_bytes=len(body),
                limit_bytes=self._max_frame_bytes - _ENTRY_BYTES,
            )
        timeout_ms = min(max(1, timeout_ms), MAX_TIMEOUT_MS)
        deadline_ns = now_ns + timeout_ms * 1_000_000 + GRACE_NS
        call = PendingCall(self._ids.next(server_ms), lane, method, body, timeout_ms, resource, deadline_ns)
        call.size_bytes = size
        self.open[call.call_id] = call
        lane.queue.append(call)
        self._next_deadline_ns = min(self._next_deadline_ns, deadline_ns)
        return call

    def next_frame(self, lane: Lane) -> CallsOut | None:
        """Return the lane's next frame, or ``None``; only while none is in flight there."""
        calls: list[PendingCall] = []
        size = 0
        give_up_ns = 0
        queue = lane.queue
        most = min(lane.max_calls, -(-len(queue) // lane.spread))
        while queue and len(calls) < most:
            call = queue[0]
            if call.fate is not None:  # its time was up before it could be sent
                queue.popleft()
                continue
            size += call.size_bytes
            if calls and size > self._max_frame_bytes:
                break
            queue.popleft()
            call.sent = True
            calls.append(call)
            give_up_ns = max(give_up_ns, call.deadline_ns)
        if not calls:
            return None
        lane.number += 1
        frame = CallFrame(
            self._session,
            lane.number,
            lane.epoch,
            [
                new_tuple(CallEntry, (call.call_id, call.method, call.timeout_ms, call.resource))
                for call in calls
            ],
            [call.body for call in calls],
        )
        record_id = f"{self._session:x}.{lane.service}.{lane.group}.{lane.number}"
        return CallsOut(lane, encode_calls(frame), record_id, calls, give_up_ns)

    def on_acked(self, frame: CallsOut, seq: int, now_ns: int) -> None:
        """The frame is durable: its calls are accepted."""
        ask_at_ns = now_ns + ASK_AFTER_NS
        for call in frame.calls:
            call.seq = seq
            call.ask_at_ns = ask_at_ns
            call.body = b""
        self._next_ask_ns = min(self._next_ask_ns, ask_at_ns)

    def on_gave_up(self, frame: CallsOut, error: Exception, *, maybe_stored: bool) -> list[PendingCall]:
        """The frame was not acknowledged in time, or was refused. Returns the calls that are over by that."""
        fate = Fate.UNKNOWN if maybe_stored else Fate.REFUSED
        return [self._end(call, fate, error) for call in frame.calls if not call.is_over]

    def on_outcomes(self, outcomes: Iterable[tuple[CallId, int, bytes | None]]) -> list[PendingCall]:
        """Take outcomes as the group's pen holder reports them. Returns the calls that have one now."""
        concluded = []
        for call_id, mark, body in outcomes:
            call = self.open.pop(call_id, None)
            if call is None:  # answered already, timed out here, or of another session of this client
                continue
            call.outcome = Outcome(call_id, Mark(mark), body)
            concluded.append(call)
        return concluded

    def on_answer(self, asked: Sequence[CallId], *, concluded: int, now_ns: int) -> list[CallId]:
        """An answer was taken in, and concluded so many calls. Returns what to ask again at once: an answer
        holds what fits in a message, so whoever told something may have more to tell.
        """
        if not concluded:
            return []
        rest = [call_id for call_id in asked if call_id in self.open]
        ask_at_ns = now_ns + ASK_AFTER_NS
        for call_id in rest:
            self.open[call_id].ask_at_ns = ask_at_ns
        self._next_ask_ns = min(self._next_ask_ns, ask_at_ns)
        return rest

    def on_closed(self) -> list[PendingCall]:
        """The client goes away: every open call is over for it, though not for the log."""
        return [self._end(call, Fate.CLOSED) for call in list(self.open.values())]

    def on_lane_failed(self, lane: Lane, error: BaseException) -> list[PendingCall]:
        """A lane broke by a fault of ours: what was not accepted there is over, and nobody knows its fate."""
        broken = [call for call in self.open.values() if call.lane is lane and not call.seq]
        lane.queue.clear()
        cause = error if isinstance(error, Exception) else None
        return [self._end(call, Fate.UNKNOWN, cause) for call in broken]

    def on_reconnected(self, now_ns: int) -> None:
        """Replies may have been missed: ask about everything that is accepted, soon."""
        for call in self.open.values():
            if call.seq:
                call.ask_at_ns = now_ns
                call.asks = 0
        self._next_ask_ns = now_ns

    def on_tick(self, now_ns: int) -> Tick:
        """Let time pass."""
        over: list[PendingCall] = []
        if now_ns >= self._next_deadline_ns:
            late = [call for call in self.open.values() if call.deadline_ns <= now_ns]
            over = [self._end(call, _fate_of(call)) for call in late]
            self._next_deadline_ns = min((call.deadline_ns for call in self.open.values()), default=NEVER_NS)
        return Tick(over, self._due_asks(now_ns) if now_ns >= self._next_ask_ns else ())

    def _due_asks(self, now_ns: int) -> list[tuple[Lane, Sequence[CallId]]]:
        due: dict[tuple[str, str], tuple[Lane, list[CallId]]] = {}
        next_ask_ns = NEVER_NS
        for call in self.open.values():
            if call.ask_at_ns <= now_ns:
                call.asks += 1
                call.ask_at_ns = now_ns + (ASK_AFTER_NS << min(call.asks, 5))
                lane = call.lane
                due.setdefault((lane.service, lane.group), (lane, []))[1].append(call.call_id)
            next_ask_ns = min(next_ask_ns, call.ask_at_ns)
        self._next_ask_ns = next_ask_ns
        return [(lane, chunk) for lane, call_ids in due.values() for chunk in batched(call_ids, MAX_ASKED)]

    def _end(self, call: PendingCall, fate: Fate, error: Exception | None = None) -> PendingCall:
        self.open.pop(call.call_id, None)
        call.fate, call.error = fate, error
        return call


def _fate_of(call: PendingCall) -> Fate:
    if call.seq:
        return Fate.TIMED_OUT
    return Fate.UNKNOWN if call.sent else Fate.NOT_SENT

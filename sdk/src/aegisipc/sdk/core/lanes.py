"""What a client's core is made of: calls from their submission to their outcome, and the lanes on which they
travel, one to each group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.frames import CallOptions
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.views import Congestion

NEVER_NS: Final = 1 << 62
GRACE_NS: Final = 100_000_000
"""How long a caller waits past the deadline for the word that its call expired (server's clock, one trip, one
fsync).
"""


class Fate(Enum):
    """Why a call ended here without an outcome."""

    NOT_SENT = auto()
    """Its frame was never sent: certainly not accepted."""
    REFUSED = auto()
    """The log refused its frame, or its arguments could not be stored: certainly not accepted."""
    DROPPED = auto()
    """It was cancelled here before it was sent: certainly not accepted."""
    UNKNOWN = auto()
    """Its frame was sent and not acknowledged: it may be accepted, now or later."""
    TIMED_OUT = auto()
    """It is accepted and durable, and has no outcome yet."""
    LOST = auto()
    """It repeats a call of which nobody can say any more what became of it."""
    CLOSED = auto()
    """The client was closed before the outcome came; how far the call got is told by ``sent`` and ``seq``."""


class PendingCall:
    """One call from submission to outcome. Times are local monotonic nanoseconds; the waiters belong to the
    shell.

    ``first`` is the call that has its idempotency key, if that is another one: its outcome is awaited then.
    ``is_uploading`` says that its arguments are on their way to the object store.
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
        "first",
        "is_uploading",
        "lane",
        "links",
        "method",
        "options",
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
        options: CallOptions | None = None,
    ) -> None:
        self.call_id = call_id
        self.lane = lane
        self.method = method
        self.body = body
        self.timeout_ms = timeout_ms
        self.resource = resource
        self.deadline_ns = deadline_ns
        self.options = options
        self.size_bytes = 0
        self.sent = False
        self.seq = 0
        self.ask_at_ns = NEVER_NS
        self.asks = 0
        self.outcome: Outcome | None = None
        self.fate: Fate | None = None
        self.error: Exception | None = None
        self.first: CallId | None = None
        self.links = 0
        self.is_uploading = False
        self.accept_waiters: list[Any] | None = None
        self.over_waiters: list[Any] | None = None

    @property
    def is_over(self) -> bool:
        """It has an outcome, or its caller was told why not."""
        return self.outcome is not None or self.fate is not None

    @property
    def target(self) -> str:
        """What it calls."""
        return f"{self.lane.service}.{self.method}"


class Lane:
    """The calls of this client to one group.

    ``spread``: over how many instances a pool's calls are to be split. ``held``: calls that wait, by
    resource, until large arguments of an earlier one are stored. ``congestion``: why the group takes no calls
    now; ``is_slow``: calls wait there for their turn. ``open`` counts the open calls, by priority.
    """

    __slots__ = (
        "congestion",
        "driver",
        "epoch",
        "group",
        "has_listener",
        "held",
        "is_slow",
        "max_calls",
        "number",
        "open",
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
        self.held: dict[str, deque[PendingCall]] = {}
        self.number = 0
        self.epoch = 0
        self.max_calls = 1024
        self.spread = 1
        self.driver: Any = None
        self.congestion: Congestion | None = None
        self.is_slow = False
        self.has_listener = False
        self.open = [0, 0, 0]

    def hold(self, call: PendingCall, *, is_large: bool) -> None:
        """Take in a call whose arguments are large, or one that comes while such ones are being stored: the
        calls of a resource keep their order.
        """
        call.is_uploading = is_large
        if call.resource is not None and (is_large or call.resource in self.held):
            self.held.setdefault(call.resource, deque()).append(call)
        elif not is_large:
            self.queue.append(call)

    def let_go(self, call: PendingCall, now_ns: int) -> None:
        """The arguments of a call are stored, or it is over: it goes out if it still can, and so do those
        that waited for it.
        """
        call.is_uploading = call.is_uploading and not call.is_over
        line = self.held.get(call.resource) if call.resource is not None else None
        if line is None:
            line = deque() if call.sent or call.is_over else deque([call])
        while line and not line[0].is_uploading:
            first = line.popleft()
            if not first.is_over:
                left_ms = (first.deadline_ns - GRACE_NS - now_ns) // 1_000_000
                first.timeout_ms = min(first.timeout_ms, max(1, left_ms))  # its time has been running
                self.queue.append(first)
        if not line and call.resource is not None:
            self.held.pop(call.resource, None)


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

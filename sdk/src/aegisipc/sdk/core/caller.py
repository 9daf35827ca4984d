"""The core of a client: which calls are open, what goes into the next frame, what became of them, what to ask
again.

A client has one *lane* per group it calls; each lane has at most one frame in flight, so calls enter the log
in the order in which they were made. Only large arguments go to the object store first: then the calls of the
same resource wait for that one, and others may overtake it. A call is open from its submission until its
outcome arrives or its caller's time is up.

A call that repeats another one (by its idempotency key) is *linked* to that: the first call's outcome is its
own, whenever that comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import batched
from typing import Final

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.errors import Overloaded, PayloadTooLarge
from aegisipc.eventstore.frames import (
    MAX_TIMEOUT_MS,
    NORMAL,
    CallEntry,
    CallFrame,
    CallOptions,
    Mark,
    encode_calls,
)
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.tuples import new_tuple
from aegisipc.eventstore.views import Congestion
from aegisipc.sdk.core.flow import NO_WAIT, FlowHint, FlowHints
from aegisipc.sdk.core.lanes import GRACE_NS, NEVER_NS, CallsOut, Fate, Lane, PendingCall, Tick
from aegisipc.sdk.core.links import DUPLICATE, Links
from aegisipc.sdk.wire import MAX_ASKED, WireOutcome

__all__ = ["GRACE_NS", "NEVER_NS", "Caller", "CallsOut", "Fate", "Lane", "PendingCall", "Tick"]

ASK_AFTER_NS: Final = 250_000_000
"""How long an accepted call may be silent before its group is asked (doubling each time)."""

_ENTRY_BYTES: Final = 144
"""Most that a call takes in a frame beside its arguments, its resource and its key: id, method, timeout,
priority, and what holds them together.
"""

_FULL_RETRY_S: Final = 0.1
"""When to try again after ``max_open`` was reached: calls of one's own are over soon, or not."""


class Caller:
    """State of one client session."""

    def __init__(
        self,
        client: str,
        session: int,
        subjects: Subjects,
        *,
        max_open: int,
        max_frame_bytes: int,
        max_payload_bytes: int = 0,
    ) -> None:
        self.client = client
        self.open: dict[CallId, PendingCall] = {}
        self.lanes: dict[tuple[str, str], Lane] = {}
        self._session = session
        self._ids = CallIds(session)
        self._subjects = subjects
        self._max_open = max_open
        self._max_frame_bytes = max_frame_bytes
        self._max_payload_bytes = max(max_payload_bytes, max_frame_bytes - _ENTRY_BYTES)
        self._may_upload = max_payload_bytes > 0
        self._next_deadline_ns = NEVER_NS
        self._next_ask_ns = NEVER_NS
        self.links = Links()
        self._hints = FlowHints()

    def lane(self, service: str, group: str) -> Lane:
        """Return the lane to a group."""
        found = self.lanes.get((service, group))
        if found is None:
            found = Lane(service, group, self._subjects.call(service, group, self.client))
            self.lanes[service, group] = found
        return found

    # -- what goes out ----------------------------------------------------------------------------------

    def submit(
        self,
        lane: Lane,
        method: str,
        body: bytes,
        timeout_ms: int,
        resource: str | None,
        options: CallOptions | None = None,
        *,
        now_ns: int,
        server_ms: int,
    ) -> PendingCall:
        """Take a call in; it goes out with the lane's next frame.

        If it says ``is_uploading``, its arguments are to be stored as an object first, and it goes out after
        :meth:`on_uploaded`.

        Raises:
            Overloaded: too many calls of this client are open, or the group takes none now.
            PayloadTooLarge: the arguments are over the limit.
        """
        if len(self.open) >= self._max_open:
            raise Overloaded(
                f"cannot accept a call: {self._max_open} calls of client {self.client!r} are open; "
                "await some of them first, or raise max_open",
                limit=self._max_open,
                retry_after_s=_FULL_RETRY_S,
            )
        priority = NORMAL if options is None else options.priority
        if lane.congestion is not None:
            raise _congested(lane, lane.congestion)
        if lane.is_slow:
            self._refuse_in_vain(lane, timeout_ms, priority, now_ns)
        size = _size_of(body, resource, options)
        timeout_ms = min(max(1, timeout_ms), MAX_TIMEOUT_MS)
        is_large = size > self._max_frame_bytes and self._check_large(len(body))
        deadline_ns = now_ns + timeout_ms * 1_000_000 + GRACE_NS
        call_id = self._ids.next(server_ms)
        call = PendingCall(call_id, lane, method, body, timeout_ms, resource, deadline_ns, options)
        call.size_bytes = size
        self.open[call_id] = call
        lane.open[priority] += 1
        if is_large or lane.held:
            lane.hold(call, is_large=is_large)
        else:
            lane.queue.append(call)
        self._next_deadline_ns = min(self._next_deadline_ns, deadline_ns)
        return call

    def on_hint(self, lane: Lane, hint: FlowHint, now_ns: int) -> None:
        """The holder of the group's pen says how long calls wait."""
        self._hints.heard(lane.service, lane.group, hint, now_ns)
        lane.is_slow = hint != NO_WAIT

    def _refuse_in_vain(self, lane: Lane, timeout_ms: int, priority: int, now_ns: int) -> None:
        own = sum(lane.open[priority:])
        wait_ms = self._hints.refusal(lane.service, lane.group, timeout_ms, now_ns, own=own)
        if wait_ms is not None:
            raise Overloaded(
                f"cannot accept a call: calls of {lane.service}, group {lane.group!r}, wait for about "
                f"{wait_ms / 1000:g} s, longer than its timeout of {timeout_ms / 1000:g} s; try again later, "
                "or with a longer timeout",
                retry_after_s=(wait_ms - timeout_ms) / 1000,
            )

    def _check_large(self, size_bytes: int) -> bool:
        if not self._may_upload or size_bytes > self._max_payload_bytes:
            limit = self._max_payload_bytes
            raise PayloadTooLarge(
                f"cannot send arguments of {size_bytes} bytes: the limit is {limit}; send less, or raise "
                "max_payload_bytes of the client",
                size_bytes=size_bytes,
                limit_bytes=limit,
            )
        return True

    def on_uploaded(self, call: PendingCall, body: bytes, now_ns: int) -> None:
        """The arguments of a call are stored; `body` refers to them."""
        call.body, call.is_uploading = body, False
        call.size_bytes = _size_of(body, call.resource, call.options)
        call.lane.let_go(call, now_ns)

    def on_upload_failed(self, call: PendingCall, error: Exception, now_ns: int) -> list[PendingCall]:
        """The arguments of a call could not be stored. Returns the calls that are over by that."""
        if call.is_over:
            return []
        self._end(call, Fate.REFUSED, error)
        call.lane.let_go(call, now_ns)
        return [call]

    def drop(self, call: PendingCall, now_ns: int) -> bool:
        """Its caller does not want it any more. Tells whether that was in time: it was not sent, and never
        will be.
        """
        if call.sent or call.is_over:
            return False
        self._end(call, Fate.DROPPED)
        call.lane.let_go(call, now_ns)
        return True

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
                new_tuple(
                    CallEntry, (call.call_id, call.method, call.timeout_ms, call.resource, call.options)
                )
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
            call.ask_at_ns = min(call.ask_at_ns, ask_at_ns)
            call.body = b""
        self._next_ask_ns = min(self._next_ask_ns, ask_at_ns)

    def on_gave_up(self, frame: CallsOut, error: Exception, *, maybe_stored: bool) -> list[PendingCall]:
        """The frame was not acknowledged in time, or was refused. Returns the calls that are over by that."""
        fate = Fate.UNKNOWN if maybe_stored else Fate.REFUSED
        return [self._end(call, fate, error) for call in frame.calls if not call.is_over]

    # -- what comes in ----------------------------------------------------------------------------------

    def on_outcomes(self, outcomes: Sequence[WireOutcome]) -> list[PendingCall]:
        """Take outcomes as the group's pen holder reports them, or as they stand in the log. Returns the
        calls that have one now.
        """
        concluded: list[PendingCall] = []
        repeats: list[WireOutcome] = []
        for outcome in outcomes:
            call_id, mark, body = outcome
            if mark == DUPLICATE:
                repeats.append(outcome)
                continue
            call = self.open.get(call_id)
            if call is not None and call.first is None:
                concluded.append(self._conclude(call, Outcome(call_id, Mark(mark), body)))
            # Else it was answered already, timed out here, or is of another session of this client.
            if self.links and call_id in self.links:
                told = Outcome(call_id, Mark(mark), body)
                concluded += [self._conclude(call, told) for call in self.links.pop(call_id)]
        if repeats:
            concluded += self._link(repeats, outcomes)
        return concluded

    def _conclude(self, call: PendingCall, outcome: Outcome) -> PendingCall:
        self._forget(call)
        call.outcome = outcome
        return call

    def _forget(self, call: PendingCall) -> None:
        if self.open.pop(call.call_id, None) is not None:
            call.lane.open[NORMAL if call.options is None else call.options.priority] -= 1

    def _link(self, repeats: Sequence[WireOutcome], told: Sequence[WireOutcome]) -> list[PendingCall]:
        """Follow calls that repeat others to those. Returns the calls that have an outcome by that: the first
        call's may be among what was `told`.
        """
        known = {outcome[0]: outcome for outcome in told}
        concluded: list[PendingCall] = []
        for call_id, _, first in repeats:
            calls = self.links.pop(call_id)
            own = self.open.get(call_id)
            if own is not None and own.first is None:
                calls.append(own)
            for call in calls:
                outcome = self.links.follow(call, first, known, self.open)
                if outcome is not None:
                    concluded.append(self._conclude(call, outcome))
        self._next_ask_ns = 0
        return concluded

    def on_link_lost(self, first: CallId, error: Exception) -> list[PendingCall]:
        """The first call cannot be found. Returns the calls that are over by that."""
        return [self._end(call, Fate.LOST, error) for call in self.links.waiting_for(first)]

    def on_answer(self, asked: Sequence[CallId], *, concluded: int, now_ns: int) -> list[CallId]:
        """An answer was taken in, and concluded so many calls. Returns what to ask again at once: an answer
        holds what fits in a message, so whoever told something may have more to tell.
        """
        if not concluded:
            return []
        rest = [call_id for call_id in asked if call_id in self.open or call_id in self.links]
        ask_at_ns = now_ns + ASK_AFTER_NS
        for call_id in rest:
            call = self.open.get(call_id)
            if call is not None:
                call.ask_at_ns = ask_at_ns
        self._next_ask_ns = min(self._next_ask_ns, ask_at_ns)
        return rest

    # -- what time brings -------------------------------------------------------------------------------

    def on_closed(self) -> list[PendingCall]:
        """The client goes away: every open call is over for it, though not for the log."""
        return [self._end(call, Fate.CLOSED) for call in list(self.open.values())]

    def on_lane_failed(self, lane: Lane, error: BaseException) -> list[PendingCall]:
        """A lane broke by a fault of ours: what was not accepted there is over, and nobody knows its fate."""
        broken = [call for call in self.open.values() if call.lane is lane and not call.seq]
        lane.queue.clear()
        lane.held.clear()
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
            for call in over:
                if call.is_uploading:
                    call.lane.let_go(call, now_ns)
            self._next_deadline_ns = min((call.deadline_ns for call in self.open.values()), default=NEVER_NS)
        return Tick(over, self._due_asks(now_ns) if now_ns >= self._next_ask_ns else ())

    def _due_asks(self, now_ns: int) -> list[tuple[Lane, Sequence[CallId]]]:
        due: dict[tuple[str, str], tuple[Lane, dict[CallId, None]]] = {}
        next_ask_ns = NEVER_NS
        for call in self.open.values():
            if call.ask_at_ns <= now_ns:
                call.asks += 1
                call.ask_at_ns = now_ns + (ASK_AFTER_NS << min(call.asks, 5))
                lane = call.lane
                due.setdefault((lane.service, lane.group), (lane, {}))[1][call.first or call.call_id] = None
            next_ask_ns = min(next_ask_ns, call.ask_at_ns)
        self._next_ask_ns = next_ask_ns
        return [(lane, chunk) for lane, call_ids in due.values() for chunk in batched(call_ids, MAX_ASKED)]

    def _end(self, call: PendingCall, fate: Fate, error: Exception | None = None) -> PendingCall:
        self._forget(call)
        call.fate, call.error = fate, error
        if self.links:
            self.links.on_end(call)
        return call


def _fate_of(call: PendingCall) -> Fate:
    if call.seq:
        return Fate.TIMED_OUT
    return Fate.UNKNOWN if call.sent else Fate.NOT_SENT


def _size_of(body: bytes, resource: str | None, options: CallOptions | None) -> int:
    size = len(body) + _ENTRY_BYTES + len(resource or "") * 4
    return size if options is None or options.key is None else size + len(options.key) * 4


def _congested(lane: Lane, congestion: Congestion) -> Overloaded:
    return Overloaded(
        f"cannot accept a call: {congestion.open} calls of {lane.service}, group {lane.group!r}, are open, "
        f"and its limit is {congestion.limit}; try again in {congestion.retry_after_ms / 1000:g} s",
        limit=congestion.limit,
        retry_after_s=congestion.retry_after_ms / 1000,
    )

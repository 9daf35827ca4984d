"""Calls that failed and are to be run again: each waits until its next attempt is due.

A call waits here from the moment on at which its failure is noted; its next attempt begins when that is in
the log, and due. Its resource stays its own meanwhile, and its slot is free for others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush
from typing import Final, NamedTuple

from aegisipc.eventstore.bodies import ErrorInfo, RetryScheduled
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.dead_letters import Reason, dead_letter_body, error_in
from aegisipc.sdk.core.pen import Pen
from aegisipc.sdk.retry import Retry

NEVER_NS: Final = 1 << 62


class _Failure(NamedTuple):
    """The latest failure of a call that waits: the how manieth, and what it was."""

    attempt: int
    error: ErrorInfo
    stack: tuple[str, ...]


class Retries:
    """The calls that wait for another attempt. Times are nanoseconds on the server's clock."""

    __slots__ = (
        "_due",
        "_failures",
        "_later",
        "_next_deadline_ns",
        "_pen",
        "_planned",
        "_policies",
        "_threaded",
        "_waiting",
        "wake_ns",
    )

    def __init__(self, policies: Mapping[str, Retry], pen: Pen, threaded: Collection[str] = ()) -> None:
        self._policies = policies
        self._pen = pen
        self._threaded = frozenset(threaded)
        self._waiting: dict[CallId, OpenCall] = {}
        self._failures: dict[CallId, _Failure] = {}
        self._later: list[tuple[int, int, OpenCall]] = []
        """When the next attempts are due: a heap. Of calls that have ended meanwhile some is left in it."""
        self._due: tuple[deque[OpenCall], deque[OpenCall]] = deque(), deque()
        """Those that are due and wait for a slot; the second ones need a thread, too."""
        self._planned = 0
        self._next_deadline_ns = NEVER_NS
        self.wake_ns = NEVER_NS
        """When there is something to do here, at the earliest."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_due_ns(self) -> int:
        """When the next attempt becomes due that is not due yet."""
        return self._later[0][0] if self._later else NEVER_NS

    def failed(
        self, call: OpenCall, body: bytes | None, stack: Sequence[str], now_ns: int, random01: float
    ) -> bool:
        """An attempt failed, with an error after which there may be another one: note what comes of that.
        Tells whether the call waits here for it.
        """
        policy = self._policies.get(call.method)
        if policy is None:
            self._pen.note(Mark.FAILED, call, body)
            return False
        failure = _Failure(call.tries + 1, error_in(body), tuple(stack))
        if failure.attempt >= policy.attempts:
            self._bury(call, "attempts", failure)
            return False
        due_ns = now_ns + int(policy.delay_s(failure.attempt, random01) * 1e9)
        if due_ns >= call.deadline_ns:
            self._bury(call, "deadline", failure)
            return False
        said = RetryScheduled(attempt=failure.attempt, due_ns=due_ns, error=failure.error)
        self._pen.note(Mark.RETRY_SCHEDULED, call, encode(said))
        self._failures[call.call_id] = failure
        self._keep(call)
        return True

    def on_folded(self, call: OpenCall) -> None:
        """It is in the log that the call waits, and until when."""
        if self._waiting.get(call.call_id) is call:
            self._plan(call)

    def park(self, call: OpenCall) -> None:
        """A call that failed under an earlier holder waits, too."""
        self._keep(call)
        self._plan(call)

    def _keep(self, call: OpenCall) -> None:
        self._waiting[call.call_id] = call
        self._next_deadline_ns = min(self._next_deadline_ns, call.deadline_ns)

    def _plan(self, call: OpenCall) -> None:
        self._planned += 1
        heappush(self._later, (call.retry_at_ns, self._planned, call))
        self.wake_ns = min(self.wake_ns, call.retry_at_ns)

    def ripen(self, now_ns: int) -> None:
        """Note which attempts have become due, whether they may begin now or not."""
        later = self._later
        while later and later[0][0] <= now_ns:
            _, _, call = heappop(later)
            if self._waiting.get(call.call_id) is call:
                self._due[call.method in self._threaded].append(call)

    def next(self, now_ns: int, has_room: Callable[[OpenCall], bool]) -> OpenCall | None:
        """Return a call whose attempt is due, if there is room for it."""
        self.ripen(now_ns)
        for due in self._due:
            while due and self._waiting.get(due[0].call_id) is not due[0]:
                due.popleft()
            if due and has_room(due[0]):
                call = due.popleft()
                self.withdraw(call.call_id)
                return call
        self.wake_ns = 0 if any(self._due) else self.next_due_ns
        return None

    def withdraw(self, call_id: CallId) -> OpenCall | None:
        """A call waits no more: it begins, or it ends. ``None`` if it did not wait."""
        self._failures.pop(call_id, None)
        return self._waiting.pop(call_id, None)

    def expire(self, now_ns: int) -> list[OpenCall]:
        """Give up the calls whose deadline passed while they waited, and return them."""
        if now_ns < self._next_deadline_ns:
            return []
        expired = [call for call in self._waiting.values() if call.deadline_ns <= now_ns]
        for call in expired:
            self.give_up(call)
            self.withdraw(call.call_id)
        self._next_deadline_ns = min((c.deadline_ns for c in self._waiting.values()), default=NEVER_NS)
        return expired

    def give_up(self, call: OpenCall) -> None:
        """Note that the deadline of a call has passed before it could be begun again."""
        self._bury(call, "deadline", self._failures.get(call.call_id))

    def _bury(self, call: OpenCall, reason: Reason, failure: _Failure | None) -> None:
        attempts, error, stack = failure or (call.tries, None, ())
        body = dead_letter_body(call, reason, attempts, error=error, stack=stack)
        self._pen.note_dead(Mark.DEAD_LETTERED, call, body)

    def clear(self) -> None:
        """The pen is someone else's."""
        self._waiting.clear()
        self._failures.clear()
        self._later.clear()
        for due in self._due:
            due.clear()
        self._next_deadline_ns = self.wake_ns = NEVER_NS

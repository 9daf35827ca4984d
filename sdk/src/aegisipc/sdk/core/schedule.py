"""Whose turn it is: calls of one resource one after another, in log order, never more at once than fit; and
among those whose turn it is, fair between clients and priorities.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.ids import CallId
from aegisipc.sdk.core.fair import Fair

NEVER_NS: Final = 1 << 62


class Schedule:
    """The calls that wait, and how many run. Times are nanoseconds on the server's clock.

    Calls of ``threaded`` methods need one of ``max_threaded`` threads beside one of ``max_running`` slots.
    They line up apart from the others, so that they neither hold up nor use up slots while they wait.

    Which of the calls is next whose turn it is, :class:`Fair` tells. A call that waits behind another one of
    its resource is in no line: whatever its priority, it waits for those before it.
    """

    __slots__ = (
        "_fair",
        "_gone",
        "_max_running",
        "_max_threaded",
        "_queues",
        "_running_threaded",
        "_threaded",
        "_waiting",
        "next_deadline_ns",
        "running",
    )

    def __init__(self, *, max_running: int, threaded: Collection[str] = (), max_threaded: int = 1) -> None:
        self._max_running = max_running
        self._threaded = frozenset(threaded)
        self._max_threaded = max_threaded
        self._waiting: dict[CallId, OpenCall] = {}
        self._gone: dict[CallId, OpenCall] = {}
        """Those that were taken out while they waited, and still stand somewhere below."""
        self._fair = Fair(self._gone, threaded)
        self._queues: dict[str, deque[OpenCall]] = {}
        """Per resource: the call whose turn it is, and those behind it."""
        self.running = 0
        self._running_threaded = 0
        self._use_threads(0)
        self.next_deadline_ns = NEVER_NS
        """When the next waiting call expires, at the earliest."""

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    def add(self, call: OpenCall) -> None:
        """Let a call wait for its turn."""
        if self._gone and call.call_id in self._gone:  # it comes back: it must not stand in two places
            self._sweep()
        self._waiting[call.call_id] = call
        if call.deadline_ns < self.next_deadline_ns:  # noqa: PLR1730 - for every call: min() costs more
            self.next_deadline_ns = call.deadline_ns
        resource = call.resource
        if resource is None:
            self._fair.add(call)
            return
        queue = self._queues.get(resource)
        if queue is None:
            queue = self._queues[resource] = deque()
            self._fair.add(call)
        queue.append(call)

    def take(self) -> OpenCall | None:
        """Return the next call whose turn it is, if a slot is free. It has the slot, and its resource, until
        :meth:`free`.
        """
        if self.running >= self._max_running:
            return None
        call = self._fair.next()
        if call is not None:
            del self._waiting[call.call_id]
            self.running += 1
            if call.method in self._threaded:
                self._use_threads(1)
        return call

    def has_room(self, call: OpenCall) -> bool:
        """Tell whether there is a slot for a call that waits elsewhere."""
        is_threaded = call.method in self._threaded
        has_thread = not is_threaded or self._running_threaded < self._max_threaded
        return has_thread and self.running < self._max_running

    def occupy(self, call: OpenCall) -> None:
        """Give a call a slot."""
        self.running += 1
        if call.method in self._threaded:
            self._use_threads(1)

    def vacate(self, call: OpenCall) -> None:
        """Take a call's slot back. Its resource stays its own: so it can wait elsewhere, for its next attempt
        for example, and nothing of its resource overtakes it.
        """
        self.running -= 1
        if call.method in self._threaded:
            self._use_threads(-1)

    def free(self, call: OpenCall) -> None:
        """A call is done with: the next one of its resource has its turn."""
        self.running -= 1
        if call.method in self._threaded:
            self._use_threads(-1)
        if call.resource is not None:
            self.release(call.resource)

    def release(self, resource: str | None) -> None:
        """The call whose turn it was on `resource` is done with."""
        if resource is None:
            return
        queue = self._queues[resource]
        queue.popleft()
        gone = self._gone
        while queue and queue[0].call_id in gone:
            del gone[queue.popleft().call_id]
        if queue:
            self._fair.add(queue[0])
        else:
            del self._queues[resource]

    def remove(self, call_id: CallId) -> OpenCall | None:
        """Take out a call that waits for its turn; ``None`` if it does not: it has begun, or is not known."""
        call = self._waiting.get(call_id)
        if call is not None:
            self._withdraw(call)
        return call

    def expire(self, now_ns: int) -> list[OpenCall]:
        """Take out the waiting calls whose deadline has passed."""
        if now_ns < self.next_deadline_ns:
            return []
        expired = [call for call in self._waiting.values() if call.deadline_ns <= now_ns]
        for call in expired:
            self._withdraw(call)
        self.next_deadline_ns = min((call.deadline_ns for call in self._waiting.values()), default=NEVER_NS)
        return expired

    def clear(self) -> None:
        """Forget everything."""
        self.running = self._running_threaded = 0
        self._waiting.clear()
        self._gone.clear()
        self._fair.clear()
        self._use_threads(0)
        self._queues.clear()
        self.next_deadline_ns = NEVER_NS

    def _use_threads(self, more: int) -> None:
        self._running_threaded += more
        self._fair.has_thread = self._running_threaded < self._max_threaded

    def _withdraw(self, call: OpenCall) -> None:
        """Take out a call that waits. To look for it in its queue would take long: it is only marked, until
        more are marked than wait.
        """
        del self._waiting[call.call_id]
        self._gone[call.call_id] = call
        is_next = call.resource is None or self._queues[call.resource][0] is call
        if is_next:
            self.release(call.resource)  # first, so that a client whose call follows keeps its turn
            self._fair.withdrawn(call)
        if len(self._gone) > len(self._waiting):
            self._sweep()

    def _sweep(self) -> None:
        """Let go of calls that are gone in the middle of queues: behind a stuck one they would pile up for
        ever.
        """
        gone = self._gone
        for resource in {call.resource for call in gone.values()}:
            queue = self._queues.get(resource) if resource is not None else None
            if resource is not None and queue is not None:
                self._queues[resource] = deque(call for call in queue if call.call_id not in gone)
        self._fair.sweep()
        gone.clear()

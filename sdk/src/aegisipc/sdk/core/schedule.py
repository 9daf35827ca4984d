"""Whose turn it is: calls of one resource one after another, in log order, never more at once than fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.ids import CallId

NEVER_NS: Final = 1 << 62


class Schedule:
    """The calls that wait, and how many run. Times are nanoseconds on the server's clock.

    Calls of ``threaded`` methods need one of ``max_threaded`` threads beside one of ``max_running`` slots.
    They line up apart from the others, so that they neither hold up nor use up slots while they wait.
    """

    __slots__ = (
        "_max_running",
        "_max_threaded",
        "_queues",
        "_ready",
        "_ready_threaded",
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
        self._ready: deque[OpenCall] = deque()
        self._ready_threaded: deque[OpenCall] = deque()
        self._queues: dict[str, deque[OpenCall]] = {}
        self.running = 0
        self._running_threaded = 0
        self.next_deadline_ns = NEVER_NS
        """When the next waiting call expires, at the earliest."""

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    def add(self, call: OpenCall) -> None:
        """Let a call wait for its turn."""
        self._waiting[call.call_id] = call
        self.next_deadline_ns = min(self.next_deadline_ns, call.deadline_ns)
        resource = call.resource
        if resource is None:
            self._line_up(call)
            return
        queue = self._queues.get(resource)
        if queue is None:
            self._queues[resource] = deque()
            self._line_up(call)
        else:
            queue.append(call)

    def take(self) -> OpenCall | None:
        """Return the next call whose turn it is, if a slot is free. It has the slot, and its resource, until
        :meth:`free`.
        """
        while self.running < self._max_running:
            if self._ready:
                call = self._ready.popleft()
            elif self._ready_threaded and self._running_threaded < self._max_threaded:
                call = self._ready_threaded.popleft()
            else:
                return None
            if self._waiting.pop(call.call_id, None) is None:  # it expired while it was lined up
                self.release(call.resource)
                continue
            self.occupy(call)
            return call
        return None

    def has_room(self, call: OpenCall) -> bool:
        """Tell whether there is a slot for a call that waits elsewhere."""
        is_threaded = call.method in self._threaded
        has_thread = not is_threaded or self._running_threaded < self._max_threaded
        return has_thread and self.running < self._max_running

    def occupy(self, call: OpenCall) -> None:
        """Give a call a slot."""
        self.running += 1
        if call.method in self._threaded:
            self._running_threaded += 1

    def vacate(self, call: OpenCall) -> None:
        """Take a call's slot back. Its resource stays its own."""
        self.running -= 1
        if call.method in self._threaded:
            self._running_threaded -= 1

    def free(self, call: OpenCall) -> None:
        """A call is done with: the next one of its resource has its turn."""
        self.vacate(call)
        self.release(call.resource)

    def release(self, resource: str | None) -> None:
        """The call whose turn it was on `resource` is done with."""
        if resource is None:
            return
        queue = self._queues[resource]
        if queue:
            self._line_up(queue.popleft())
        else:
            del self._queues[resource]

    def expire(self, now_ns: int) -> list[OpenCall]:
        """Take out the waiting calls whose deadline has passed."""
        if now_ns < self.next_deadline_ns:
            return []
        expired = [call for call in self._waiting.values() if call.deadline_ns <= now_ns]
        for call in expired:
            del self._waiting[call.call_id]
        self._sweep({call.resource for call in expired if call.resource is not None})
        self.next_deadline_ns = min((call.deadline_ns for call in self._waiting.values()), default=NEVER_NS)
        return expired

    def clear(self) -> None:
        """Forget everything."""
        self.running = self._running_threaded = 0
        self._waiting.clear()
        self._ready.clear()
        self._ready_threaded.clear()
        self._queues.clear()
        self.next_deadline_ns = NEVER_NS

    def _line_up(self, call: OpenCall) -> None:
        (self._ready_threaded if call.method in self._threaded else self._ready).append(call)

    def _sweep(self, resources: set[str]) -> None:
        """Let go of calls that expired in the queues: behind a stuck one they would pile up for ever."""
        for resource in resources:
            queue = self._queues[resource]
            self._queues[resource] = deque(call for call in queue if call.call_id in self._waiting)
        for ready in (self._ready, self._ready_threaded):
            lined_up = list(ready)
            ready.clear()
            for call in lined_up:
                if call.call_id in self._waiting:
                    ready.append(call)
                else:
                    self.release(call.resource)

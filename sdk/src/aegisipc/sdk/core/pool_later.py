"""The calls of one worker that failed, and wait for their next attempt."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final

from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall

NEVER_NS: Final = 1 << 62
"""No deadline is later."""


class Later:
    """They have no slot meanwhile. Times are nanoseconds on the server's clock."""

    __slots__ = ("_calls", "_due")

    def __init__(self) -> None:
        self._calls: dict[CallId, tuple[int, OpenCall]] = {}
        self._due: list[tuple[int, CallId]] = []
        """A heap; of calls that do not wait any more some is left in it."""

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call_id: CallId) -> bool:
        return call_id in self._calls

    def __iter__(self) -> Iterator[OpenCall]:
        return iter([call for _, call in self._calls.values()])

    def ids(self) -> set[CallId]:
        """Return who waits."""
        return set(self._calls)

    def add(self, call: OpenCall, due_ns: int) -> None:
        """A call waits until then."""
        self._calls[call.call_id] = (due_ns, call)
        heappush(self._due, (due_ns, call.call_id))

    def remove(self, call_id: CallId) -> None:
        """A call does not wait any more."""
        self._calls.pop(call_id, None)

    def next(self, now_ns: int) -> OpenCall | None:
        """Take out a call whose attempt is due."""
        due = self._due
        while due and due[0][0] <= now_ns:
            due_ns, call_id = heappop(due)
            found = self._calls.get(call_id)
            if found is not None and found[0] == due_ns:
                del self._calls[call_id]
                return found[1]
        return None

"""Calls that may have taken a worker down with them, and how often they are begun again."""

from __future__ import annotations

from collections import deque
from typing import Final

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.ids import CallId

MAX_ATTEMPTS: Final = 3
"""How often a call is begun again that may have taken its worker down. When all who tried are gone, it is a
dead letter.
"""


class Suspects:
    """The suspects of one worker: an ``idempotent`` or ``pure`` call becomes one when its frame is handed out
    again before it had an outcome.

    Which call of a frame it was that took the worker down nobody knows, so they are begun one after another,
    and each only when the log says that it is (``ATTEMPTED``): then a worker that goes down points to one of
    them. Other calls run beside it, until its last attempt: that one is made with nothing else running in the
    worker, so that nobody is found guilty of what another call did.
    """

    __slots__ = ("_last", "_others", "current", "is_alone")

    def __init__(self) -> None:
        self._others: deque[OpenCall] = deque()
        self._last: deque[OpenCall] = deque()
        self.current: CallId | None = None
        """The one that is begun."""
        self.is_alone = False
        """It needs the worker for itself, or the one whose turn it is does."""

    def add(self, call: OpenCall, attempts: int) -> None:
        """One more waits for its turn, after so many attempts. Last attempts come after all others."""
        (self._last if attempts + 1 >= MAX_ATTEMPTS else self._others).append(call)

    def take(self) -> OpenCall | None:
        """Remove and return the one whose turn it is."""
        queue = self._others or self._last
        return queue.popleft() if queue else None

    def put_back(self, call: OpenCall) -> None:
        """It is still its turn."""
        self._others.appendleft(call)

    def begin(self, call: OpenCall) -> None:
        """It is begun."""
        self.current = call.call_id

    def end(self) -> None:
        """The one that was begun is not in work any more."""
        self.current, self.is_alone = None, False

    def take_expired(self, now_ns: int) -> list[OpenCall]:
        """Remove and return those whose deadline has passed."""
        expired = [
            call for queue in (self._others, self._last) for call in queue if call.deadline_ns <= now_ns
        ]
        if expired:
            self._others = deque(call for call in self._others if call.deadline_ns > now_ns)
            self._last = deque(call for call in self._last if call.deadline_ns > now_ns)
        return expired

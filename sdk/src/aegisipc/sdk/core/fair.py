"""Whose call is next, of those that could run now: clients take turns, and priorities have their shares.

Each call stands in one of six lines: one per priority, apart for methods that need a thread. Within a line
the clients take turns, one call each; within a client the calls keep their order. Between lines a call costs
the more virtual time the lower its priority is, and the line that has used least is next (stride scheduling):
of lines that always have calls, high gets 16 of 21, normal 4 and low 1, and none of them waits for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from operator import attrgetter
from typing import Final

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.ids import CallId

COSTS: Final = (16, 4, 1)
"""Virtual time that a call of priority low, normal and high takes: the inverse of its share."""

_PRIORITIES: Final = len(COSTS)
_used: Final = attrgetter("used")
_rank: Final = attrgetter("rank")


class _Line:
    """The calls of one priority, by client. ``turns`` are the clients' calls again, the next client in front.

    No client's first call is gone. No client is there without calls, but for the last one of a line that is
    alone: it mostly comes again at once.
    """

    __slots__ = ("clients", "cost", "is_threaded", "rank", "turns", "used")

    def __init__(self, priority: int, *, is_threaded: bool) -> None:
        self.cost = COSTS[priority]
        self.rank = (-priority, is_threaded)
        self.is_threaded = is_threaded
        self.used = 0
        self.clients: dict[str, deque[OpenCall]] = {}
        self.turns: deque[deque[OpenCall]] = deque()

    @property
    def is_empty(self) -> bool:
        """No call stands here."""
        turns = self.turns
        return not turns or not turns[0]

    def forget(self) -> None:
        """Let go of all clients."""
        self.clients.clear()
        self.turns.clear()


class Fair:
    """The lines. ``gone`` are calls, by id, that were taken out of the middle: they are skipped.

    Calls of ``threaded`` methods are passed over while ``has_thread`` is false.
    """

    __slots__ = ("_busy", "_clock", "_gone", "_lines", "_only", "_threaded", "has_thread")

    def __init__(self, gone: dict[CallId, OpenCall], threaded: Collection[str] = ()) -> None:
        self._gone = gone
        self._threaded = frozenset(threaded)
        self._lines = [
            _Line(priority, is_threaded=is_threaded)
            for is_threaded in (False, True)
            for priority in range(_PRIORITIES)
        ]
        self._busy: list[_Line] = []
        """The lines that have calls, the highest priority first."""
        self._only: _Line | None = None
        """The one of them, if it is alone and needs no thread, as it mostly is. It stays when it is empty."""
        self._clock = 0
        """What the line that was served last had used before."""
        self.has_thread = True
        """Whether a call that needs a thread may be next."""

    def add(self, call: OpenCall) -> None:
        """Put a call behind its client's others."""
        line = self._lines[call.priority + _PRIORITIES if call.method in self._threaded else call.priority]
        queue = line.clients.get(call.client)
        if queue is None:
            turns = line.turns
            if not turns or not turns[0]:
                self._open(line)
            queue = line.clients[call.client] = deque()
            turns.append(queue)
        queue.append(call)

    def next(self) -> OpenCall | None:
        """Take out the call that is next."""
        line = self._only or self._choose()
        if line is None:
            return None
        turns = line.turns
        queue = turns[0]
        if not queue:
            return None
        call = queue.popleft()
        if self._gone:
            self._skip_gone(queue)
        if len(turns) > 1:
            if queue:
                turns.rotate(-1)
            else:
                turns.popleft()
                del line.clients[call.client]
        elif not queue and line is not self._only:
            self._close(line)
        return call

    def withdrawn(self, call: OpenCall) -> None:
        """A call that stands in a line is gone."""
        line = self._lines[call.priority + _PRIORITIES if call.method in self._threaded else call.priority]
        queue = line.clients[call.client]
        self._skip_gone(queue)
        if queue:
            return
        if len(line.turns) > 1:
            line.turns.remove(line.clients.pop(call.client))
        elif line is not self._only:
            self._close(line)

    def sweep(self) -> None:
        """Let go of all that is gone, wherever it stands: nothing of it is to be looked at any more."""
        for line in self._busy:
            for queue in line.turns:
                kept = [call for call in queue if call.call_id not in self._gone]
                if len(kept) < len(queue):
                    queue.clear()
                    queue.extend(kept)

    def clear(self) -> None:
        """Forget everything."""
        for line in self._busy:
            line.forget()
        self._busy.clear()
        self._only = None

    def _open(self, line: _Line) -> None:
        """It gets a call again. It saved nothing up meanwhile: it begins as if it had just been served."""
        line.forget()
        if line is self._only:
            return
        if self._only is not None and self._only.is_empty:
            self._only.forget()
            self._busy.clear()
        line.used = max(line.used, self._clock + line.cost)
        self._busy.append(line)
        self._busy.sort(key=_rank)
        self._note_only()

    def _close(self, line: _Line) -> None:
        line.forget()
        self._busy.remove(line)
        self._note_only()

    def _note_only(self) -> None:
        busy = self._busy
        self._only = busy[0] if len(busy) == 1 and not busy[0].is_threaded else None

    def _choose(self) -> _Line | None:
        """Which line is next, of several; it is charged for the call. Of equals it is the one of the highest
        priority.
        """
        lines = self._busy if self.has_thread else [line for line in self._busy if not line.is_threaded]
        if not lines:
            return None
        line = min(lines, key=_used)
        self._clock = max(self._clock, line.used)  # who waited long for a thread is not owed all of it
        line.used = self._clock + line.cost
        return line

    def _skip_gone(self, queue: deque[OpenCall]) -> None:
        gone = self._gone
        while queue and queue[0].call_id in gone:
            del gone[queue.popleft().call_id]

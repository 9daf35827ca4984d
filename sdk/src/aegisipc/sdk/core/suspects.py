"""Calls that may be poison: they were open each time an instance of the group went down.

A call that is harmless to repeat is run again after a failover, and if it is what kills its instances, the
next one dies of it, too. So after the second failover in a row such calls are begun one at a time, and each
attempt is in the log before it starts: whoever dies of it leaves behind which one it was. Too many attempts,
and the call is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall

MAX_FAILOVERS_UNSUSPECTED: Final = 1
"""How many failovers a call may live through and still be run like any other."""

MAX_ATTEMPTS: Final = 3
"""How often a suspect is begun alone before it is given up."""

_KEPT: Final = 64


class Suspects:
    """Which calls are suspected, and whose turn it is."""

    __slots__ = ("_failovers", "_parked", "_running")

    def __init__(self) -> None:
        self._failovers: deque[int] = deque(maxlen=_KEPT)
        self._parked: deque[OpenCall] = deque()
        self._running: OpenCall | None = None

    def on_failover(self, seq: int) -> None:
        """A holder went down, and another was promoted by the record `seq`."""
        self._failovers.append(seq)

    def is_suspected(self, call: OpenCall) -> bool:
        """Tell whether the call has to be run alone."""
        if call.attempts:
            return True
        lived_through = sum(1 for seq in self._failovers if seq > call.seq)
        return lived_through > MAX_FAILOVERS_UNSUSPECTED

    @staticmethod
    def is_poison(call: OpenCall) -> bool:
        """Tell whether it is given up: the attempts of which an instance died are too many. Those that came
        to an end, and to another attempt, are none of them.
        """
        return call.attempts - call.tries >= MAX_ATTEMPTS

    def begin(self, call: OpenCall) -> bool:
        """Tell whether `call` may begin now; else it waits here for :meth:`next`."""
        if self._running is not None:
            self._parked.append(call)
            return False
        self._running = call
        return True

    def ended(self, call: OpenCall) -> None:
        """`call` has an outcome."""
        if self._running is call:
            self._running = None

    def next(self, has_room: Callable[[OpenCall], bool]) -> OpenCall | None:
        """Return the suspect that is to begin now, if there is one and `has_room` for it: pass it to
        :meth:`begin`.
        """
        is_due = self._parked and self._running is None and has_room(self._parked[0])
        return self._parked.popleft() if is_due else None

    def expire(self, now_ns: int) -> Iterable[OpenCall]:
        """Take out those whose deadline passed while they waited for their turn."""
        expired = [call for call in self._parked if call.deadline_ns <= now_ns]
        if expired:
            self._parked = deque(call for call in self._parked if call.deadline_ns > now_ns)
        return expired

    def withdraw(self, call_id: CallId) -> OpenCall | None:
        """Take out a call that waits for its turn; ``None`` if it does not."""
        found = next((call for call in self._parked if call.call_id == call_id), None)
        if found is not None:
            self._parked.remove(found)
        return found

    def clear(self) -> None:
        """The pen is someone else's."""
        self._parked.clear()
        self._running = None

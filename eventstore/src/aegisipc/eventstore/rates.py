"""How fast something happens, by the log's own time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

RATE_WINDOW_S: Final = 10

_SECOND_NS: Final = 1_000_000_000


class Rate:
    """How many calls a group concludes a second. Bounded: one number a second."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_S + 1)

    def note(self, concluded: int, at_ns: int) -> None:
        """So many calls were concluded by one record."""
        second = at_ns // _SECOND_NS
        if self._seconds and second <= self._seconds[-1][0]:  # servers' clocks may differ a little
            last, count = self._seconds.pop()
            self._seconds.append((last, count + concluded))
        else:
            self._seconds.append((second, concluded))

    def per_second(self, now_ns: int) -> float:
        """Return the rate lately; 0 if nothing was concluded."""
        oldest = now_ns // _SECOND_NS - RATE_WINDOW_S
        recent = [(second, count) for second, count in self._seconds if second > oldest]
        if not recent:
            return 0.0
        elapsed_s = (now_ns - recent[0][0] * _SECOND_NS) / _SECOND_NS
        return sum(count for _, count in recent) / max(1.0, elapsed_s)

    def dump(self) -> list[tuple[int, int]]:
        """Return what is remembered: seconds of Unix time, and how many in each."""
        return list(self._seconds)

    def load(self, plain: Iterable[tuple[int, int]]) -> None:
        """Remember what :meth:`dump` gave."""
        self._seconds.clear()
        self._seconds.extend(plain)

"""What the clients see, counted as it happens. Pure: times come in as arguments, in seconds."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from examples.orders import Report, Status

SLOT_S: Final = 0.125
"""Width of one column of the rate's curve."""

_SLOTS: Final = 120
_RECENT: Final = 2_000
_FILLS: Final = 8


class Ending(StrEnum):
    """How a call ended for its caller."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    IN_DOUBT = "in_doubt"
    DEAD_LETTERED = "dead_lettered"
    CANCELLED = "cancelled"
    UNANSWERED = "unanswered"  # accepted, or perhaps accepted, and no outcome came in time
    NOT_ACCEPTED = "not_accepted"  # certainly not in the log


ANSWERED: Final = frozenset(Ending) - {Ending.UNANSWERED, Ending.NOT_ACCEPTED}


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as its caller saw it: ``value`` is the result, ``code`` says which error it was."""

    call_id: bytes
    target: str
    ending: Ending
    value: Any = None
    code: str = ""


class Tally:
    """Counts of everything seen, and of the latest of it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.in_flight = 0
        self.seen: list[Seen] = []
        self.endings: Counter[Ending] = Counter()
        self.codes: Counter[str] = Counter()
        self.by_target: dict[str, Counter[Ending]] = {}
        self.latencies_s: list[float] = []
        self.recent_s: deque[float] = deque(maxlen=_RECENT)
        self.fills: deque[Report] = deque(maxlen=_FILLS)
        self.slots: deque[int] = deque(maxlen=_SLOTS)
        self._newest = -1
        self.began_s = math.nan
        self.last_s = math.nan

    def begin(self, now_s: float) -> None:
        """Start the clock."""
        self.began_s = self.last_s = now_s

    def sent(self) -> None:
        """A call goes out."""
        self.in_flight += 1

    def add(self, seen: Seen, latency_s: float, now_s: float) -> None:
        """A call has ended."""
        self.in_flight -= 1
        self.done += 1
        self.seen.append(seen)
        self.endings[seen.ending] += 1
        self.by_target.setdefault(seen.target, Counter())[seen.ending] += 1
        if seen.target == "orders.place" and seen.value and seen.value.status is Status.FILLED:
            self.fills.append(seen.value)
        if seen.code:
            self.codes[seen.code] += 1
        if seen.ending in ANSWERED:
            self.latencies_s.append(latency_s)
            self.recent_s.append(latency_s)
        self.advance(now_s)
        self.slots[-1] += 1
        self.last_s = now_s

    def advance(self, now_s: float) -> None:
        """Let time pass: slots without calls count, too."""
        slot = int((now_s - self.began_s) / SLOT_S)
        self.slots.extend([0] * min(slot - self._newest, _SLOTS))
        self._newest = max(slot, self._newest)

    @property
    def seconds(self) -> float:
        """From the first call to the latest ending."""
        return self.last_s - self.began_s

    @property
    def calls_per_s(self) -> float:
        """Calls that ended per second, from the first one on."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed; NaN if there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]

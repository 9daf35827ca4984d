"""The time axis of a picture: which times it shows, and where they are on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from aegisipc.chaos.history import Entry
from aegisipc.chaos.report.model import ScenarioRun

WIDTH = 1040
"""Pixels of the time axis."""

COLUMNS = 160
"""How many spans of equal length the charts are made of."""

_HOUR_NS = 3600 * 10**9
_STEPS_S = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    1800,
    3600,
)
_MOST_TICKS = 13


@dataclass(frozen=True, slots=True)
class Scale:
    """A time axis from ``begin_ns`` to ``end_ns``; ``zero_ns`` is the time that is called 0 s."""

    zero_ns: int
    begin_ns: int
    end_ns: int

    def x(self, at_ns: int) -> float:
        """Return the pixel of a time; what lies outside is at the edge."""
        inside = min(max(at_ns, self.begin_ns), self.end_ns)
        return round((inside - self.begin_ns) * WIDTH / (self.end_ns - self.begin_ns), 1)

    def column(self, at_ns: int) -> int:
        """Return the column that a time falls into; what lies outside is in the first or last one."""
        at = (at_ns - self.begin_ns) * COLUMNS // (self.end_ns - self.begin_ns)
        return min(max(at, 0), COLUMNS - 1)

    def column_ns(self, column: int) -> int:
        """Return when a column begins."""
        return self.begin_ns + (self.end_ns - self.begin_ns) * column // COLUMNS

    @property
    def column_s(self) -> float:
        """The length of a column, in seconds."""
        return (self.end_ns - self.begin_ns) / COLUMNS / 1e9

    def seconds(self, at_ns: int) -> float:
        """Return a time in seconds from zero."""
        return (at_ns - self.zero_ns) / 1e9

    def ticks(self) -> Iterator[float]:
        """Yield the times that are written at the axis, in seconds from zero: round ones, a dozen at most."""
        first, last = self.seconds(self.begin_ns), self.seconds(self.end_ns)
        step = next((step for step in _STEPS_S if (last - first) / step <= _MOST_TICKS), 0.0)
        step = step or _STEPS_S[-1] * -(-(last - first) // (_STEPS_S[-1] * _MOST_TICKS))
        at = -(-first // step)
        while at * step <= last + step * 1e-6:
            yield at * step
            at += 1


def scale_of(run: ScenarioRun) -> Scale:
    """Return an axis that shows all of a run.

    Zero is the beginning of the run; where none was told, and the evidence is far from zero, its first time.
    What was earlier than that is shown up to a tenth of the length, so that one wrong clock does not squeeze
    the rest.
    """
    times = list(_times(run))
    planned = int(run.duration_s * 1e9)
    low, high = min(times, default=run.at_ns), max(times, default=run.at_ns + planned)
    zero = run.at_ns if run.at_ns or low < _HOUR_NS else low
    high = max(high, zero + 1_000_000)
    begin = max(min(low, zero), zero - (high - zero) // 10)
    return Scale(zero, begin, high)


def _times(run: ScenarioRun) -> Iterator[int]:
    evidence = run.evidence
    kinds = (evidence.operations, evidence.effects, evidence.faults, evidence.probes, evidence.samples)
    yield from (entry.at_ns for entry in chain[Entry](*kinds))
    yield from (fault.until_ns for fault in evidence.faults)
    yield from (each.at_ns for each in run.roles)
    yield from (at for at in (evidence.healed_at_ns, evidence.ended_at_ns) if at)

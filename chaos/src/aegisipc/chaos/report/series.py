"""What happened in each column of a picture: how many calls ended and how, how long they took, how many
were open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from aegisipc.chaos.history import Stage
from aegisipc.chaos.report.calls import Asked, outcome_of
from aegisipc.chaos.report.scale import COLUMNS, Scale
from aegisipc.chaos.report.wording import quantile


def _zeros() -> list[int]:
    return [0] * COLUMNS


@dataclass(slots=True)
class Series:
    """Figures by column.

    ``ok``, ``failed`` and ``unknown`` count the calls whose clients were told so in the column. ``p50_ns``,
    ``p99_ns`` and ``longest_ns`` are how long clients waited that *asked* in it, whatever they were told:
    counted that way, a stop of the system is seen when it begins. ``awaited`` and ``undecided`` are the most
    that there were at once: calls of which the client was not told anything yet, and those of which it was
    told that the outcome is not known. ``errors`` are the errors that clients were told, by code.
    """

    ok: list[int] = field(default_factory=_zeros)
    failed: list[int] = field(default_factory=_zeros)
    unknown: list[int] = field(default_factory=_zeros)
    p50_ns: list[int | None] = field(default_factory=list)
    p99_ns: list[int | None] = field(default_factory=list)
    longest_ns: list[int | None] = field(default_factory=list)
    awaited: list[int] = field(default_factory=_zeros)
    undecided: list[int] = field(default_factory=_zeros)
    errors: dict[str, list[int]] = field(default_factory=dict)

    def told(self, column: int) -> int:
        """Return how many calls ended in a column, one way or another."""
        return self.ok[column] + self.failed[column] + self.unknown[column]


def series_of(calls: Iterable[Asked], scale: Scale) -> Series:
    """Return the figures of calls and submissions; other operations are not counted."""
    found = Series()
    waits: list[list[int]] = [[] for _ in range(COLUMNS)]
    awaited: list[tuple[int, int]] = []
    undecided: list[tuple[int, int]] = []
    for one in calls:
        if not one.is_call:
            continue
        awaited.append((one.at_ns, 1))
        if one.told_ns is None or one.waited_ns is None:
            continue
        awaited.append((one.told_ns, -1))
        waits[scale.column(one.at_ns)].append(one.waited_ns)
        _count(found, one, scale.column(one.told_ns))
        if one.known_ns is None or one.known_ns > one.told_ns:
            undecided.append((one.told_ns, 1))
            if one.known_ns is not None:
                undecided.append((one.known_ns, -1))
    found.awaited = _most_at_once(awaited, scale)
    found.undecided = _most_at_once(undecided, scale)
    for wait in waits:
        wait.sort()
    found.p50_ns = [quantile(wait, 0.5) if wait else None for wait in waits]
    found.p99_ns = [quantile(wait, 0.99) if wait else None for wait in waits]
    found.longest_ns = [wait[-1] if wait else None for wait in waits]
    return found


def _count(found: Series, one: Asked, column: int) -> None:
    if one.stage is Stage.OK:
        found.ok[column] += 1
        return
    (found.failed if one.stage is Stage.FAIL else found.unknown)[column] += 1
    found.errors.setdefault(outcome_of(one), _zeros())[column] += 1


def _most_at_once(changes: list[tuple[int, int]], scale: Scale) -> list[int]:
    """Return the most at once in each column, from the times at which there was one more or one less."""
    most = _zeros()
    there, reached = 0, 0
    for at_ns, change in sorted(changes):
        column = scale.column(at_ns)
        for skipped in range(reached + 1, column + 1):
            most[skipped] = there
        reached = max(reached, column)
        there += change
        most[reached] = max(most[reached], there)
    for rest in range(reached + 1, COLUMNS):
        most[rest] = there
    return most


def filled(values: list[int | None]) -> Iterator[tuple[int, list[int]]]:
    """Yield the runs of columns that have a value: where each begins, and its values."""
    begin, row = 0, list[int]()
    for column, value in enumerate([*values, None]):
        if value is not None:
            begin = begin if row else column
            row.append(value)
        elif row:
            yield begin, row
            row = []

"""Which decisions differ between two ways to decide over the same facts, and which of these count.

Two decisions are the same one if they are about the same thing (type, group, instance and its run) at about
the same time. Where recorded facts no longer apply to a group, because they presuppose what a simulation did
not decide, what follows there is not judged but counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.system import GroupKey

TOLERANCE_MS: Final = 250
"""A router looks at its beliefs every so often, and a simulation at other moments: this much is no
difference between what was recorded and what is simulated.
"""
_MS_NS: Final = 1_000_000

type How = Literal["missing", "additional", "later", "earlier", "otherwise"]


class Subject(NamedTuple):
    """What a decision is about. ``who`` is an instance; empty for elections and what is about a group."""

    type: str
    service: str = ""
    group: str = ""
    who: str = ""
    incarnation: str = ""


class Decided(NamedTuple):
    """One decision. ``seq`` is its record, or, of one that was simulated, the last record before it."""

    subject: Subject
    at_ns: int
    seq: int
    event: ev.Event | None
    cause: str

    @property
    def group(self) -> GroupKey:
        """Whom it is about."""
        return self.subject.service, self.subject.group


@dataclass(slots=True)
class Span:
    """Facts from ``seq`` on that do not apply to a group in a simulation, up to ``end_ns`` (``None``: to the
    end). ``hard``: what was simulated on them means nothing; else it only came late.
    """

    service: str
    group: str
    seq: int
    start_ns: int
    why: str
    hard: bool = False
    end_ns: int | None = None
    end_seq: int | None = None

    def holds(self, decided: Decided, *, with_end: bool = True) -> bool:
        """Tell whether a decision is about this group in this time; `with_end`: or at its very end."""
        return (
            decided.group == (self.service, self.group)
            and self.start_ns <= decided.at_ns
            and (self.end_ns is None or decided.at_ns < self.end_ns + with_end)
        )

    def is_long(self) -> bool:
        """More than what only comes of the moments at which a simulation looks."""
        return self.hard or self.end_ns is None or self.end_ns - self.start_ns > TOLERANCE_MS * _MS_NS


class Change(NamedTuple):
    """One difference. ``seq`` is the recorded decision that it is about, if there is one."""

    how: How
    before: Decided | None
    after: Decided | None
    shift_ms: int = 0
    seq: int | None = None

    @property
    def shown(self) -> Decided:
        """The decision to show: as it was, or if it was not, as it would be."""
        found = self.before or self.after
        assert found is not None  # noqa: S101 - there is one or the other
        return found


class Pair(NamedTuple):
    """The same decision on both sides; one may be missing."""

    before: Decided | None
    after: Decided | None


@dataclass(slots=True)
class Comparison:
    """The differences that count, how many of each group do not, and which decisions belong together."""

    changes: list[Change] = field(default_factory=list)
    left_out: Counter[GroupKey] = field(default_factory=Counter)
    pairs: list[Pair] = field(default_factory=list)


def compare(
    before: Sequence[Decided],
    after: Sequence[Decided],
    spans: Sequence[Span],
    *,
    tolerance_ms: int,
    reach_ms: int,
) -> Comparison:
    """Compare two lists of decisions. Those within `tolerance_ms` of each other do not differ; beyond
    `reach_ms` they are not the same decision.
    """
    long = [span for span in spans if span.is_long()]
    found = Comparison()
    for left, right in _by_subject(before, after):
        found.pairs += _pairs(left, right, long, found, tolerance_ms, reach_ms)
    begun: dict[tuple[Subject, bool], bool] = {}
    for pair in sorted(found.pairs, key=_order):
        change = _change(pair, tolerance_ms)
        if change is None:
            continue
        counts = _beginning_counts(pair, begun)
        if counts is None:
            counts = _counts(pair, long)
        if counts:
            found.changes.append(change)
        else:
            found.left_out[change.shown.group] += 1
        if None in pair:
            begun[change.shown.subject, pair.before is None] = counts
    return found


def _by_subject(
    before: Sequence[Decided], after: Sequence[Decided]
) -> list[tuple[list[Decided], list[Decided]]]:
    sides: dict[Subject, tuple[list[Decided], list[Decided]]] = defaultdict(lambda: ([], []))
    for side, decisions in enumerate((before, after)):
        for decided in decisions:
            sides[decided.subject][side].append(decided)
    return list(sides.values())


def _pairs(
    left: list[Decided],
    right: list[Decided],
    spans: Sequence[Span],
    found: Comparison,
    tolerance_ms: int,
    reach_ms: int,
) -> list[Pair]:
    """First what is at the same time; then, between those, what is near. What only follows from facts that
    do not apply is no counterpart of anything.
    """
    pairs: list[Pair] = []
    some_left: list[Decided] = []
    some_right: list[Decided] = []

    def rest() -> None:
        nonlocal some_left, some_right
        void = [d for d in (*some_left, *some_right) if any(s.hard and s.holds(d) for s in spans)]
        found.left_out.update(d.group for d in void)
        gone = {id(d) for d in void}
        pairs.extend(
            _paired(
                [d for d in some_left if id(d) not in gone],
                [d for d in some_right if id(d) not in gone],
                reach_ms,
            )
        )
        some_left, some_right = [], []

    for pair in _paired(left, right, tolerance_ms):
        if pair.before is not None and pair.after is not None:
            rest()
            pairs.append(pair)
        elif pair.before is not None:
            some_left.append(pair.before)
        elif pair.after is not None:
            some_right.append(pair.after)
    rest()
    return pairs


def _paired(left: Sequence[Decided], right: Sequence[Decided], reach_ms: int) -> list[Pair]:
    """Pair what is nearest, in order."""
    reach_ns, pairs = reach_ms * _MS_NS, []
    i = j = 0
    while i < len(left) and j < len(right):
        apart = right[j].at_ns - left[i].at_ns
        next_left = i + 1 < len(left) and abs(right[j].at_ns - left[i + 1].at_ns) < abs(apart)
        next_right = j + 1 < len(right) and abs(right[j + 1].at_ns - left[i].at_ns) < abs(apart)
        if apart > reach_ns or (apart >= 0 and next_left):
            pairs.append(Pair(left[i], None))
            i += 1
        elif apart < -reach_ns or next_right:
            pairs.append(Pair(None, right[j]))
            j += 1
        else:
            pairs.append(Pair(left[i], right[j]))
            i, j = i + 1, j + 1
    return [*pairs, *(Pair(d, None) for d in left[i:]), *(Pair(None, d) for d in right[j:])]


def _order(pair: Pair) -> tuple[int, Subject]:
    shown = pair.before or pair.after
    assert shown is not None  # noqa: S101 - a pair has one side at least
    return shown.at_ns, shown.subject


def _change(pair: Pair, tolerance_ms: int) -> Change | None:
    if pair.before is None:
        return Change("additional", None, pair.after)
    if pair.after is None:
        return Change("missing", pair.before, None)
    shift_ms = round((pair.after.at_ns - pair.before.at_ns) / _MS_NS)
    if abs(shift_ms) > tolerance_ms:
        return Change("later" if shift_ms > 0 else "earlier", *pair, shift_ms=shift_ms)
    if _nature(pair.before.event) != _nature(pair.after.event):
        return Change("otherwise", *pair, shift_ms=shift_ms)
    return None


def _nature(event: ev.Event | None) -> str:
    """What else makes a decision another one."""
    match event:
        case ev.GroupPromoted():
            return event.kind
        case ev.InstanceRefused():
            return event.error.code
    return ""


def _counts(pair: Pair, spans: Sequence[Span]) -> bool:
    """Outside of all spans; or on both sides, and what was in between has been made up for. What is on both
    sides may be what ended the span.
    """
    both = pair.before is not None and pair.after is not None
    touched = [s for s in spans if any(d is not None and s.holds(d, with_end=not both) for d in pair)]
    return all(both and span.end_ns is not None for span in touched)


_BEGINS: Final = {ev.InstanceRecovered.type: ev.InstanceSuspected.type}


def _beginning_counts(pair: Pair, begun: dict[tuple[Subject, bool], bool]) -> bool | None:
    """A recovery from a suspicion that is on one side only is there, too, and counts as that one does.
    ``None``: it is no such recovery.
    """
    shown = pair.before or pair.after
    if shown is None or None not in pair or shown.subject.type not in _BEGINS:
        return None
    beginning = shown.subject._replace(type=_BEGINS[shown.subject.type])
    return begun.pop((beginning, pair.before is None), None)

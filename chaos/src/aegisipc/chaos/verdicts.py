"""What the checker says: one verdict for each invariant."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation, in a sentence that says what contradicts what, with what to look at.

    ``call_ids`` and ``seqs`` (of the log) lead into ``aegis replay``; ``numbers`` are the operations.
    """

    text: str
    call_ids: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    seqs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one invariant. ``name`` is its short name (``G3``, ``linearizable``), ``looked_at`` how
    many things were compared: a verdict that looked at nothing says nothing.
    """

    name: str
    promise: str
    looked_at: int
    findings: tuple[Finding, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts it."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts on a run. ``numbers`` are what was counted on the way: calls, outcomes by mark, doubts."""

    verdicts: tuple[Verdict, ...]
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every invariant does."""
        return all(verdict.holds for verdict in self.verdicts)

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the invariants that do not hold."""
        return tuple(verdict.name for verdict in self.verdicts if not verdict.holds)

    def to_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "holds": self.holds,
            "numbers": self.numbers,
            "verdicts": [asdict(verdict) | {"holds": verdict.holds} for verdict in self.verdicts],
        }

"""What is said of all runs together: the verdict in a sentence, and the totals."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from aegisipc.chaos.report.figures import (
    BROKEN,
    EMPTY,
    HOLDS,
    SKIPPED,
    UNJUDGED,
    Figures,
    longest_recovery,
    status_of,
)
from aegisipc.chaos.report.wording import DASH, counted, listed


@dataclass(frozen=True, slots=True)
class Overview:
    """All runs together. ``status`` is ``holds``, ``broken``, or ``not judged`` if nothing is known."""

    status: str
    sentence: str
    remark: str
    command: str
    written_at: datetime
    versions: dict[str, str]
    outcomes: Counter[str]
    faults: int
    longest_recovery_s: float | None

    @property
    def calls(self) -> int:
        """How many calls and submissions were made."""
        return self.outcomes.total()


def overview_of(all_figures: Sequence[Figures], command: str) -> Overview:
    """Sum up."""
    by_status = Counter(figures.status for figures in all_figures)
    status = BROKEN if by_status[BROKEN] else HOLDS if by_status[HOLDS] else UNJUDGED
    outcomes = sum((figures.outcomes for figures in all_figures), Counter[str]())
    return Overview(
        status=status,
        sentence=_sentence(status, by_status, all_figures, outcomes.total()),
        remark=_remark(by_status, all_figures),
        command=command,
        written_at=datetime.now(UTC).replace(microsecond=0),
        versions=_versions(all_figures),
        outcomes=outcomes,
        faults=sum(len(figures.recoveries) for figures in all_figures),
        longest_recovery_s=longest_recovery(all_figures),
    )


def _sentence(status: str, by_status: Counter[str], all_figures: Sequence[Figures], calls: int) -> str:
    judged = by_status[HOLDS] + by_status[BROKEN]
    if status == UNJUDGED:
        return "Nothing was judged: there is no verdict." if all_figures else "Nothing was run."
    if status == HOLDS:
        checks = len({v.name for f in all_figures for v in f.run.judgement.verdicts if status_of(v) == HOLDS})
        return (
            f"Everything that was looked at holds: {counted(checks, 'invariant')} in "
            f"{counted(judged, 'scenario')}, {counted(calls, 'call')}."
        )
    broken = list(dict.fromkeys(name for f in all_figures for name in f.run.judgement.broken))
    named = listed(broken[:8]) + (f" and {len(broken) - 8} more" if len(broken) > 8 else "")
    return f"{counted(by_status[BROKEN], 'scenario')} of {judged} broke what is promised: {named}."


def _remark(by_status: Counter[str], all_figures: Sequence[Figures]) -> str:
    """Return what the sentence does not cover; empty if there is nothing."""
    empty = sum(status_of(v) == EMPTY for f in all_figures for v in f.run.judgement.verdicts)
    told = []
    if by_status[SKIPPED]:
        told.append(f"{counted(by_status[SKIPPED], 'scenario')} could not be run here")
    if by_status[UNJUDGED]:
        told.append(f"{counted(by_status[UNJUDGED], 'scenario')} ran without a verdict")
    if empty:
        told.append(f"{counted(empty, 'verdict')} had nothing to look at")
    return f"Not covered: {listed(told)}." if told else ""


def _versions(all_figures: Sequence[Figures]) -> dict[str, str]:
    """Return the versions of what was run, and of what it was run against as far as that was told."""
    told: dict[str, list[str]] = {}
    for figures in all_figures:
        for name, each in figures.run.versions.items():
            told.setdefault(name, []).append(each)
    against = {name: ", ".join(dict.fromkeys(each)) for name, each in told.items()}
    ours = {"aegis": version("aegisipc-chaos"), "Python": platform.python_version()}
    return ours | {"system": f"{platform.system()} {platform.release()}"} | against


def seeds_text(all_figures: Sequence[Figures]) -> str:
    """Return the seeds of the runs: one if they share it, else from the least to the greatest."""
    seeds = sorted({figures.run.seed for figures in all_figures})
    if not seeds:
        return DASH
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} … {seeds[-1]}"

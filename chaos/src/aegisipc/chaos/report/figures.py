"""All figures of one run, computed once: for the picture, for the tables and for the JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from aegisipc.chaos.history import Fault
from aegisipc.chaos.report.calls import Asked, outcome_of, pair
from aegisipc.chaos.report.model import RoleSpan, ScenarioRun
from aegisipc.chaos.report.recovery import Recoveries
from aegisipc.chaos.report.scale import Scale, scale_of
from aegisipc.chaos.report.series import Series, series_of
from aegisipc.chaos.report.wording import quantile
from aegisipc.chaos.verdicts import Verdict

HOLDS, BROKEN, EMPTY, SKIPPED, UNJUDGED = "holds", "broken", "nothing", "skipped", "not judged"
"""What can be said of a scenario or of an invariant."""

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def status_of(verdict: Verdict) -> str:
    """Return what can be said of an invariant."""
    if not verdict.holds:
        return BROKEN
    return HOLDS if verdict.looked_at > 0 else EMPTY


@dataclass(slots=True)
class Figures:
    """The figures of a run.

    ``outcomes`` counts calls and submissions by :func:`outcome_of`, ``others`` the other operations by what
    they are. ``latency_s`` are quantiles of how long clients waited to be told anything. ``recoveries`` are
    seconds, one for each fault, see :class:`Recoveries`. ``promotions`` are the spans that began an epoch.
    """

    run: ScenarioRun
    scale: Scale
    calls: list[Asked]
    series: Series
    outcomes: Counter[str]
    others: Counter[str]
    latency_s: dict[str, float]
    recoveries: list[tuple[Fault, float | None]]
    promotions: list[RoleSpan] = field(default_factory=list)

    @property
    def status(self) -> str:
        """What can be said of the scenario."""
        if self.run.skipped:
            return SKIPPED
        if not self.run.judgement.verdicts:
            return UNJUDGED
        return HOLDS if self.run.judgement.holds else BROKEN

    @property
    def called(self) -> int:
        """How many calls and submissions were made."""
        return self.outcomes.total()

    @property
    def longest_recovery_s(self) -> float | None:
        """The longest time without success after a fault; infinite if it did not end within the run."""
        return max((seconds for _, seconds in self.recoveries if seconds is not None), default=None)

    @property
    def calls_per_s(self) -> float:
        """Calls that succeeded, by the second, from the first time that was seen to the last."""
        length_s = (self.scale.end_ns - self.scale.begin_ns) / 1e9
        return self.outcomes["ok"] / length_s if self.outcomes["ok"] else 0.0


def figures_of(run: ScenarioRun) -> Figures:
    """Compute the figures of a run."""
    scale = scale_of(run)
    asked = pair(run.evidence.operations)
    waits = sorted(one.waited_ns for one in asked if one.is_call and one.waited_ns is not None)
    latency_s = {name: quantile(waits, share) / 1e9 for name, share in _SHARES.items()} if waits else {}
    if waits:
        latency_s["max"] = waits[-1] / 1e9
    recoveries = Recoveries(asked)
    return Figures(
        run=run,
        scale=scale,
        calls=asked,
        series=series_of(asked, scale),
        outcomes=Counter(outcome_of(one) for one in asked if one.is_call),
        others=Counter(one.deed.value for one in asked if not one.is_call),
        latency_s=latency_s,
        recoveries=[(fault, recoveries.after(fault)) for fault in run.evidence.faults],
        promotions=_promotions(run),
    )


def _promotions(run: ScenarioRun) -> list[RoleSpan]:
    """Return the first span of each node and epoch in which it was active or leading."""
    seen: set[tuple[str, str, int]] = set()
    found = []
    for each in sorted(run.roles, key=lambda each: each.at_ns):
        key = (each.node, each.role, each.epoch)
        if each.role in {"active", "leading"} and key not in seen:
            seen.add(key)
            found.append(each)
    return found


def longest_recovery(all_figures: Sequence[Figures]) -> float | None:
    """Return the longest recovery of all runs, infinite if one did not end."""
    return max(
        (each.longest_recovery_s for each in all_figures if each.longest_recovery_s is not None), default=None
    )


def is_endless(seconds: float | None) -> bool:
    """Whether a recovery did not end within its run."""
    return seconds is not None and math.isinf(seconds)

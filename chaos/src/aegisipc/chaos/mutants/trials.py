"""Trying mutants: simulate one under seed after seed until an invariant does not hold.

Each catch is checked against a control: the same plan without the defect must hold, or the catch says nothing
of the defect. Mutants are tried side by side in processes of their own, which they leave as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import Any, Final

from aegisipc.chaos.mutants.registry import MUTANTS, find
from aegisipc.chaos.sim.plan import expand
from aegisipc.chaos.sim.running import CRASHED, Brief, Runner
from aegisipc.chaos.sim.workers import usable_cores
from aegisipc.eventstore.errors import AegisError

DEFAULT_SEEDS: Final = 64
"""How many seeds a mutant may survive before it counts as a survivor."""


class TrialsFailed(AegisError):
    """A process in which mutants were tried died. Field: ``names`` (of those that were not done)."""

    code = "trials_failed"


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one mutant. ``caught_by_seed`` is ``None`` if it survived; ``verdicts`` are the
    invariants that did not hold under that seed, and ``finding`` is one of them in words. ``is_expected``
    tells whether an expected one was among them. ``schedules`` counts the runs with the defect, ``control``
    names what does not hold without it, under the same plan.
    """

    name: str
    caught_by_seed: int | None
    verdicts: tuple[str, ...]
    is_expected: bool
    schedules: int
    finding: str = ""
    control: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it was caught, and without the defect all holds."""
        return self.caught_by_seed is not None and not self.control

    def to_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        mutant = find(self.name)
        return {
            "name": self.name,
            "breaks": mutant.breaks,
            "needs": mutant.needs,
            "expected": list(mutant.expected),
            "caught_by_seed": self.caught_by_seed,
            "verdicts": list(self.verdicts),
            "expected_found": self.is_expected,
            "finding": self.finding,
            "schedules": self.schedules,
            "control": list(self.control),
        }


@dataclass(slots=True)
class Trials:
    """What became of some mutants."""

    mutants: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def survivors(self) -> list[str]:
        """The mutants that nothing has caught."""
        return [trial.name for trial in self.mutants if trial.caught_by_seed is None]

    @property
    def is_good(self) -> bool:
        """Whether all were caught, and all controls hold."""
        return all(trial.is_good for trial in self.mutants)

    def to_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "mutants": [trial.to_plain() for trial in self.mutants],
            "survivors": self.survivors,
            "control_failures": [trial.name for trial in self.mutants if trial.control],
            "schedules": sum(trial.schedules for trial in self.mutants),
            "seconds": round(self.seconds, 3),
        }


def try_mutant(name: str, seeds: int, runner: Runner) -> Trial:
    """Simulate a mutant under its known seed, and then under others, `seeds` in all at most.

    It goes on until an expected invariant does not hold; one that only others catch is caught all the same.
    That the simulation itself raises is no verdict, and counts only if nothing better is found.
    """
    mutant = find(name)
    caught: tuple[int, Brief] | None = None
    schedules = 0
    for seed in _order(mutant.known_seed, seeds):
        with mutant.applied():
            brief = runner.brief(mutant.steered(expand(seed)))
        schedules += 1
        if set(mutant.expected) & set(brief.broken):
            caught = seed, brief
            break
        if not brief.holds and brief.broken != (CRASHED,) and caught is None:
            caught = seed, brief
    if caught is None:
        return Trial(name, None, (), is_expected=False, schedules=schedules)
    seed, brief = caught
    finding = next((f for f in brief.findings if f.invariant in mutant.expected), brief.findings[0])
    return Trial(
        name,
        seed,
        brief.broken,
        is_expected=bool(set(mutant.expected) & set(brief.broken)),
        schedules=schedules,
        finding=f"{finding.invariant}: {finding.text}",
        control=runner.brief(mutant.steered(expand(seed))).broken,
    )


def _order(first: int, count: int) -> Sequence[int]:
    return [first, *islice((seed for seed in range(count) if seed != first), count - 1)]


def try_all(
    names: Sequence[str] = (),
    *,
    seeds: int = DEFAULT_SEEDS,
    jobs: int | None = None,
    told: Callable[[Trial], None] | None = None,
) -> Trials:
    """Try mutants (default: all) side by side in `jobs` processes (default: one for each core). `told` hears
    of each when it is done.

    Raises:
        UnknownMutant: there is none of that name.
        TrialsFailed: a process died.
    """
    wanted = [find(name).name for name in names] or list(MUTANTS)
    began_s = time.monotonic()
    jobs = min(jobs or usable_cores(), len(wanted))
    done: dict[str, Trial] = {}
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        futures: list[Future[Trial]] = [pool.submit(_try, name, seeds) for name in wanted]
        for future in as_completed(futures):
            trial = future.result()
            done[trial.name] = trial
            if told is not None:
                told(trial)
    except BrokenProcessPool as error:
        missing = [name for name in wanted if name not in done]
        raise TrialsFailed(
            f"cannot go on: a process in which mutants were tried died; not done: {', '.join(missing)}; try "
            "them one at a time with --mutant",
            names=missing,
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return Trials([done[name] for name in wanted], time.monotonic() - began_s)


def _try(name: str, seeds: int) -> Trial:
    with Runner() as runner:
        return try_mutant(name, seeds, runner)

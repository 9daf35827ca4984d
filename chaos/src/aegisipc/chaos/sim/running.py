"""One run after another in one process, without one touching the next.

A run leaves many objects that refer to each other, and coroutines of killed actors among them. Collecting
those runs what is left of their code (``finally``), so it happens between runs only, never during one; and
what they have to say then is nobody's business any more.
"""

from __future__ import annotations

import gc
import logging
import sys
import traceback
import warnings
from asyncio import events
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import structlog

from aegisipc.chaos.sim.loop import SimLoop
from aegisipc.chaos.sim.plan import Plan
from aegisipc.chaos.sim.simulation import Result, simulate
from aegisipc.eventstore.errors import AegisError

COLLECT_EVERY: Final = 8
"""After how many runs garbage is collected: less often costs memory, more often time."""

FINDINGS_KEPT: Final = 5
"""Of each broken invariant; a seed tells all of them when it is run alone."""

CRASHED: Final = "crashed"
"""In the place of an invariant: the simulation itself, or the checker, raised something."""


@dataclass(frozen=True, slots=True)
class Broken:
    """One finding, with the invariant that it is against."""

    invariant: str
    text: str
    call_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Brief:
    """What is told of a run: enough to see that it holds, and that it was the same as another."""

    seed: int
    trace: str
    events: int
    steps: int
    virtual_s: float
    broken: tuple[str, ...] = ()
    findings: tuple[Broken, ...] = ()
    more_findings: int = 0
    """How many were left out."""

    @property
    def holds(self) -> bool:
        """Whether every invariant does."""
        return not self.broken

    def to_plain(self) -> dict[str, Any]:
        """Return what is told of a failure."""
        return {
            "seed": self.seed,
            "broken": list(self.broken),
            "findings": [asdict(finding) for finding in self.findings],
            "more_findings": self.more_findings,
            "trace": self.trace,
        }


class SimulationCrashed(AegisError):
    """The simulation itself, or the checker, raised something: a defect of theirs. Fields: ``seed``,
    ``why``.
    """

    code = "simulation_crashed"


@contextmanager
def muted() -> Iterator[None]:
    """Let the code under test log nothing: thousands of failures are simulated, and none is news."""
    before, level = structlog.get_config(), logging.root.manager.disable
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        structlog.configure(**before)


@contextmanager
def _unheard() -> Iterator[None]:
    """Let dead coroutines complain to nobody, and what they start when they are collected end nowhere: they
    see a loop that is closed, and must not come to make one of their own.
    """
    hook, running = sys.unraisablehook, events._get_running_loop()
    sys.unraisablehook = lambda _: None
    closed = SimLoop()
    closed.close()
    events._set_running_loop(closed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine was never awaited
            yield
    finally:
        events._set_running_loop(running)
        sys.unraisablehook = hook


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Runner:
    """Runs plans, one after the other. Use it in a ``with`` block: meanwhile nothing logs, and garbage is
    collected between runs only.

    ::

        with Runner() as runner:
            result = runner.run(expand(7))
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._runs = 0

    def __enter__(self) -> Self:
        self._open.enter_context(muted())
        self._open.enter_context(uncollected())
        gc.collect()
        gc.freeze()  # what is there now stays, and need not be looked through after each run
        return self

    def __exit__(self, *_: object) -> None:
        with _unheard():
            gc.unfreeze()
            gc.collect()
        self._open.close()

    def run(self, plan: Plan) -> Result:
        """Run a plan.

        Raises:
            SimulationCrashed: it could not be run to its end, or not be judged.
        """
        with _unheard():
            try:
                return simulate(plan)
            except Exception as error:
                raise _crashed(plan.seed, error) from error
            finally:
                self._runs += 1
                if self._runs % COLLECT_EVERY == 0:
                    gc.collect()

    def brief(self, plan: Plan) -> Brief:
        """Run a plan, and say what is to be told of it. What the simulation or the checker raises is told
        as a failure: one seed must not hide what the others find.
        """
        try:
            return brief_of(self.run(plan))
        except SimulationCrashed as error:
            return Brief(plan.seed, "", 0, 0, 0.0, (CRASHED,), (Broken(CRASHED, error.why),))


def brief_of(result: Result) -> Brief:
    """Return what is to be told of a run."""
    findings = [
        Broken(verdict.name, finding.text, finding.call_ids)
        for verdict in result.judgement.verdicts
        for finding in verdict.findings[:FINDINGS_KEPT]
    ]
    all_findings = sum(len(verdict.findings) for verdict in result.judgement.verdicts)
    return Brief(
        seed=result.plan.seed,
        trace=result.trace,
        events=result.events,
        steps=result.steps,
        virtual_s=result.virtual_s,
        broken=result.judgement.broken,
        findings=tuple(findings),
        more_findings=all_findings - len(findings),
    )


def _crashed(seed: int, error: Exception) -> SimulationCrashed:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    at = " < ".join(f"{f.name} in {f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(frames))
    why = f"{type(error).__name__}: {error} (in {at})"
    return SimulationCrashed(
        f"cannot simulate seed {seed}: {why}; correct the simulation", seed=seed, why=why
    )

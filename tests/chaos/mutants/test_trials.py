"""The checker fails what is broken, and only that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aegisipc.chaos.mutants import MUTANTS, Mutant, patching
from aegisipc.chaos.mutants.trials import try_all, try_mutant
from aegisipc.chaos.sim.plan import expand
from aegisipc.chaos.sim.running import Runner

MAIN = (
    "skip-the-fence",
    "skip-the-claim",
    "apply-twice",
    "forget-an-outcome",
    "assume-the-ack",
    "promote-in-the-same-epoch",
    "pool-ack-at-once",
    "snapshot-without-open-calls",
    "ignore-the-deadline",
    "retry-unseen",
)
SEEDS = 12
"""A change to the code that is simulated may move a defect to another seed nearby."""


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


@pytest.mark.parametrize("name", MAIN)
def test_a_main_mutant_is_caught_by_what_it_breaks_and_its_control_holds(name: str, runner: Runner) -> None:
    trial = try_mutant(name, SEEDS, runner)
    assert trial.is_expected, trial
    assert trial.control == (), "without the defect, its plan breaks something, too"
    assert trial.is_good
    assert trial.finding.partition(":")[0] in MUTANTS[name].expected


def test_the_same_mutant_gives_the_same_trial_in_another_process(runner: Runner) -> None:
    told: list[str] = []
    trials = try_all(["skip-the-claim"], seeds=2, jobs=1, told=lambda trial: told.append(trial.name))
    assert told == ["skip-the-claim"]
    assert trials.mutants == [try_mutant("skip-the-claim", 2, runner)]
    assert trials.survivors == []
    assert trials.is_good


def test_what_breaks_nothing_survives(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = Mutant(
        "harmless",
        "nothing",
        ("G2",),
        (patching.Change("aegisipc.sdk.core.pen:Pen._take", lambda original: original),),
        known_seed=1,
    )
    monkeypatch.setitem(MUTANTS, "harmless", harmless)
    trial = try_mutant("harmless", 2, runner)
    assert (trial.caught_by_seed, trial.verdicts, trial.schedules) == (None, (), 2)
    assert not trial.is_good


def test_a_defect_leaves_no_trace_in_later_runs(runner: Runner) -> None:
    before = runner.brief(expand(3)).trace
    try_mutant("skip-the-claim", 1, runner)
    assert runner.brief(expand(3)).trace == before

"""Defects in why routers move a pen: no other invariant notices them, for the fence keeps everybody safe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aegisipc.chaos.mutants.failovers import OF_FAILOVERS
from aegisipc.chaos.mutants.trials import try_mutant
from aegisipc.chaos.sim.running import Runner

MAIN = ("replace-the-sound", "lose-patience", "promote-the-gone")
SEEDS = 12


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


@pytest.mark.parametrize("name", MAIN)
def test_a_main_mutant_is_caught_by_nothing_else_and_its_control_holds(name: str, runner: Runner) -> None:
    trial = try_mutant(name, SEEDS, runner)
    assert trial.verdicts == ("failovers",), trial
    assert trial.is_good


def test_all_are_expected_to_be_found_by_what_they_are_made_for() -> None:
    assert {mutant.expected for mutant in OF_FAILOVERS} == {("failovers",)}

"""Mutants change what is there, and nothing is left of them afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.chaos.checking import judge
from aegisipc.chaos.history import Evidence
from aegisipc.chaos.log_facts import LogFacts
from aegisipc.chaos.mutants import MUTANTS, Change, Mutant, UnknownMutant, find, install
from aegisipc.chaos.mutants.patching import MutantMisfit
from aegisipc.chaos.sim.plan import expand

INVARIANTS = {verdict.name for verdict in judge(Evidence(), LogFacts()).verdicts}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_what_a_mutant_changes_is_there_and_is_put_back(mutant: Mutant) -> None:
    places = [change.place() for change in mutant.changes]
    before = [vars(owner)[name] for owner, name in places]
    with mutant.applied():
        for (owner, name), original in zip(places, before, strict=True):
            assert vars(owner)[name] is not original
    assert [vars(owner)[name] for owner, name in places] == before


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_a_mutant_says_what_it_breaks(mutant: Mutant) -> None:
    assert mutant.breaks
    assert set(mutant.expected) <= INVARIANTS
    assert (mutant.steer is None) == (not mutant.needs), "what it takes is said of those that are steered"
    plan = mutant.steered(expand(7))
    assert plan == mutant.steered(expand(7)), "the same seed gives the same plan"
    assert plan.seed == 7


def test_there_are_mutants_of_every_promise() -> None:
    assert len(MUTANTS) >= 16
    expected = {name for mutant in MUTANTS.values() for name in mutant.expected}
    assert expected >= {f"G{n}" for n in range(1, 10)} | {"attempts", "orders", "timeouts"}


def test_a_defect_ends_with_an_error_too() -> None:
    mutant = find("skip-the-fence")
    ((owner, name),) = [change.place() for change in mutant.changes]
    original = vars(owner)[name]
    with pytest.raises(ZeroDivisionError), mutant.applied():
        raise ZeroDivisionError
    assert vars(owner)[name] is original


def test_of_several_changes_all_are_undone_if_one_does_not_fit() -> None:
    class Known:
        value = 1

    def more(value: Any) -> Any:
        return value + 1

    module = __name__
    globals()["Known"] = Known
    try:
        mutant = Mutant(
            "m",
            "nothing",
            (),
            (Change(f"{module}:Known.value", more), Change(f"{module}:Known.gone", more)),
            known_seed=0,
        )
        with pytest.raises(MutantMisfit, match="it is not there"), mutant.applied():
            pass
        assert Known.value == 1
    finally:
        del globals()["Known"]


@pytest.mark.parametrize("target", ["no.such.module:X", "aegisipc.sdk.core.member:Nobody.x"])
def test_what_is_not_there_cannot_be_changed(target: str) -> None:
    with pytest.raises(MutantMisfit, match="cannot change"):
        Change(target, lambda original: original).apply()


def test_an_unknown_mutant_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(UnknownMutant, match="skip-the-fence"):
        install("nothing")


def test_an_installed_defect_stays() -> None:
    mutant = find("forget-an-outcome")
    ((owner, name),) = [change.place() for change in mutant.changes]
    original = vars(owner)[name]
    try:
        install("forget-an-outcome")
        assert vars(owner)[name] is not original
    finally:
        setattr(owner, name, original)

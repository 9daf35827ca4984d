"""The operator of a simulation: what it says is written down and done; quarantine comes to an end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from aegisipc.chaos.history import Deed, Stage
from aegisipc.chaos.mutants.registry import find
from aegisipc.chaos.operators import DISCARD, REQUEUE, RESOLVE, number_in, reason_of
from aegisipc.chaos.sim.plan import TEND, OrderPlan, Plan, expand
from aegisipc.chaos.sim.running import Runner
from aegisipc.chaos.sim.simulation import Result
from aegisipc.chaos.workload import BOOK
from aegisipc.eventstore.frames import Mark


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


def plan_of(mutant: str) -> Plan:
    """The plan under which a mutant is tried, which is run without the defect here."""
    found = find(mutant)
    return found.steered(expand(found.known_seed))


def confirmed(result: Result) -> Counter[str]:
    """How often the operator's commands about calls were confirmed."""
    return Counter(
        operation.target.split()[0]
        for operation in result.evidence.operations
        if operation.deed is Deed.OPERATE and operation.call_id and operation.stage is Stage.OK
    )


def looked_at(result: Result) -> int:
    (verdict,) = (verdict for verdict in result.judgement.verdicts if verdict.name == "orders")
    return verdict.looked_at


def test_a_reason_names_an_operation() -> None:
    assert number_in(reason_of(7)) == 7
    assert number_in("because") is number_in(None) is number_in(7) is None


def test_doubts_of_which_only_people_know_are_resolved(runner: Runner) -> None:
    result = runner.run(plan_of("resolve-another-doubt"))
    assert result.judgement.holds
    assert confirmed(result)[RESOLVE]
    assert looked_at(result) >= 2 * confirmed(result)[RESOLVE]  # the answer, and the word


@pytest.mark.parametrize("mutant", ["confirm-a-discard-unwritten", "pool-requeue-nothing"])
def test_dead_letters_are_dealt_with(mutant: str, runner: Runner) -> None:
    result = runner.run(plan_of(mutant))
    assert result.judgement.holds
    assert confirmed(result)[REQUEUE]
    assert confirmed(result)[DISCARD]


def test_an_operator_may_look_while_calls_are_made(runner: Runner) -> None:
    plan = plan_of("confirm-a-discard-unwritten")
    tend = OrderPlan(2.0, TEND, BOOK, plan.groups[0].name)
    result = runner.run(replace(plan, orders=(tend,)))
    assert result.judgement.holds
    asked = [o for o in result.evidence.operations if o.deed is Deed.OPERATE and o.call_id]
    assert asked[0].at_ns < result.evidence.healed_at_ns


def test_who_is_in_quarantine_starts_calls_once_all_is_healed(runner: Runner) -> None:
    result = runner.run(plan_of("start-in-quarantine"))
    assert result.judgement.holds
    assert result.evidence.effects
    assert all(effect.at_ns > result.evidence.healed_at_ns for effect in result.evidence.effects)
    assert result.facts.marks[Mark.SUCCEEDED]
    assert looked_at(result)

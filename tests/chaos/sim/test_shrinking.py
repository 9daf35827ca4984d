"""Cutting plans down: what is needed stays, and nothing else does."""

from __future__ import annotations

import time
from dataclasses import replace

from aegisipc.chaos.mutants.registry import find
from aegisipc.chaos.sim.plan import Break, Plan, expand
from aegisipc.chaos.sim.plan_files import check_plan
from aegisipc.chaos.sim.running import Runner
from aegisipc.chaos.sim.shrinking import shrink


def _large() -> Plan:
    """Of the first plans, the one with most in it."""
    return max((expand(seed) for seed in range(300)), key=lambda plan: len(plan.faults) + len(plan.calls))


def test_only_what_the_failure_needs_is_left() -> None:
    plan = _large()
    fault, call = plan.faults[-1], plan.calls[len(plan.calls) // 2]

    def fails(tried: Plan) -> bool:
        check_plan(tried)  # whatever is tried could be run
        return any(f.kind is fault.kind and f.victim == fault.victim for f in tried.faults) and any(
            c.number == call.number for c in tried.calls
        )

    shrunk = shrink(plan, fails)
    assert shrunk.is_smallest
    assert fails(shrunk.plan)
    assert [f.kind for f in shrunk.plan.faults] == [fault.kind]
    assert [c.number for c in shrunk.plan.calls] == [call.number]
    assert shrunk.plan.orders == ()
    assert shrunk.plan.clients == 1
    assert shrunk.plan.snapshot_entries == 0
    assert len(shrunk.plan.groups) + shrunk.plan.workers <= len(plan.groups) + plan.workers


def test_a_defect_in_the_code_is_shown_by_a_plan_that_a_person_can_read() -> None:
    mutant = find("skip-the-claim")
    plan = mutant.steered(expand(mutant.known_seed))
    with mutant.applied(), Runner() as runner:
        broken = runner.brief(plan).broken
        shrunk = shrink(plan, lambda tried: broken[0] in runner.brief(tried).broken, max_runs=60)
        again = runner.brief(shrunk.plan)
    assert broken[0] in mutant.expected
    assert broken[0] in again.broken
    assert len(plan.calls) > 5
    assert len(shrunk.plan.calls) <= 2
    with Runner() as runner:
        assert runner.brief(shrunk.plan).holds  # without the defect


def test_a_failure_that_needs_two_of_a_kind_keeps_two() -> None:
    plan = replace(expand(3), faults=())
    fault = next(f for seed in range(100) for f in expand(seed).faults if f.kind is Break.ELECTION)
    plan = replace(plan, faults=tuple(replace(fault, at_s=n / 10) for n in range(9)))
    shrunk = shrink(plan, lambda tried: len(tried.faults) >= 2)
    assert len(shrunk.plan.faults) == 2
    assert len(shrunk.plan.calls) == 0


def test_a_failure_by_luck_is_found_again_with_other_delays() -> None:
    plan = expand(5)

    def fails(tried: Plan) -> bool:
        return tried.seed != plan.seed if len(tried.calls) < len(plan.calls) else True

    shrunk = shrink(plan, fails)
    assert shrunk.plan.calls == ()
    assert shrunk.plan.seed != plan.seed


def test_the_same_question_has_the_same_answer() -> None:
    plan = _large()

    def fails(tried: Plan) -> bool:
        return sum(call.argument for call in tried.calls) % 3 == 1

    assert shrink(plan, fails) == shrink(plan, fails)


def test_the_search_ends_at_its_bounds() -> None:
    plan, tried = _large(), list[Plan]()

    def fails(candidate: Plan) -> bool:
        tried.append(candidate)
        return True

    shrunk = shrink(plan, fails, max_runs=7)
    assert (shrunk.runs, shrunk.is_smallest) == (7, False)
    assert len(tried) == 7

    began_s = time.monotonic()
    assert not shrink(plan, fails, max_s=0.0).is_smallest
    assert time.monotonic() - began_s < 30

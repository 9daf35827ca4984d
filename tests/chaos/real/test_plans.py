"""Plans are drawn from a seed, and from nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aegisipc.chaos.real.breaks import BREAKS
from aegisipc.chaos.real.loads import Asks, LoadOptions, Manner
from aegisipc.chaos.real.members import cast
from aegisipc.chaos.real.plans import drawn
from aegisipc.chaos.real.scenarios import SCENARIOS, UnknownScenario, chosen

_SHOW = """
import json
from aegisipc.chaos.real.plans import drawn
from aegisipc.chaos.real.scenarios import SCENARIOS
print(json.dumps([[s.to_plain() for s in drawn(e.draw, e.name, 7, 20.0)] for e in SCENARIOS.values()]))
"""


def test_the_same_seed_gives_the_same_plan_in_two_processes_with_other_hashes() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", _SHOW],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("duration_s", [1.0, 20.0])
def test_every_step_can_be_taken(name: str, duration_s: float) -> None:
    scenario = SCENARIOS[name]
    shape = scenario.shape
    known = {member.name for member in cast(shape)} | {f"server{n + 1}" for n in range(shape.nodes)}
    plan = drawn(scenario.draw, name, 1, duration_s)
    assert plan
    assert {step.fault for step in plan} <= set(BREAKS)
    assert {step.victim for step in plan} <= known
    assert all(0 <= step.at_s <= max(duration_s, 10.0) for step in plan)


def test_seeds_and_scenarios_have_plans_of_their_own() -> None:
    scenario = SCENARIOS["kill-instance"]
    plans = {
        str(drawn(scenario.draw, name, seed, 20.0)) for name in ("kill-instance", "other") for seed in (1, 2)
    }
    assert len(plans) == 4


def test_an_unknown_scenario_is_refused_by_name() -> None:
    with pytest.raises(UnknownScenario, match=r"'no-such'.*aegis chaos scenarios"):
        chosen("kill-instance,no-such")
    assert [scenario.name for scenario in chosen("kill-server, kill-instance")] == [
        "kill-server",
        "kill-instance",
    ]
    assert len(chosen("all")) == len(SCENARIOS)


def test_what_clients_ask_for_is_drawn_from_the_seed_too() -> None:
    one, same, other = (Asks(seed, 100, LoadOptions()) for seed in ("1", "1", "2"))
    asked = [one.draw() for _ in range(2000)]
    assert asked == [same.draw() for _ in range(2000)]
    assert asked != [other.draw() for _ in range(2000)]
    assert {ask.manner for ask in asked} == set(Manner)
    assert len({ask.number for ask in asked}) == 2000
    repeated = [ask for ask in asked if ask.manner is Manner.AGAIN]
    first = {ask.key: ask for ask in reversed(asked) if ask.number == ask.argument}
    assert all(ask.argument == first[ask.key].argument or ask.key in first for ask in repeated)

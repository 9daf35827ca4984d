"""Plans in files: the same plan comes back, and every mistake is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aegisipc.chaos.sim.failures import plan_data
from aegisipc.chaos.sim.plan import expand
from aegisipc.chaos.sim.plan_files import BadPlan, plan_from_plain, read_plan
from aegisipc.chaos.sim.regressions import BadRegression, Regression, read_regression, remember


def test_every_plan_comes_back_as_it_was() -> None:
    for seed in range(300):
        plan = expand(seed)
        assert plan_from_plain(json.loads(json.dumps(plan.to_plain()))) == plan


def _with_call(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plain: plain["calls"][0].update(fields)


def _with_fault(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plain: plain["faults"][0].update(fields)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda plain: plain.pop("routers"), "routers"),
        (lambda plain: plain.update(routers="many"), "routers"),
        (lambda plain: plain.update(routers=0), "routers"),
        (lambda plain: plain.update(rooters=1), "rooters"),
        (lambda plain: plain.update(groups=[], workers=0), "nobody to call"),
        (lambda plain: plain.update(until_s=1e9), "until_s"),
        (lambda plain: plain.update(quarantined=["g1-9"]), "quarantined"),
        (_with_call(client="c-7"), "calls.0.client"),
        (_with_call(method="steal"), "calls.0.method"),
        (_with_call(service="shop"), "calls.0.service"),
        (_with_call(at_s=-1.0), "calls.0"),
        (_with_call(tiemout_s=3.0), "calls.0.tiemout_s"),
        (_with_fault(kind="meteor"), "faults.0.kind"),
        (_with_fault(victim="r-9"), "faults.0.victim"),
        (_with_fault(amount=float("inf")), "faults.0.amount"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(spoil: Callable[[dict[str, Any]], None], named: str) -> None:
    plain = plan_data(expand(1))
    spoil(plain)
    with pytest.raises(BadPlan, match=named):
        plan_from_plain(plain)


@pytest.mark.parametrize("text", ["", "[1, 2", "\xff", "null", "[]", "3"])
def test_a_file_without_a_plan_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadPlan, match=r"plan\.json"):
        read_plan(path)


def test_a_regression_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "seeds" / "late.json"
    regression = Regression(expand(4), "a late ack was taken for another", ("G3",))
    remember(regression, path)
    assert read_regression(path) == regression
    with pytest.raises(BadRegression, match="another name"):
        remember(regression, path)
    with pytest.raises(BadRegression, match="which defect"):
        remember(Regression(expand(4), " "), tmp_path / "other.json")


def test_a_regression_by_seed_is_what_the_seed_expands_to(tmp_path: Path) -> None:
    path = tmp_path / "late.json"
    path.write_text('{"seed": 4, "because": "a late ack was taken for another"}')
    assert read_regression(path).plan == expand(4)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"seed": 4}',
        '{"because": "it was so"}',
        '{"because": "it was so", "seed": "4"}',
        '{"because": "it was so", "seed": 4, "plan": {}}',
        '{"because": "it was so", "seed": 4, "broke": "G3"}',
        '{"because": "it was so", "sede": 4}',
    ],
)
def test_a_file_that_is_no_regression_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "late.json"
    path.write_text(text)
    with pytest.raises(BadRegression, match=r"late\.json"):
        read_regression(path)

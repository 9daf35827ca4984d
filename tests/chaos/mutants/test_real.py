"""Defects in real processes, with a real server, are found, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegisipc.chaos.mutants import MUTANTS, UnknownMutant
from aegisipc.chaos.mutants.real import REAL, forked_with
from aegisipc.chaos.real import roles
from aegisipc.chaos.real.running import run_scenario
from aegisipc.chaos.real.scenarios import SCENARIOS
from aegisipc.chaos.real.zygote import Zygote

QUICK = ("skip-the-claim", "apply-own-events-twice")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
async def test_a_defect_in_real_processes_is_caught(name: str, tmp_path: Path) -> None:
    role, scenario, duration_s = REAL[name]
    with forked_with(name, (role,)):
        done = await run_scenario(
            SCENARIOS[scenario],
            seed=1,
            duration_s=duration_s,
            keep_in=tmp_path,
            tell=lambda _: None,
            read_s=1.0,
        )
    assert set(done.run.judgement.broken) & set(MUTANTS[name].expected), done.run.judgement.broken


def test_where_real_processes_show_it_exists() -> None:
    assert set(REAL) <= set(MUTANTS)
    assert {trial.scenario for trial in REAL.values()} <= set(SCENARIOS)
    for trial in REAL.values():
        assert callable(getattr(roles, trial.role))


def test_forking_is_as_before_afterwards() -> None:
    before = Zygote.fork
    with forked_with("skip-the-fence"):
        assert Zygote.fork is not before
    assert Zygote.fork is before
    with pytest.raises(UnknownMutant), forked_with("nothing"):
        pass
    assert Zygote.fork is before

"""One run after another in one process: the same as each alone, and nothing of them stays."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from aegisipc.chaos.checking import INVARIANTS
from aegisipc.chaos.history import from_line
from aegisipc.chaos.sim import running
from aegisipc.chaos.sim.cast import NAMESPACE
from aegisipc.chaos.sim.failures import keep
from aegisipc.chaos.sim.plan import Plan, expand
from aegisipc.chaos.sim.plan_files import read_plan
from aegisipc.chaos.sim.running import CRASHED, Runner, SimulationCrashed
from aegisipc.chaos.sim.simulation import Result
from aegisipc.eventstore.replay.bundles import open_bundle, verify

_SEEDS = (3, 11)
_TRACES = """
import json, sys
from aegisipc.chaos.sim.plan import expand
from aegisipc.chaos.sim.running import Runner
with Runner() as runner:
    print(json.dumps([runner.run(expand(int(seed))).trace for seed in sys.argv[1:]]))
"""


def _trace_alone(*seeds: int, hash_seed: str = "0") -> list[str]:
    """The traces of seeds, run in an interpreter of their own."""
    done = subprocess.run(
        [sys.executable, "-c", _TRACES, *map(str, seeds)],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    traces: list[str] = json.loads(done.stdout)
    return traces


def test_a_seed_is_the_same_run_in_any_process_and_after_any_others() -> None:
    alone = _trace_alone(*_SEEDS, hash_seed="1")
    others = _trace_alone(*range(20, 25), *reversed(_SEEDS), hash_seed="4242")
    assert others[-2:] == list(reversed(alone))
    with Runner() as runner:
        here = [runner.run(expand(seed)).trace for seed in _SEEDS]
    assert here == alone


def test_nothing_of_a_run_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "COLLECT_EVERY", 2)
    sizes = []
    with Runner() as runner:
        for _ in range(3):
            for _ in range(2):
                runner.run(expand(1))
            sizes.append(len(gc.get_objects()))
    first, *later = sizes
    assert max(later) < first + 2000, sizes  # a run makes more than that, each time


def test_what_was_set_for_the_runs_is_as_it_was_afterwards() -> None:
    before = structlog.get_config(), logging.root.manager.disable, sys.unraisablehook, gc.isenabled()
    with Runner() as runner:
        assert not gc.isenabled()
        runner.run(expand(1))
    after = structlog.get_config(), logging.root.manager.disable, sys.unraisablehook, gc.isenabled()
    assert after == before


def test_every_invariant_is_looked_at() -> None:
    with Runner() as runner:
        result = runner.run(expand(1))
    assert len(result.judgement.verdicts) == len(INVARIANTS)
    assert result.events > 100


def test_a_simulation_that_crashes_is_a_failure_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(plan: Plan) -> Result:
        raise KeyError("no such thing")

    monkeypatch.setattr(running, "simulate", crash)
    with Runner() as runner:
        brief = runner.brief(expand(5))
        with pytest.raises(SimulationCrashed):
            runner.run(expand(5))
    assert brief.broken == (CRASHED,)
    assert "no such thing" in brief.findings[0].text
    assert brief.to_plain()["seed"] == 5


def test_what_is_kept_of_a_run_can_be_read_again(tmp_path: Path) -> None:
    plan = expand(1)
    with Runner() as runner:
        result = runner.run(plan)
    kept = keep(result, tmp_path / "kept")
    assert read_plan(kept.plan) == plan
    entries = [from_line(line) for line in kept.history.read_bytes().splitlines()]
    assert len(entries) >= len(result.evidence.operations) > 0
    assert json.loads(kept.verdicts.read_bytes())["trace"] == result.trace
    assert kept.bundle is not None
    summary = verify(kept.bundle)
    assert summary.ending.records == len(result.records)
    assert summary.ending.pulses > 0
    assert open_bundle(kept.bundle).subjects.namespace == NAMESPACE
    assert keep(result, tmp_path / "kept") == kept  # once more, in its place

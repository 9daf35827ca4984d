"""Many seeds in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from aegisipc.chaos.sim import workers
from aegisipc.chaos.sim.workers import CHUNK, Summary, WorkerLost, run_many


def test_seeds_are_told_as_they_are_run_and_nobody_is_left() -> None:
    told: list[int] = []
    summary = run_many(40, 4, jobs=2, told=lambda each: told.append(each.schedules))
    assert told == [1, 2, 3, 4]
    assert (summary.first_seed, summary.schedules) == (40, 4)
    assert len(summary.trace) == 16
    assert set(summary.to_plain()) >= {
        "schedules",
        "events",
        "violations",
        "per_minute",
        "seconds",
        "failures",
    }
    assert multiprocessing.active_children() == []


def test_nothing_is_begun_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHUNK", 1)
    summary = run_many(0, 10_000, jobs=1, budget_s=0.001)
    assert summary.schedules < 10_000
    assert multiprocessing.active_children() == []


def test_a_worker_that_dies_is_an_error_that_names_the_seed() -> None:
    def kill(_: Summary) -> None:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(WorkerLost, match="--seed") as lost:
        run_many(0, CHUNK, jobs=1, told=kill)
    assert lost.value.exitcode == -signal.SIGKILL
    assert 0 < lost.value.seed < CHUNK
    assert multiprocessing.active_children() == []

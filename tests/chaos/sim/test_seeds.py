"""Schedules of faults, as many as the budget says, side by side on all cores.

``AEGIS_CHAOS_SEEDS`` is how many, ``AEGIS_CHAOS_FIRST_SEED`` the first of them.
"""

from __future__ import annotations

import os

import pytest

from aegisipc.chaos.sim.workers import run_many

SEEDS = int(os.environ.get("AEGIS_CHAOS_SEEDS") or 40)
FIRST_SEED = int(os.environ.get("AEGIS_CHAOS_FIRST_SEED") or 0)


@pytest.mark.timeout(120 + SEEDS)
def test_no_schedule_breaks_a_promise() -> None:
    summary = run_many(FIRST_SEED, SEEDS)
    told = [
        f"seed {failure.seed} broke {', '.join(failure.broken)}: {failure.findings[0].text}"
        for failure in summary.failures[:5]
    ]
    assert not summary.failures, (
        f"{len(summary.failures)} of {summary.schedules} schedules broke something; look into it with "
        "aegis chaos sim --seed N:\n" + "\n".join(told)
    )
    assert summary.schedules == SEEDS
    assert summary.events >= 200 * SEEDS  # they are not idle

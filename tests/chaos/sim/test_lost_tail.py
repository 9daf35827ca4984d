"""Without fsync a loss of power may take the end of the log: calls are lost then, but everybody notices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aegisipc.chaos.sim.plan import Break, FaultPlan, Plan, expand
from aegisipc.chaos.sim.running import Runner

SEEDS = (1, 3, 4, 8, 9, 11)
KEPT = ("G4", "G8", "epochs", "unhandled")
"""What holds even so. What was acknowledged and not synced is gone, and with it all that G1 to G3 promise."""


def without_fsync(seed: int) -> Plan:
    """A plan with owned groups whose server loses its power in the middle."""
    plan = expand(seed)
    loss = FaultPlan(plan.until_s / 2, Break.SERVER_POWER, "server", 0.3)
    owned = tuple(call for call in plan.calls if call.resource is not None)
    return replace(plan, syncs=False, workers=0, calls=owned, faults=(loss,), orders=())


@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_notices_that_the_log_is_another_one(seed: int) -> None:
    with Runner() as runner:
        result = runner.run(without_fsync(seed))
    judgement = result.judgement
    assert not set(judgement.broken) & set(KEPT), [v for v in judgement.verdicts if not v.holds]
    assert all(probe.serves for probe in result.evidence.probes if probe.role != "system")

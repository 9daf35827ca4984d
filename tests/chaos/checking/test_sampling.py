"""The sizes of what simulated processes hold are looked at, and their limits are those of production."""

from __future__ import annotations

import asyncio

import pytest

from aegisipc.chaos.sim import simulation
from aegisipc.chaos.sim.aftermath import Aftermath
from aegisipc.chaos.sim.plan import expand
from aegisipc.chaos.sim.running import Runner
from aegisipc.chaos.sim.sampling import watched
from aegisipc.chaos.sim.services import SERVICES
from aegisipc.chaos.sim.world import World


async def _watched_run(world: World) -> None:
    await world.begin()
    with watched(world):
        await asyncio.sleep(world.plan.until_s)
        await world.heal()
        await Aftermath(world).run()


def test_each_process_tells_its_sizes_with_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_run", _watched_run)
    plan = next(plan for plan in map(expand, range(100)) if plan.groups and plan.workers)
    with Runner() as runner:
        evidence = runner.run(plan).evidence
    tables = {sample.process: sample.tables for sample in evidence.samples}
    backlog = 2 * SERVICES["book"].max_backlog
    for name, group in plan.instances:
        assert any(table.startswith("running/") for table in tables[name]), name
        assert (f"waiting/{backlog}" in tables[name]) is (group is not None)
    assert any("sessions/" in table for table in tables["r-1"])
    sizes = [(table, size) for held in tables.values() for table, size in held.items()]
    assert any(size for table, size in sizes if "/" in table)
    for table, size in sizes:
        limit = table.rpartition("/")[2]
        assert not limit.isdigit() or size <= int(limit), (table, size)

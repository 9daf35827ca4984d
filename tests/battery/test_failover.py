"""Exactly once with standbys, at moments that chance chooses.

``AEGIS_BATTERY_ROUNDS`` says how often (default 1). The first round is for instances of owned groups; each
further one is for everybody, in owned groups and in pools: 80 scenarios, about two minutes. Chance is seeded
by the round and the scenario, so a choice can be made again, though not the timing of the processes:

    AEGIS_BATTERY_ROUNDS=10 pytest tests/battery/test_failover.py
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

import pytest

from aegisipc.chaos.real.zygote import Zygote
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.battery.plan import Case, cases, name, play_by_chance
from tests.battery.scene import Role

ROUNDS: Final = int(os.environ.get("AEGIS_BATTERY_ROUNDS") or 1)
_OTHERS: Final = [Role.CLIENT, Role.INSTANCE, Role.ROUTER]


def plan(roles: list[Role], first: list[Case]) -> list[tuple[int, Case]]:
    """Which scenarios are played in which rounds."""
    everything = cases(roles) + cases(roles, pool=True)
    later = [(number, case) for number in range(2, ROUNDS + 1) for case in everything]
    return [(1, case) for case in first] + later


def shown(found: tuple[int, Case]) -> str:
    number, case = found
    return f"{number}-{'pool-' if case.pool else ''}{name(case)}"


@pytest.mark.parametrize("found", plan(_OTHERS, cases([Role.INSTANCE])), ids=shown)
async def test_exactly_one_effect_or_a_doubt(
    found: tuple[int, Case], shared_server: EmbeddedServer, zygote: Zygote, tmp_path: Path
) -> None:
    await play_by_chance(found[1], shared_server, zygote, tmp_path, random.Random(shown(found)))


@pytest.mark.skipif(ROUNDS < 2, reason="only in further rounds: set AEGIS_BATTERY_ROUNDS")
@pytest.mark.parametrize("found", plan([Role.SERVER], []), ids=shown)
async def test_exactly_one_effect_when_the_server_dies(
    found: tuple[int, Case], zygote: Zygote, tmp_path: Path
) -> None:
    async with EmbeddedServer(tmp_path / "nats") as server:
        await play_by_chance(found[1], server, zygote, tmp_path, random.Random(shown(found)))

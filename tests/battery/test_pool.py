"""Exactly once in a pool, where many may write and no fence stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegisipc.chaos.real.zygote import Zygote
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.battery.plan import Case, cases, name, play
from tests.battery.scene import Role


@pytest.mark.parametrize("case", cases([Role.INSTANCE], pool=True), ids=name)
async def test_exactly_one_effect_or_a_doubt(
    case: Case, shared_server: EmbeddedServer, zygote: Zygote, tmp_path: Path
) -> None:
    await play(case, shared_server, zygote, tmp_path)


@pytest.mark.parametrize("case", cases([Role.SERVER], pool=True), ids=name)
async def test_exactly_one_effect_when_the_server_dies(case: Case, zygote: Zygote, tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "nats") as server:
        await play(case, server, zygote, tmp_path)

"""Scenarios: somebody dies at a point of a call, comes back, and the verdict is exactly one effect.

Everything is as in production: processes that are killed with SIGKILL and started again, a router, a server.
Nothing in them knows of the battery. The points are reached from outside: a proxy keeps back the message that
would lead beyond, or a handler waits for a file. A client that comes back knows nothing, and asks again with
the same idempotency key; the others resume from the log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

from aegisipc.chaos.real.zygote import Zygote
from aegisipc.eventstore.frames import Mark
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.battery.judging import complaints
from tests.battery.points import Point, Reaching
from tests.battery.scene import Role, Scene, a_scene

POINTS: Final = [point for point in Point if point is not Point.CLAIMING]
DEEDS: Final = ("once", "transactional")
_LATEST_S: Final = 0.05


class Case(NamedTuple):
    """Who dies when, while which method is called."""

    role: Role
    point: Point
    deed: str
    pool: bool = False

    @property
    def expected(self) -> tuple[Mark, int]:
        """The outcome and the number of effects: a claim without an outcome is in doubt when its holder is
        gone, and nothing else is.
        """
        is_claimed = self.point in (Point.CLAIMED, Point.EFFECT)
        if self.role is Role.INSTANCE and self.deed == "once" and is_claimed:
            return Mark.IN_DOUBT, int(self.point is Point.EFFECT)
        return Mark.SUCCEEDED, 1

    @property
    def owns_what_is_held(self) -> bool:
        """Whether the connection that is kept from going on ends with who dies."""
        is_client = self.point in (Point.BEFORE_APPEND, Point.APPENDED)
        return self.role in (Role.SERVER, Role.CLIENT if is_client else Role.INSTANCE)


def cases(roles: Iterable[Role], *, pool: bool = False) -> list[Case]:
    """All that these roles can do."""
    return [Case(role, point, deed, pool) for role, point, deed in product(roles, POINTS, DEEDS)]


def name(case: Case) -> str:
    """Return how a scenario is called in a test's name."""
    return f"{case.deed}-{case.role}-{case.point}".replace(" ", "_")


async def play(case: Case, server: EmbeddedServer, zygote: Zygote, folder: Path) -> None:
    """Kill, lose what was on its way, restart; and judge."""
    key = "k1" if case.role is Role.CLIENT else None  # so a caller who forgot everything can ask again
    async with a_scene(server, zygote, folder, deed=case.deed, pool=case.pool, key=key) as scene:
        await strike(scene, case)
        mark, effects = await verdict(scene, case)
        assert (mark, effects) == case.expected


async def strike(scene: Scene, case: Case) -> None:
    """Bring the call to its point, and have that role die there and come back."""
    reaching = Reaching(scene, case.point)
    scene.start_client()
    await reaching.reached()
    await scene.kill(case.role)
    reaching.drop()
    await scene.restart(case.role)


async def play_by_chance(
    case: Case, server: EmbeddedServer, zygote: Zygote, folder: Path, chance: random.Random
) -> None:
    """The same with standbys, and at any moment after the point: what was on its way may come through, or
    not. Of instances and routers the standby goes on, and the dead one stays dead.

    Nobody's connection is lost but those of who dies: a standby would take over from one who lives.
    """
    key = "k1" if case.role is Role.CLIENT else None
    options = {"deed": case.deed, "pool": case.pool, "key": key}
    async with a_scene(server, zygote, folder, standby=True, **options) as scene:  # type: ignore[arg-type]
        reaching = Reaching(scene, case.point)
        scene.start_client()
        await reaching.reached()
        if not case.owns_what_is_held or chance.random() < 0.5:
            reaching.release()
            await asyncio.sleep(chance.random() * _LATEST_S)
        await scene.kill(case.role)
        reaching.drop()
        if case.role in (Role.CLIENT, Role.SERVER):
            await scene.restart(case.role)
        mark, effects = await verdict(scene, case)
        assert effects == 1 or mark is Mark.IN_DOUBT


async def verdict(scene: Scene, case: Case) -> tuple[Mark, int]:
    """Fail if anything is wrong; return the outcome, and how often it took effect."""
    told = await scene.told()
    counted, effects = await scene.count(), scene.effects()
    may_doubt = case.role is Role.INSTANCE and case.deed == "once"
    wrong = complaints(effects, counted, told, may_doubt=may_doubt)
    assert not wrong, "\n".join([*wrong, *map(str, effects), *map(str, told), scene.everything_said()])
    (mark,) = {o[0].mark for o in counted.outcomes.values()} - {Mark.DUPLICATE}
    return mark, len(effects)

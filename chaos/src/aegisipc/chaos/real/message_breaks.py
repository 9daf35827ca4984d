"""Somebody sends what nobody should, to groups, clients, instances and routers that exist."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aegisipc.chaos.nemeses.hostile import Target, shots
from aegisipc.chaos.nemeses.raw_client import Sent, send
from aegisipc.chaos.real.members import Role
from aegisipc.chaos.real.plans import Step
from aegisipc.chaos.real.scene import NAMESPACE, Scene
from aegisipc.chaos.real.striking import Break
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of


@asynccontextmanager
async def _molested(scene: Scene, step: Step) -> AsyncIterator[None]:
    service, group = scene.shape.instances[step.victim]
    callers = scene.of(Role.CLIENT)
    target = Target(subjects_of(NAMESPACE), service, group or POOL_GROUP, f"{callers[0].name}-0", step.victim)
    chance = random.Random(step.options["seed"])  # noqa: S311 - no secret: it is to be repeated
    per_s = float(step.options["per_s"])
    made = shots(target, chance, int(per_s * step.for_s))
    sending: asyncio.Task[Sent] = asyncio.create_task(send(scene.url, made, per_s=per_s))
    with scene.fault("hostile messages", step.victim, f"{per_s:g}/s to {service}"):
        try:
            yield
            await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


MESSAGE_BREAKS: Final[dict[str, Break]] = {"hostile": _molested}
"""Everything that a step can do with messages, by its name."""

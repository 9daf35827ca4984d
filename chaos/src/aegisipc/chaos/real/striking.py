"""Carrying out a plan: each step breaks something, waits, and heals it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from aegisipc.chaos.nemeses.cluster import Cluster
from aegisipc.chaos.real.crashing import Point, order
from aegisipc.chaos.real.members import Member, orders_for
from aegisipc.chaos.real.plans import Step
from aegisipc.chaos.real.scene import NotReady, Scene
from aegisipc.router.infrastructure.embedded import EmbeddedServer

type Break = Callable[[Scene, Step], AbstractAsyncContextManager[None]]
"""Entered, it breaks; left, it heals."""

START_S: Final = 120.0
"""A server may take so long to start: with a long log, on a machine that does other things, too."""
_AT_POINT_S: Final = 3.0
_POLL_S: Final = 0.01


async def strike_all(scene: Scene, plan: Sequence[Step], breaks: dict[str, Break], duration_s: float) -> None:
    """Take the steps of a plan, each at its time; returns when all is healed, not before `duration_s`."""
    began_s = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as striking:
        for step in plan:
            striking.create_task(_strike(scene, step, breaks[step.fault], began_s))
        striking.create_task(asyncio.sleep(duration_s))


async def _strike(scene: Scene, step: Step, broken: Break, began_s: float) -> None:
    await asyncio.sleep(max(0.0, began_s + step.at_s - asyncio.get_running_loop().time()))
    is_server = step.victim.startswith("server")  # of a cluster one at a time: two are its majority
    async with scene.lock("servers" if is_server else step.victim), broken(scene, step):
        await asyncio.sleep(step.for_s)


async def _is_up(scene: Scene, member: Member) -> None:
    """Wait until a process is ready, so that it is not broken before it was. While other things are broken
    that may take long: whether it came up at all is seen after the end of all faults.
    """
    with suppress(NotReady):
        await scene.ready(member)


@asynccontextmanager
async def killed(scene: Scene, step: Step) -> AsyncIterator[None]:
    """SIGKILL of a process; then it is started again, as whoever supervises it would."""
    member = scene.members[step.victim]
    with scene.fault("kill", member.name):
        member.kill()
        yield
        scene.start(member)
    await _is_up(scene, member)


@asynccontextmanager
async def frozen(scene: Scene, step: Step) -> AsyncIterator[None]:
    """SIGSTOP of a process, and SIGCONT."""
    member = scene.members[step.victim]
    with scene.fault("freeze", member.name):
        member.freeze()
        try:
            yield
        finally:
            member.thaw()


def server_of(scene: Scene, step: Step) -> EmbeddedServer:
    """Return the server that a step means: ``server1`` is the first."""
    return scene.servers[int(step.victim.removeprefix("server")) - 1]


async def _is_back(scene: Scene, server: EmbeddedServer) -> None:
    """Return when a server can do without any other."""
    await server.wait_healthy(START_S)
    if len(scene.servers) > 1:
        await Cluster(scene.servers).wait_current(START_S)


@asynccontextmanager
async def server_killed(scene: Scene, step: Step) -> AsyncIterator[None]:
    """SIGKILL of a server, and a new start on the same data."""
    server = server_of(scene, step)
    with scene.fault("kill", step.victim):
        try:
            await server.kill()
            yield
        finally:
            await server.start(START_S, wait_healthy=False)
    await _is_back(scene, server)


@asynccontextmanager
async def server_restarted(scene: Scene, step: Step) -> AsyncIterator[None]:
    """A server ends in order (SIGTERM), and starts again."""
    server = server_of(scene, step)
    with scene.fault("restart", step.victim):
        try:
            await server.stop()
            yield
        finally:
            await server.start(START_S, wait_healthy=False)
    await _is_back(scene, server)


@asynccontextmanager
async def server_frozen(scene: Scene, step: Step) -> AsyncIterator[None]:
    """SIGSTOP of a server, and SIGCONT."""
    server = server_of(scene, step)
    with scene.fault("freeze", step.victim):
        server.freeze()
        try:
            yield
        finally:
            server.thaw()


@asynccontextmanager
async def crashed(scene: Scene, step: Step) -> AsyncIterator[None]:
    """A process is told to kill itself at a named point; if it does not come there in time, it is killed
    where it is. Then it is started again.
    """
    member = scene.members[step.victim]
    point = Point(step.options["point"])
    pid = member.pid
    if pid is None:  # it found no server, and is about to be started again
        yield
        return
    member.is_wanted = False
    order(orders_for(scene.histories, member.name), point, pid, answered=step.options["answered"])
    give_up_at = asyncio.get_running_loop().time() + _AT_POINT_S
    while member.child is not None and member.child.is_alive:
        if asyncio.get_running_loop().time() > give_up_at:
            break
        await asyncio.sleep(_POLL_S)
    is_there = member.pid is None
    with scene.fault("crash", member.name, point if is_there else f"it did not come to {point!r} in time"):
        member.kill()
        yield
        scene.start(member)
    await _is_up(scene, member)


PROCESS_BREAKS: Final[dict[str, Break]] = {
    "kill": killed,
    "freeze": frozen,
    "crash": crashed,
    "kill-server": server_killed,
    "restart-server": server_restarted,
    "freeze-server": server_frozen,
}
"""Everything that a step can do to a process, by its name."""

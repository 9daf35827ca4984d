"""Breaking what a server stands on: its disk, its version; and the clocks of the processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aegisipc.chaos.nemeses.disks import FaultySync
from aegisipc.chaos.real.plans import Step
from aegisipc.chaos.real.scene import NotReady, Scene
from aegisipc.chaos.real.striking import START_S, Break, server_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer


@asynccontextmanager
async def _slow_fsync(scene: Scene, step: Step) -> AsyncIterator[None]:
    delay_s = float(step.options["delay_s"])
    with scene.fault("slow fsync", step.victim, f"{delay_s * 1000:g} ms each"):
        async with FaultySync(server_of(scene, step).pid, delay_s=delay_s):
            yield


@asynccontextmanager
async def _failing_fsync(scene: Scene, step: Step) -> AsyncIterator[None]:
    """A server whose disk failed does not trust it any more until it is started again."""
    server = server_of(scene, step)
    with scene.fault("failing fsync", step.victim, "EIO"):
        try:
            async with FaultySync(server.pid, fails_with="EIO", every=int(step.options["every"])):
                yield
        finally:
            await _again(server)


@asynccontextmanager
async def _full_disk(scene: Scene, step: Step) -> AsyncIterator[None]:
    if scene.disk is None:
        raise NotReady("cannot fill the disk: the server has none of its own", who=step.victim)
    with scene.fault("disk full", step.victim):
        await scene.disk.fill(int(step.options.get("leave_bytes", 0)))
        try:
            yield
        finally:
            scene.disk.free()
            await _again(server_of(scene, step))


async def _again(server: EmbeddedServer) -> None:
    """Start a server anew, as an operator would."""
    await server.kill()
    await server.start(START_S)


@asynccontextmanager
async def _upgraded(scene: Scene, step: Step) -> AsyncIterator[None]:
    """The old server ends, and the installed one starts on its data; that is for good."""
    server = server_of(scene, step)
    with scene.fault("upgrade", step.victim, f"from nats-server {scene.shape.server}"):
        await server.stop()
        server.binary = None
        yield
        await server.start(START_S)


@asynccontextmanager
async def _skewed(scene: Scene, step: Step) -> AsyncIterator[None]:
    clock, offset_s = scene.clocks[step.victim], float(step.options["offset_s"])
    with scene.fault("clock skew", step.victim, f"{offset_s:+g} s"):
        clock.set(offset_s, float(step.options.get("drift", 0.0)))
        try:
            yield
        finally:
            clock.set(0.0)


SERVER_BREAKS: Final[dict[str, Break]] = {
    "slow-fsync": _slow_fsync,
    "failing-fsync": _failing_fsync,
    "disk-full": _full_disk,
    "upgrade": _upgraded,
    "skew": _skewed,
}
"""Everything that a step can do to what is below, by its name."""

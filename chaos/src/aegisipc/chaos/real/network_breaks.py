"""Breaking the way between one process and the servers: through its proxy, or its network namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aegisipc.chaos.nemeses.network import FaultyProxy
from aegisipc.chaos.nemeses.rules import Towards
from aegisipc.chaos.real.plans import Step
from aegisipc.chaos.real.scene import Scene
from aegisipc.chaos.real.striking import Break

_ROUTES: Final = "routes"
"""Of two who change routing rules, the second waits."""

type _Do = Callable[[FaultyProxy, dict[str, Any]], object]


def _towards(options: dict[str, Any]) -> Towards:
    return Towards(options.get("towards", "server"))


def _deliver(proxy: FaultyProxy, options: dict[str, Any]) -> None:
    proxy.duplicate(options.get("duplicate", 0.0), options.get("by_s", 0.0))
    proxy.late(options.get("late", 0.0), options.get("by_s", 0.0))
    proxy.reorder(options.get("reorder", 0.0))
    proxy.drop(options.get("drop", 0.0))


def _through_proxy(name: str, do: _Do) -> Break:
    @asynccontextmanager
    async def broken(scene: Scene, step: Step) -> AsyncIterator[None]:
        proxy = scene.proxies[step.victim]
        detail = ", ".join(f"{key}={value}" for key, value in sorted(step.options.items()))
        with scene.fault(name, step.victim, detail):
            do(proxy, step.options)
            try:
                yield
            finally:
                await proxy.pass_all()

    return broken


@asynccontextmanager
async def _isolated(scene: Scene, step: Step) -> AsyncIterator[None]:
    """Packets of a process in a namespace of its own are lost."""
    if scene.network is None:
        raise LookupError("this scene has no namespaces")
    with scene.fault("isolate", step.victim, "blackhole routes"):
        async with scene.lock(_ROUTES):
            await scene.network.isolate(step.victim)
        try:
            yield
        finally:
            async with scene.lock(_ROUTES):
                await scene.network.heal(step.victim)


NETWORK_BREAKS: Final[dict[str, Break]] = {
    "partition": _through_proxy(
        "partition", lambda proxy, o: proxy.partition(is_lossy=o.get("lossy", False))
    ),
    "one-way": _through_proxy(
        "one-way loss", lambda proxy, o: proxy.one_way(_towards(o), is_lossy=o.get("lossy", False))
    ),
    "half-open": _through_proxy("half-open", lambda proxy, o: proxy.half_open(_towards(o))),
    "delay": _through_proxy("delay", lambda proxy, o: proxy.delay(o["mean_s"], o.get("jitter_s", 0.0))),
    "reset": _through_proxy("reset", lambda proxy, _: proxy.reset()),
    "reset-mid-frame": _through_proxy(
        "reset in a frame", lambda proxy, o: proxy.reset_mid_frame(_towards(o))
    ),
    "deliver": _through_proxy("delivery", _deliver),
    "isolate": _isolated,
}
"""Everything that a step can do to a network, by its name."""

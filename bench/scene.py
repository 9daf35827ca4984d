"""What `aegis bench failover` needs: a server, a router, and two instances of a group, one of them to be
killed.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from bench.relay import Relayed
from bench.stage import AEGIS, ChildFailed, child

_INSTANCES: Final = 2
_SYSTEM_URL: Final = "AEGIS_SYSTEM_URL"


class Plan(NamedTuple):
    """What to measure. ``rate`` is calls per second; ``effect`` names the method that is called."""

    kills: int
    rate: float
    effect: str = "idempotent"
    system_account: bool = True
    pulse_ms: int = 250
    suspect_after_ms: int = 1000
    fsync: bool = True


class Kill(NamedTuple):
    """One ``kill -9``: who, in which epoch, and when: on the host's clock, which is the server's, too (Unix
    nanoseconds), and on this process's (``time.perf_counter()``).
    """

    victim: str
    epoch: int
    at_ns: int
    at_s: float


class Scene:
    """Two instances that run, as far as nobody is killed."""

    def __init__(self, plan: Plan, url: str, folder: Path, stack: AsyncExitStack) -> None:
        self.url = url
        self._plan = plan
        self._folder = folder
        self._stack = stack
        self._running: dict[str, ChildProcess] = {}
        self._names: Iterator[str] = (f"relay-{number}" for number in itertools.count(1))
        self.run_files: list[Path] = []
        """Where the instances wrote which calls they began."""

    async def complete(self) -> None:
        """Start instances until there are two; returns when they are ready.

        Raises:
            ChildFailed: one did not get ready.
        """
        while len(self._running) < _INSTANCES:
            name = next(self._names)
            self.run_files.append(self._folder / f"{name}.runs")
            argv = [sys.executable, "-m", "bench.relay", "--url", self.url, "--instance", name]
            argv += ["--runs", str(self.run_files[-1]), "--pulse-ms", str(self._plan.pulse_ms)]
            started = child(name, argv, self._folder / f"{name}.log")
            self._running[name] = await self._stack.enter_async_context(started)

    def kill(self, active: Relayed) -> Kill:
        """Kill the active instance: it gets no chance to do anything any more.

        Raises:
            ChildFailed: it does not run.
        """
        process = self._running.pop(active.instance, None)
        if process is None or not process.is_running:
            raise ChildFailed(f"cannot kill {active.instance}: it has ended by itself")
        at_ns, at_s = time.time_ns(), time.perf_counter()
        os.kill(process.pid, signal.SIGKILL)
        return Kill(active.instance, active.epoch, at_ns, at_s)


@asynccontextmanager
async def scene(plan: Plan) -> AsyncIterator[Scene]:
    """Start server and router; every process that was started, by anybody here, has ended at the end."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as made:
        folder = Path(made)
        async with EmbeddedServer(folder / "server", fsync=plan.fsync) as server, AsyncExitStack() as stack:
            argv = (*AEGIS, "router", *_router_words(plan, server))
            env = _router_environment(plan, server)
            await stack.enter_async_context(child("router", argv, folder / "router.log", env))
            yield Scene(plan, server.url, folder, stack)


def _router_environment(plan: Plan, server: EmbeddedServer) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != _SYSTEM_URL}
    return env | ({_SYSTEM_URL: server.system_url} if plan.system_account else {})


def _router_words(plan: Plan, server: EmbeddedServer) -> list[str]:
    words = ["--url", server.url, "--suspect-after-ms", str(plan.suspect_after_ms)]
    return [*words, "--lost-after-ms", str(max(3000, 3 * plan.suspect_after_ms))]

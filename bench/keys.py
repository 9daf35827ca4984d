"""What idempotency keys cost: time per call, and memory of each process as keys gather.

Rounds of calls with distinct keys are interleaved with rounds of calls without, on the same server, so that a
noisy moment hits both. Afterwards keys of every age are used again: each has to give the first call's result,
and nothing may run; then the service is killed with -9 and started anew, and they are used once more.
"""

from __future__ import annotations

import random
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.cli.output import print_json, table
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client, connect
from bench.processes import memory_mib
from bench.rounds import Round, run_round
from bench.stage import AEGIS, child

_ROUNDS: Final = 20
_REUSED: Final = 200
"""Keys, of every age, that are used a second time."""


class Plan(NamedTuple):
    """How many keys, and with how many calls in flight; ``pool``: to a pool instead of a group with a pen."""

    keys: int
    concurrency: int
    pool: bool
    fsync: bool


class Site:
    """The processes of the measurement."""

    def __init__(self, plan: Plan, server: EmbeddedServer, folder: Path, stack: AsyncExitStack) -> None:
        self.url = server.url
        self._pool = plan.pool
        self._server, self._folder, self._stack = server, folder, stack
        self._children: dict[str, ChildProcess] = {}

    async def start_router(self) -> None:
        """Start a router."""
        argv = (*AEGIS, "router", "--url", self.url)
        self._children["router"] = await self._stack.enter_async_context(
            child("router", argv, self._folder / "router.log")
        )

    async def start_service(self) -> float:
        """Start the service; returns after how many seconds it takes calls."""
        began = time.perf_counter()
        argv = [*AEGIS, "serve", "bench.keyed:service", "--url", self.url, "--instance", "bench-1"]
        argv += [] if self._pool else ["--resource", "bench"]
        self._children["service"] = await self._stack.enter_async_context(
            child("service", argv, self._folder / f"service-{time.time_ns()}.log")
        )
        return time.perf_counter() - began

    async def kill_service(self) -> None:
        """Kill the service with -9."""
        self._children["service"].send(signal.SIGKILL)
        await self._children["service"].wait(10)

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each process, in MiB."""
        pids = {name: process.pid for name, process in self._children.items()}
        pids["nats-server"] = self._server.pid
        return {name: round(memory_mib(pid), 1) for name, pid in sorted(pids.items())}


@asynccontextmanager
async def site(plan: Plan) -> AsyncIterator[Site]:
    """Run server, router and service; every process has ended at the end."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as made:
        folder = Path(made)
        async with EmbeddedServer(folder / "server", fsync=plan.fsync) as server, AsyncExitStack() as stack:
            running = Site(plan, server, folder, stack)
            await running.start_router()
            await running.start_service()
            yield running


async def report(plan: Plan, *, as_json: bool) -> int:
    """Measure and print; exit code 1 if a key was used twice with another result, or anything ran twice."""
    found = await measure(plan)
    if as_json:
        print_json(found)
    else:
        print(_shown(found))
    return 0 if found["wrong"] == 0 and found["ran_again"] == 0 else 1


async def measure(plan: Plan) -> dict[str, Any]:
    """Run the whole plan."""
    async with site(plan) as running, connect(running.url, name="bench", max_open=100_000) as client:
        started = await client.call("keyed.run", -1, returns=int)
        with_key, without, memory = await _fill(plan, running, client)
        numbers = random.Random(7).sample(range(plan.keys), min(_REUSED, plan.keys))  # noqa: S311 - which keys
        ran_before = await client.call("keyed.runs", returns=int)
        wrong, reused = await _reuse(client, numbers, plan.concurrency)
        ran_again = await client.call("keyed.runs", returns=int) - ran_before
        await running.kill_service()
        ready_s = await running.start_service()
        wrong_after, reused_after = await _reuse(client, numbers, plan.concurrency)
        ran_again += await client.call("keyed.runs", returns=int)
        memory.append({"keys": plan.keys, "restarted": True} | running.memory())
    return {
        "keys": plan.keys,
        "mode": "pool" if plan.pool else "owned",
        "fsync": plan.fsync,
        "concurrency": plan.concurrency,
        "with_key": _medians(with_key),
        "without_key": _medians(without),
        "first_round": _medians(with_key[:1]),
        "last_round": _medians(with_key[-1:]),
        "added_p50_ms": round(_medians(with_key)["p50_ms"] - _medians(without)["p50_ms"], 3),
        "rate_ratio": round(_medians(with_key)["per_s"] / _medians(without)["per_s"], 3),
        "memory_mib": memory,
        "reused": len(numbers),
        "reuse_p50_ms": reused,
        "reuse_p50_ms_after_restart": reused_after,
        "restart_s": round(ready_s, 2),
        "wrong": wrong + wrong_after,
        "ran_again": ran_again,
        "probe": started,
    }


async def _fill(
    plan: Plan, running: Site, client: Client
) -> tuple[list[Round], list[Round], list[dict[str, Any]]]:
    async def keyed(number: int) -> None:
        await client.call("keyed.run", number, returns=int, idempotency_key=f"key-{number}")

    async def plain(number: int) -> None:
        await client.call("keyed.run", number, returns=int)

    rounds = min(_ROUNDS, plan.keys)
    edges = [plan.keys * number // rounds for number in range(rounds + 1)]
    warm_up = min(2000, plan.keys)
    await run_round(plain, range(warm_up), plan.concurrency)
    with_key, without = [], []
    memory: list[dict[str, Any]] = [{"keys": 0} | running.memory()]
    for number, (first, end) in enumerate(pairwise(edges), 1):
        with_key.append(await run_round(keyed, range(first, end), plan.concurrency))
        without.append(
            await run_round(plain, range(first, first + max(1, (end - first) // 10)), plan.concurrency)
        )
        if number % max(1, rounds // 4) == 0:
            memory.append({"keys": end} | running.memory())
    return with_key, without, memory


async def _reuse(client: Client, numbers: list[int], concurrency: int) -> tuple[int, float]:
    """Use keys again; returns how many gave another result, and the median time in milliseconds."""
    wrong = 0

    async def again(number: int) -> None:
        nonlocal wrong
        result = await client.call("keyed.run", number, returns=int, idempotency_key=f"key-{number}")
        wrong += result != number

    found = await run_round(again, numbers, min(concurrency, 16))
    return wrong, round(found.p50_ms, 3)


def _medians(rounds: list[Round]) -> dict[str, float]:
    return Round(*(round(statistics.median(of), 3) for of in zip(*rounds, strict=True)))._asdict()


def _shown(found: dict[str, Any]) -> str:
    headers = ("", "calls/s", "p50 ms", "p99 ms")
    rows = [
        (name.replace("_", " "), f"{of['per_s']:,.0f}", f"{of['p50_ms']:.2f}", f"{of['p99_ms']:.2f}")
        for name, of in (
            (name, found[name]) for name in ("with_key", "without_key", "first_round", "last_round")
        )
    ]
    names = [name for name in found["memory_mib"][0] if name != "keys"]
    memory = [
        (
            f"{of['keys']:,}" + (" restarted" if of.get("restarted") else ""),
            *(f"{of[name]:,.0f}" for name in names),
        )
        for of in found["memory_mib"]
    ]
    return "\n".join(
        [
            table(headers, rows),
            "",
            table(("keys", *(f"{name} MiB" for name in names)), memory),
            "",
            _again(found),
        ]
    )


def _again(found: dict[str, Any]) -> str:
    return (
        f"{found['reused']} keys used again: {found['reuse_p50_ms']:.2f} ms (p50), "
        f"{found['reuse_p50_ms_after_restart']:.2f} ms after the service was killed and started anew "
        f"({found['restart_s']:.1f} s); wrong results {found['wrong']}, run again {found['ran_again']}"
    )

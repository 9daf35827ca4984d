"""Rounds of calls: so many workers, each making one call after the other."""

from __future__ import annotations

import time
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple


class Round(NamedTuple):
    """One round's figures; latencies in milliseconds."""

    per_s: float
    p50_ms: float
    p99_ms: float


async def run_round[T](call: Callable[[T], Awaitable[object]], turns: Iterable[T], concurrency: int) -> Round:
    """Make one call for each of `turns`, with so many in flight."""
    latencies: list[float] = []
    left = iter(turns)

    async def worker() -> None:
        for turn in left:
            began = time.perf_counter()
            await call(turn)
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    took = time.perf_counter() - began
    latencies.sort()
    middle, late = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    return Round(len(latencies) / took, middle * 1e3, late * 1e3)

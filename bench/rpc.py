"""Durable calls per second beside plain nats-py request/reply, in one run."""

from __future__ import annotations

import statistics
import time
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import nats

from aegisipc.eventstore.cli.output import print_json, table
from aegisipc.sdk import connect
from aegisipc.sdk.client import Client
from bench.stage import stage
from bench.workload import ECHO_SUBJECT, ORDER, Fill

EFFECTS = ("idempotent", "once")
_SINGLE_SHARE = 20
"""One at a time is slow: such rounds make this many times fewer calls."""


class Plan(NamedTuple):
    """What to measure. ``calls`` per round, ``rounds`` per figure."""

    concurrency: Sequence[int]
    calls: int
    rounds: int
    fsync: bool


class Round(NamedTuple):
    """One round's figures; latencies in milliseconds."""

    per_s: float
    p50_ms: float
    p99_ms: float


async def report(plan: Plan, *, as_json: bool) -> int:
    """Measure and print; one JSON line, or a table."""
    results = await measure(plan)
    if as_json:
        print_json({"results": results})
        return 0
    headers = ("in flight", "effect", "fsync", "calls/s", "p50 ms", "p99 ms", "plain/s", "plain p50", "ratio")
    rows = [
        (
            r["concurrency"],
            r["effect"],
            "yes" if r["fsync"] else "no",
            f"{r['calls_per_s']:,.0f}",
            f"{r['p50_ms']:.2f}",
            f"{r['p99_ms']:.2f}",
            f"{r['plain_calls_per_s']:,.0f}",
            f"{r['plain_p50_ms']:.2f}",
            f"{r['ratio']:.2f}",
        )
        for r in results
    ]
    print(table(headers, rows))
    return 0


async def measure(plan: Plan) -> list[dict[str, Any]]:
    """Run the whole plan; one dictionary per concurrency and effect."""
    results = []
    async with stage(fsync=plan.fsync) as url:
        plain = await nats.connect(url)
        try:
            async with connect(url, name="bench", max_open=100_000) as client:
                for concurrency in plan.concurrency:
                    results += await _figures(plan, client, plain, concurrency)
        finally:
            await plain.close()
    return results


async def _figures(plan: Plan, client: Client, plain: Any, concurrency: int) -> list[dict[str, Any]]:
    calls = max(concurrency, plan.calls if concurrency > 1 else plan.calls // _SINGLE_SHARE)
    payload = b"x" * 60

    async def echo() -> None:
        await plain.request(ECHO_SUBJECT, payload, timeout=30)

    def durable(effect: str) -> Callable[[], Awaitable[Any]]:
        target = f"bench.{effect}"
        return lambda: client.call(target, ORDER, returns=Fill, resource_id=None)

    kinds: dict[str, Callable[[], Awaitable[Any]]] = {"plain": echo} | {
        effect: durable(effect) for effect in EFFECTS
    }
    for call in kinds.values():
        await _round(call, concurrency, max(concurrency, calls // 10))  # warm up
    rounds: dict[str, list[Round]] = {kind: [] for kind in kinds}
    for _ in range(plan.rounds):  # interleaved, so that a noisy moment hits all of them
        for kind, call in kinds.items():
            rounds[kind].append(await _round(call, concurrency, calls))
    medians = {
        kind: Round(*map(statistics.median, zip(*found, strict=True))) for kind, found in rounds.items()
    }
    return [_figure(plan, concurrency, effect, medians[effect], medians["plain"]) for effect in EFFECTS]


def _figure(plan: Plan, concurrency: int, effect: str, ours: Round, plain: Round) -> dict[str, Any]:
    return {
        "concurrency": concurrency,
        "effect": effect,
        "fsync": plan.fsync,
        "calls_per_s": round(ours.per_s, 1),
        "p50_ms": round(ours.p50_ms, 3),
        "p99_ms": round(ours.p99_ms, 3),
        "plain_calls_per_s": round(plain.per_s, 1),
        "plain_p50_ms": round(plain.p50_ms, 3),
        "plain_p99_ms": round(plain.p99_ms, 3),
        "ratio": round(ours.per_s / plain.per_s, 3),
    }


async def _round(call: Callable[[], Awaitable[Any]], concurrency: int, calls: int) -> Round:
    latencies: list[float] = []
    turns = iter(range(calls))

    async def worker() -> None:
        for _ in turns:
            began = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    took = time.perf_counter() - began
    latencies.sort()
    return Round(
        calls / took, latencies[len(latencies) // 2] * 1e3, latencies[int(len(latencies) * 0.99)] * 1e3
    )

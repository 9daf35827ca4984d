"""Durable calls per second beside plain nats-py request/reply, in one run."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import nats

from aegisipc.eventstore.cli.output import print_json, table
from aegisipc.sdk import connect
from aegisipc.sdk.client import Client
from bench.rounds import Round, run_round
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

    async def echo(_: int) -> None:
        await plain.request(ECHO_SUBJECT, payload, timeout=30)

    def durable(effect: str) -> Callable[[int], Awaitable[Any]]:
        target = f"bench.{effect}"
        return lambda _: client.call(target, ORDER, returns=Fill, resource_id=None)

    kinds: dict[str, Callable[[int], Awaitable[Any]]] = {"plain": echo} | {
        effect: durable(effect) for effect in EFFECTS
    }
    for call in kinds.values():
        await run_round(call, range(max(concurrency, calls // 10)), concurrency)  # warm up
    rounds: dict[str, list[Round]] = {kind: [] for kind in kinds}
    for _ in range(plan.rounds):  # interleaved, so that a noisy moment hits all of them
        for kind, call in kinds.items():
            rounds[kind].append(await run_round(call, range(calls), concurrency))
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

"""How long it takes to replay a log, and to start a router on it.

A log is built by real calls: a client, a service and a router that takes snapshots. Then ``aegis replay``
folds it to its end, from the beginning and from the newest snapshot, and verifies it (which fails if any
snapshot or the router has another state); and the router is started anew. Memory
is measured at a tenth of the log and at its end, and once more with calls that nobody concludes: it is to
grow with those, and not with the history.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.cli.output import print_json, table
from aegisipc.eventstore.replay import open_live
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client, connect
from bench.processes import Run, memory_mib, run
from bench.rounds import run_round
from bench.stage import AEGIS, ChildFailed, child
from bench.workload import ORDER

_NAMESPACE: Final = "default"
_IN_FLIGHT: Final = 256
_FAR_S: Final = 24 * 3600.0
_READ: Final = re.compile(r"\(.*?in ([0-9.]+) s")


class Plan(NamedTuple):
    """How many calls the log is to have; ``open``: how many that nobody concludes are added in the end."""

    calls: int
    open: int
    fsync: bool


class Site:
    """A server, a router, and a service that is stopped when the log is built."""

    def __init__(self, url: str, folder: Path, stack: AsyncExitStack) -> None:
        self.url = url
        self._folder, self._stack = folder, stack
        self._router: ChildProcess | None = None
        self._service: ChildProcess | None = None

    async def start_router(self) -> dict[str, float]:
        """Start a router; returns how long it took to be ready, and how long of that it read the log."""
        output = self._folder / f"router-{time.time_ns()}.log"
        began = time.perf_counter()
        started = child("router", (*AEGIS, "router", "--url", self.url), output)
        self._router = await self._stack.enter_async_context(started)
        took = time.perf_counter() - began
        said = _READ.search(output.read_text())
        return {
            "ready_s": round(took, 3),
            "read_s": float(said.group(1)) if said else float("nan"),
            "memory_mib": round(memory_mib(self._router.pid), 1),
        }

    async def stop_router(self) -> None:
        """Stop it, as an operator would."""
        await _stop(self._router)

    async def start_service(self) -> None:
        """Start the service that is called."""
        argv = (*AEGIS, "serve", "bench.workload:service", "--resource", "bench", "--url", self.url)
        output = self._folder / "service.log"
        self._service = await self._stack.enter_async_context(child("service", argv, output))

    async def stop_service(self) -> None:
        """Stop it: what is called from here on stays open."""
        await _stop(self._service)


async def _stop(process: ChildProcess | None) -> None:
    if process is not None:
        process.send(signal.SIGTERM)
        await process.wait(30)


@asynccontextmanager
async def _site(plan: Plan) -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as made:
        folder = Path(made)
        async with EmbeddedServer(folder / "server", fsync=plan.fsync) as server, AsyncExitStack() as stack:
            yield Site(server.url, folder, stack)


async def report(plan: Plan, *, as_json: bool) -> int:
    """Measure and print."""
    found = await measure(plan)
    if as_json:
        print_json(found)
    else:
        print(_shown(found))
    return 0 if found["agree"] else 1


async def measure(plan: Plan) -> dict[str, Any]:
    """Run the whole plan."""
    async with _site(plan) as site:
        first_start = await site.start_router()
        await site.start_service()
        async with connect(site.url, name="bench", max_open=200_000) as client:
            built = await _build(plan, client)
        await site.stop_service()
        records, tenth = await _length(site.url)
        runs = {
            "tenth": await _replay(site.url, "--until", str(tenth), "--from-beginning"),
            "whole": await _replay(site.url, "--from-beginning"),
            "from_snapshot": await _replay(site.url),
            "verify": await _replay(site.url, "--verify"),
        }
        await site.stop_router()
        restart = await site.start_router()
        if plan.open:
            await _leave_open(plan, site.url)
            runs["with_open"] = await _replay(site.url, "--from-beginning")
        return {
            "calls": plan.calls,
            "records": records,
            "fsync": plan.fsync,
            "build_per_s": built,
            "replays": {name: _figures(found) for name, found in runs.items()},
            "calls_per_s": round(plan.calls / runs["whole"].wall_s),
            "router_first_start": first_start,
            "router_restart": restart,
            "open_calls": plan.open,
            "checks": json.loads(runs["verify"].output.splitlines()[-1])["agrees"],
            "agree": _state(runs["whole"]) == _state(runs["from_snapshot"]),
        }


async def _build(plan: Plan, client: Client) -> float:
    async def one(_: int) -> None:
        await client.call("bench.idempotent", ORDER, resource_id="bench", timeout=60.0)

    found = await run_round(one, range(plan.calls), _IN_FLIGHT)
    return round(found.per_s, 1)


async def _leave_open(plan: Plan, url: str) -> None:
    async with connect(url, name="bench", max_open=200_000) as client:
        waiting = asyncio.Semaphore(_IN_FLIGHT)

        async def one() -> None:
            async with waiting:
                await client.submit("bench.idempotent", ORDER, resource_id="bench", timeout=_FAR_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(plan.open):
                group.create_task(one())


async def _length(url: str) -> tuple[int, int]:
    async with open_live(url, _NAMESPACE) as source:
        last_seq = (await source.log.bounds()).last_seq
    return last_seq, max(1, last_seq // 10)


async def _replay(url: str, *words: str) -> Run:
    return await run("aegis replay", (*AEGIS, "replay", "--url", url, "--json", *words))


def _state(found: Run) -> Any:
    """What was replayed, without what differs by when it was asked."""
    try:
        plain = json.loads(found.output.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise ChildFailed(f"cannot measure: aegis replay printed {found.output[:200]!r}") from error
    return [plain[name] for name in ("position", "leader", "groups", "in_doubt", "open")]


def _figures(found: Run) -> dict[str, float]:
    return {"wall_s": found.wall_s, "peak_mib": found.peak_mib}


def _shown(found: dict[str, Any]) -> str:
    rows = [
        (name.replace("_", " "), f"{of['wall_s']:.2f}", f"{of['peak_mib']:,.0f}")
        for name, of in found["replays"].items()
    ]
    restart = found["router_restart"]
    agree = "equal" if found["agree"] else "NOT equal"
    restarted = (
        f"router started anew: ready after {restart['ready_s']:.2f} s, of which {restart['read_s']:.2f} s "
        f"read the log; {restart['memory_mib']:,.0f} MiB"
    )
    return "\n".join(
        [
            f"{found['calls']:,} calls in {found['records']:,} records, {found['build_per_s']:,.0f} calls/s",
            "",
            table(("aegis replay", "seconds", "peak MiB"), rows),
            "",
            f"{found['calls_per_s']:,} calls/s from the beginning, start of Python and connection included",
            restarted,
            f"from the beginning and from the newest snapshot: {agree}",
            f"aegis replay --verify: {found['checks']} checks agree",
        ]
    )

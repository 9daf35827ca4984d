"""A long run under full load, with random faults throughout."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from aegisipc.chaos.cli.reporting import as_plain, line_of
from aegisipc.chaos.history import Sample
from aegisipc.chaos.real.loads import LoadOptions
from aegisipc.chaos.real.members import Role, Shape
from aegisipc.chaos.real.plans import Draw, again_and_again, together
from aegisipc.chaos.real.running import run_scenario
from aegisipc.chaos.real.scenarios import Scenario
from aegisipc.chaos.real.scene import Scene
from aegisipc.chaos.report import write_report
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.ending import ended_by_sigterm
from aegisipc.eventstore.cli.logs import configure_logging
from aegisipc.eventstore.cli.output import Paint, print_json, table

PROGRESS_S: Final = 10.0
_EVERYBODY: Final = ("i1", "i2", "i3", "w1", "w2", "router1", "router2", "caller1", "caller2")
_SERVER: Final = ("server1",)
_LOAD: Final = LoadOptions(clients=1, workers=768, pause_ms=0.0, resources=512, plain=True)
"""So many calls in flight that frames are long: most costs are those of a frame, or of an fsync."""
_FEWEST: Final = 20
"""With fewer samples there is no telling whether memory rises."""
_LOSSES: Final = ("G1", "G2")
_REPEATS: Final = ("G3", "G6")


def scenario() -> Scenario:
    """Return what is run: partitions are of network namespaces, which cost nothing, so they need root."""
    has_namespaces = os.geteuid() == 0 and shutil.which("ip") is not None
    draws: list[Draw] = [
        again_and_again("kill", _EVERYBODY, gap_s=(15.0, 30.0)),
        again_and_again("freeze", _EVERYBODY, gap_s=(20.0, 40.0), for_s=(0.3, 2.5)),
        again_and_again("kill-server", _SERVER, gap_s=(60.0, 90.0), for_s=(0.1, 0.5)),
        again_and_again("freeze-server", _SERVER, gap_s=(60.0, 90.0), for_s=(0.3, 1.5)),
    ]
    if has_namespaces:
        draws.append(again_and_again("isolate", _EVERYBODY, gap_s=(20.0, 40.0), for_s=(0.3, 2.5)))
    shape = Shape(
        namespaces=has_namespaces,
        load=_LOAD,
        max_running=2048,
        max_backlog=100_000,
        snapshot_every=50_000,
        operator_gap_s=(5.0, 15.0),
    )
    about = "calls without a pause, while every role and the server are killed, frozen and cut off"
    return Scenario("soak", about, together(*draws), shape)


async def soak_and_report(*, minutes: float, seed: int, report: Path | None, as_json: bool) -> int:
    """Run it, tell how it goes every ten seconds, and print what came of it; exit code 1 if not green."""
    configure_logging("ERROR")  # that connections end is what is to be seen here, and no news
    with ended_by_sigterm():
        done = await run_scenario(
            scenario(),
            seed=seed,
            duration_s=minutes * 60,
            keep_in=report,
            tell=say,
            beside=_progress,
        )
    run = done.run
    if report is not None:
        page = write_report([run], report, command=f"aegis chaos soak --minutes {minutes:g} --seed {seed}")
        say(f"the report is {page}")
    memory = memory_of(run.evidence.samples)
    counts = counts_of(run, minutes)
    if as_json:
        plain = as_plain(run, done.plan)
        print_json({"ok": run.is_green, **counts, "memory": memory, **plain})
    else:
        print(line_of(run, Paint()))
        print(", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in counts.items()))
        print(_memory_table(memory))
    return 0 if run.is_green else 1


def counts_of(run: ScenarioRun, minutes: float) -> dict[str, int]:
    """Return how many calls the log holds, how many of all were lost, and how many were done twice."""
    found = {verdict.name: len(verdict.findings) for verdict in run.judgement.verdicts}
    calls = run.judgement.numbers.get("calls", 0)
    return {
        "accepted": calls,
        "per_second": round(calls / (minutes * 60)),
        "lost": sum(found.get(name, 0) for name in _LOSSES),
        "duplicated": sum(found.get(name, 0) for name in _REPEATS),
        "in_doubt": run.judgement.numbers.get("calls_in_doubt", 0),
    }


# -- progress -----------------------------------------------------------------------------------------------


async def _progress(scene: Scene) -> None:
    """Tell how it goes, until cancelled."""
    began_s, former, earlier = time.monotonic(), 0, dict[tuple[str, int], int]()
    while True:
        await asyncio.sleep(PROGRESS_S)
        for member in scene.of(Role.CLIENT):
            said = member.child.said() if member.child is not None else []
            counts = [line["calls"] for line in said if "calls" in line]
            earlier[member.name, member.lives] = counts[-1] if counts else 0
        calls = sum(earlier.values())
        rate = (calls - former) / PROGRESS_S
        faults = len(scene.broken)
        say(
            f"{time.monotonic() - began_s:5.0f} s  {calls:>10,} calls  {rate:>7,.0f}/s  {faults:>4} faults  "
            f"{len(scene.ended)} ended by themselves"
        )
        former = calls


# -- memory -------------------------------------------------------------------------------------------------


def memory_of(samples: Iterable[Sample]) -> dict[str, dict[str, float]]:
    """Return the memory of each process in MiB, in the longest of its lives: at the beginning, in the middle,
    at the end, and by how much it rises in an hour (a line through the second half of its samples).
    """
    lives: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.rss_bytes:
            lives.setdefault(sample.process, []).append(sample)
    longest: dict[str, list[Sample]] = {}
    for process, taken in lives.items():
        name = process.partition("#")[0]
        longest[name] = max(longest.get(name, []), taken, key=len)
    return {name: _memory(taken) for name, taken in sorted(longest.items())}


def _memory(taken: list[Sample]) -> dict[str, float]:
    mib = [sample.rss_bytes / (1 << 20) for sample in taken]
    found = {
        "first_mib": round(mib[0], 1),
        "middle_mib": round(mib[len(mib) // 2], 1),
        "last_mib": round(mib[-1], 1),
        "over_s": round((taken[-1].at_ns - taken[0].at_ns) / 1e9, 1),
    }
    half = taken[len(taken) // 2 :]
    if len(half) >= _FEWEST:
        at_h = [sample.at_ns / 3.6e12 for sample in half]
        slope = statistics.linear_regression(at_h, mib[len(taken) // 2 :]).slope
        found["slope_mib_per_h"] = round(slope, 1)
    return found


def _memory_table(memory: dict[str, dict[str, float]]) -> str:
    columns = ("first_mib", "middle_mib", "last_mib", "over_s", "slope_mib_per_h")
    rows = [(name, *(found.get(column) for column in columns)) for name, found in memory.items()]
    return table(("PROCESS", "FIRST MiB", "MIDDLE", "LAST", "OVER s", "MiB/h"), rows)

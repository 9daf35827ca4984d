"""Running scenarios one after another, and saying what came of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.history import Deed, Stage
from aegisipc.chaos.real.monitoring import FSYNC_MS
from aegisipc.chaos.real.plans import Step
from aegisipc.chaos.real.running import Finished, run_scenario
from aegisipc.chaos.real.scenarios import SCENARIOS, chosen
from aegisipc.chaos.report import write_report
from aegisipc.chaos.report.figures import figures_of
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.ending import ended_by_sigterm
from aegisipc.eventstore.cli.logs import configure_logging
from aegisipc.eventstore.cli.output import Cell, Paint, print_json, table

_MOST_FINDINGS: Final = 3
_CALLS: Final = (Deed.CALL, Deed.SUBMIT)
_NAME: Final = 24
_SLOW_S: Final = 1.0


async def run_and_report(
    names: str, *, seed: int, duration_s: float, report: Path | None, as_json: bool
) -> int:
    """Run scenarios, print a line for each as it ends, and write the report; exit code 1 if one of those that
    could be run is not green.

    Raises:
        UnknownScenario: one of the names is none.
    """
    configure_logging("ERROR")  # that connections end is what is to be seen here, and no news
    finished: list[Finished] = []
    paint = Paint()
    with ended_by_sigterm():
        for scenario in chosen(names):
            done = await run_scenario(scenario, seed=seed, duration_s=duration_s, keep_in=report, tell=say)
            finished.append(done)
            if not as_json:
                print(line_of(done.run, paint), flush=True)
    if report is not None:
        command = f"aegis chaos run --scenario {names} --seed {seed} --duration {duration_s:g}"
        page = write_report([done.run for done in finished], report, command=command)
        say(f"the report is {page}")
    if as_json:
        print_json({"ok": is_green(finished), "runs": [as_plain(done.run, done.plan) for done in finished]})
    return 0 if is_green(finished) else 1


def is_green(finished: Iterable[Finished]) -> bool:
    """Whether all that could be run hold, and any could."""
    ran = [done.run for done in finished if not done.run.skipped]
    return bool(ran) and all(run.is_green for run in ran)


def calls_in(run: ScenarioRun) -> int:
    """How many calls clients made."""
    return sum(o.stage is Stage.INVOKE and o.deed in _CALLS for o in run.evidence.operations)


def worst_recovery_s(run: ScenarioRun) -> float | None:
    """The longest that a service was without success after a fault, as the report has it; ``None`` if nobody
    asked, infinite if it lasted to the end.
    """
    return figures_of(run).longest_recovery_s


def _recovery_text(seconds: float | None) -> str:
    if seconds is None:
        return "    none"
    return "   never" if math.isinf(seconds) else f"{seconds:6.2f} s"


def slowest_fsync_s(run: ScenarioRun) -> float:
    """How long the slowest fsync took that was tried on this machine, once a second, during the run."""
    return max((s.tables.get(FSYNC_MS, 0) for s in run.evidence.samples), default=0) / 1000


def line_of(run: ScenarioRun, paint: Paint) -> str:
    """Return the line for people, and those of what is violated."""
    if run.skipped:
        return f"{run.name:{_NAME}} {paint('yellow', 'skipped')}: {run.skipped}"
    verdict = paint("green", "holds") if run.is_green else paint("red", "VIOLATED")
    counts = f"{calls_in(run):>7,} calls {len(run.evidence.faults):>3} faults"
    lines = [
        f"{run.name:{_NAME}} {counts}  worst recovery {_recovery_text(worst_recovery_s(run))}  {verdict}"
    ]
    for each in run.judgement.verdicts:
        if each.holds:
            continue
        lines.append(paint("red", f"  {each.name}: {each.promise}"))
        lines += [f"    {finding.text}" for finding in each.findings[:_MOST_FINDINGS]]
        if len(each.findings) > _MOST_FINDINGS:
            lines.append(f"    and {len(each.findings) - _MOST_FINDINGS} more")
    if not run.is_green and (slowest_s := slowest_fsync_s(run)) > _SLOW_S:
        lines.append(f"  this machine was slow meanwhile: an fsync took up to {slowest_s:.1f} s")
    return "\n".join([*lines, *(f"  {command}" for command in run.replay)])


def as_plain(run: ScenarioRun, plan: Iterable[Step]) -> dict[str, Any]:
    """Return a run for programs."""
    evidence, recovery_s = run.evidence, worst_recovery_s(run)
    return {
        "scenario": run.name,
        "seed": run.seed,
        "duration_s": run.duration_s,
        "skipped": run.skipped or None,
        "green": run.is_green,
        "plan": [step.to_plain() for step in plan],
        "calls": calls_in(run),
        "faults": len(evidence.faults),
        "worst_recovery_s": None if recovery_s is None or math.isinf(recovery_s) else round(recovery_s, 3),
        "slowest_fsync_s": slowest_fsync_s(run),
        "not_serving": [probe.node for probe in evidence.probes if not probe.serves],
        "leaks": evidence.leaks,
        "unhandled": evidence.unhandled,
        "judgement": run.judgement.to_plain(),
        "artefacts": run.artefacts,
        "replay": run.replay,
    }


def list_scenarios(*, as_json: bool) -> int:
    """Print what scenarios there are."""
    plain = [scenario.to_plain() for scenario in SCENARIOS.values()]
    if as_json:
        print_json({"scenarios": plain})
        return 0
    rows = [
        (
            each["name"],
            each["nodes"],
            Cell(f"skipped: {each['skipped']}", "yellow") if each["skipped"] else each["about"],
        )
        for each in plain
    ]
    print(table(("SCENARIO", "SERVERS", "WHAT IT BREAKS"), rows))
    return 0

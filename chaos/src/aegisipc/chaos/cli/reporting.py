"""Running scenarios one after another, and saying what came of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.history import Deed, Stage
from aegisipc.chaos.real.plans import Step
from aegisipc.chaos.real.running import Finished, run_scenario
from aegisipc.chaos.real.scenarios import SCENARIOS, chosen
from aegisipc.chaos.report import write_report
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.ending import ended_by_sigterm
from aegisipc.eventstore.cli.logs import configure_logging
from aegisipc.eventstore.cli.output import Cell, Paint, print_json, table

_MOST_FINDINGS: Final = 3
_CALLS: Final = (Deed.CALL, Deed.SUBMIT)
_NAME: Final = 24


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


def worst_recovery_s(run: ScenarioRun) -> float:
    """For how long, at most, no call of any client succeeded while there were faults."""
    at = sorted(
        o.at_ns
        for o in run.evidence.operations
        if o.stage is Stage.OK and o.deed is not Deed.OPERATE and o.at_ns <= (run.evidence.healed_at_ns or 0)
    )
    return max((later - former for former, later in pairwise(at)), default=0) / 1e9


def line_of(run: ScenarioRun, paint: Paint) -> str:
    """Return the line for people, and those of what is violated."""
    if run.skipped:
        return f"{run.name:{_NAME}} {paint('yellow', 'skipped')}: {run.skipped}"
    verdict = paint("green", "holds") if run.is_green else paint("red", "VIOLATED")
    counts = f"{calls_in(run):>7,} calls {len(run.evidence.faults):>3} faults"
    lines = [f"{run.name:{_NAME}} {counts}  worst recovery {worst_recovery_s(run):6.2f} s  {verdict}"]
    for each in run.judgement.verdicts:
        if each.holds:
            continue
        lines.append(paint("red", f"  {each.name}: {each.promise}"))
        lines += [f"    {finding.text}" for finding in each.findings[:_MOST_FINDINGS]]
        if len(each.findings) > _MOST_FINDINGS:
            lines.append(f"    and {len(each.findings) - _MOST_FINDINGS} more")
    return "\n".join([*lines, *(f"  {command}" for command in run.replay)])


def as_plain(run: ScenarioRun, plan: Iterable[Step]) -> dict[str, Any]:
    """Return a run for programs."""
    evidence = run.evidence
    return {
        "scenario": run.name,
        "seed": run.seed,
        "duration_s": run.duration_s,
        "skipped": run.skipped or None,
        "green": run.is_green,
        "plan": [step.to_plain() for step in plan],
        "calls": calls_in(run),
        "faults": len(evidence.faults),
        "worst_recovery_s": round(worst_recovery_s(run), 3),
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

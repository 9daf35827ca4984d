"""What ``aegis chaos sim`` does: many seeds, or one plan with its whole story."""

from __future__ import annotations

import shlex
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.cli.plan_text import judgement_text, plan_text, summary_text
from aegisipc.chaos.cli.sim import DEFAULT_SEEDS
from aegisipc.chaos.sim.failures import Kept, keep, plan_data
from aegisipc.chaos.sim.plan import expand
from aegisipc.chaos.sim.plan_files import read_plan
from aegisipc.chaos.sim.regressions import Regression, remember
from aegisipc.chaos.sim.running import CRASHED, Runner
from aegisipc.chaos.sim.shrinking import Shrunk, shrink
from aegisipc.chaos.sim.simulation import Result
from aegisipc.chaos.sim.workers import Summary, run_many
from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import Paint, print_json

_TELL_EVERY_S: Final = 5.0
_MOST_KEPT: Final = 20
"""Of many seeds, so many failures are kept: each is run again for that."""


# -- many -------------------------------------------------------------------------------------------------


def simulate_many(args: Namespace) -> int:
    """Run many seeds; returns the exit code."""
    seeds = args.seeds or DEFAULT_SEEDS
    summary = run_many(
        args.first_seed or 0, seeds, jobs=args.jobs, budget_s=args.budget_s, told=_progress(seeds)
    )
    kept = _keep_failures(summary, Path(args.keep)) if args.keep else {}
    if args.json:
        print_json(summary.to_plain() | ({"kept": kept} if args.keep else {}))
    else:
        print(summary_text(summary, Paint()))
        for seed, files in kept.items():
            print(f"kept seed {seed}{_look(files.get('bundle'))}")
    return 1 if summary.failures else 0


def _progress(seeds: int) -> Callable[[Summary], None]:
    """Tell people how far it is, now and then, and of what is broken at once."""
    next_s, broken = time.monotonic() + _TELL_EVERY_S, 0

    def tell(summary: Summary) -> None:
        nonlocal next_s, broken
        if len(summary.failures) > broken:
            broken = len(summary.failures)
            failure = summary.failures[-1]
            say(f"seed {failure.seed} broke {', '.join(failure.broken)}")
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + _TELL_EVERY_S
            shown = f"{summary.schedules:,} of {seeds:,} schedules, {summary.per_minute:,} a minute"
            say(f"{shown}, {broken} broken")

    return tell


def _keep_failures(summary: Summary, folder: Path) -> dict[int, dict[str, str | None]]:
    kept = {}
    with Runner() as runner:
        for failure in summary.failures[:_MOST_KEPT]:
            if CRASHED not in failure.broken:  # then there is nothing to keep
                result = runner.run(expand(failure.seed))
                kept[failure.seed] = keep(result, folder / f"seed-{failure.seed}").to_plain()
    return kept


# -- one --------------------------------------------------------------------------------------------------


def simulate_one(args: Namespace) -> int:
    """Run one plan, or only show it; returns the exit code."""
    plan = read_plan(args.plan_file) if args.plan_file is not None else expand(args.seed)
    paint = Paint()
    if args.plan:
        if args.json:
            print_json(plan_data(plan))
        else:
            print(plan_text(plan, paint))
        return 0
    if not args.json:
        print(plan_text(plan, paint))
    with Runner() as runner:
        result = runner.run(plan)
        shrunk = None if args.no_shrink else _shrunk(result, runner)
        smaller = None if shrunk is None else runner.run(shrunk.plan)
    kept = _kept(args, result, smaller)
    if args.remember is not None:
        _remember(args, result, smaller)
    if args.json:
        print_json(_plain(result, shrunk, kept, args.remember))
    else:
        _tell(result, shrunk, smaller, paint)
        for each in kept.values():
            print(f"kept in {each.plan.parent}{_look(each.to_plain()['bundle'])}")
        if args.remember is not None:
            print(f"remembered in {args.remember}")
    return 0 if result.judgement.holds else 1


def _shrunk(result: Result, runner: Runner) -> Shrunk | None:
    """Look for a smaller plan that breaks the first invariant that this one does; ``None`` if none is."""
    broken = result.judgement.broken
    if not broken:
        return None
    say(f"looking for a smaller plan that breaks {broken[0]} …")
    return shrink(result.plan, lambda plan: broken[0] in runner.brief(plan).broken)


def _kept(args: Namespace, result: Result, smaller: Result | None) -> dict[str, Kept]:
    if not args.keep:
        return {}
    kept = {"run": keep(result, args.keep)}
    if smaller is not None:
        kept["shrunk"] = keep(smaller, Path(args.keep) / "shrunk")
    return kept


def _remember(args: Namespace, result: Result, smaller: Result | None) -> None:
    told = smaller or result
    remember(Regression(told.plan, args.because, told.judgement.broken), args.remember)
    if not told.judgement.broken:
        say("warning: nothing is broken now, so the whole plan was written down, and not a small one")


def _plain(
    result: Result, shrunk: Shrunk | None, kept: dict[str, Kept], remembered: str | None
) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "seed": result.plan.seed,
        "trace": result.trace,
        "events": result.events,
        "steps": result.steps,
        "virtual_s": round(result.virtual_s, 6),
        "broken": list(result.judgement.broken),
        **result.judgement.to_plain(),
        "plan": plan_data(result.plan),
    }
    if shrunk is not None:
        plain["shrunk"] = {
            "plan": plan_data(shrunk.plan),
            "runs": shrunk.runs,
            "is_smallest": shrunk.is_smallest,
        }
    if kept:
        plain["kept"] = {name: files.to_plain() for name, files in kept.items()}
    if remembered is not None:
        plain["remembered"] = remembered
    return plain


def _tell(result: Result, shrunk: Shrunk | None, smaller: Result | None, paint: Paint) -> None:
    print(
        f"\ntrace {paint('bold', result.trace)}: {result.events:,} events in {result.steps:,} steps, "
        f"{result.virtual_s:.1f} virtual seconds\n"
    )
    print(judgement_text(result.judgement, paint))
    if shrunk is None or smaller is None:
        return
    how = "no single change makes it smaller" if shrunk.is_smallest else "there was no time to look further"
    print(f"\nthe same with less, after {shrunk.runs} runs ({how}):\n")
    print(plan_text(shrunk.plan, paint))
    print(f"\n{judgement_text(smaller.judgement, paint)}")


def _look(bundle: str | None) -> str:
    return "" if bundle is None else f"; look into it: aegis replay --bundle {shlex.quote(bundle)}"

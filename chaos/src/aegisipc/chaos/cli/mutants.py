"""``aegis chaos mutants``: is the checker able to fail?"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from aegisipc.chaos.mutants.trials import Trial, Trials

_DESCRIPTION = """\
Put one defect at a time into the production code, each at the place where a promise is made, and simulate it
until an invariant does not hold. A mutant that survives shows what the simulation does not reach, or what the
checker does not see. Each catch is repeated without the defect: then everything has to hold.

Exit code 1 if a mutant survives, or if something does not hold without any."""

_EXAMPLES = """\
examples:
  aegis chaos mutants                                  # all of them, each with the seed that caught it
  aegis chaos mutants --mutant skip-the-fence --seeds 200
  aegis chaos mutants --json"""


def configure(kinds: Any) -> None:
    """Add it to the subparsers of ``aegis chaos``."""
    from argparse import RawDescriptionHelpFormatter  # noqa: PLC0415 - as eventstore.cli has it

    from aegisipc.eventstore.cli import add_json_option  # noqa: PLC0415 - as above

    parser: ArgumentParser = kinds.add_parser(
        "mutants",
        help="defects put into the code on purpose, each of which must be caught",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mutant", metavar="NAME", action="append", help="only this one (may be given several times)"
    )
    parser.add_argument(
        "--seeds",
        type=_count,
        metavar="N",
        help="how many seeds a mutant may survive (default: 64); the one that caught it before comes first",
    )
    parser.add_argument(
        "--jobs", type=_count, metavar="N", help="in how many processes (default: one for each core)"
    )
    add_json_option(parser)
    parser.set_defaults(chaos=_run)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _run(args: Namespace) -> int:
    from aegisipc.chaos.mutants.trials import DEFAULT_SEEDS, try_all  # noqa: PLC0415 - heavy: not for --help

    told = None if args.json else _tell
    trials = try_all(args.mutant or (), seeds=args.seeds or DEFAULT_SEEDS, jobs=args.jobs, told=told)
    if args.json:
        import json  # noqa: PLC0415 - here alone

        print(json.dumps(trials.to_plain()))
    else:
        _sum_up(trials)
    return 0 if trials.is_good else 1


def _tell(trial: Trial) -> None:
    if trial.caught_by_seed is None:
        print(f"{trial.name:<32} SURVIVED {_schedules(trial)}", flush=True)
        return
    line = f"{trial.name:<32} seed {trial.caught_by_seed:<6} {', '.join(trial.verdicts)}"
    notes = [] if trial.schedules == 1 else [_schedules(trial)]
    if not trial.is_expected:
        notes.append("not as expected")
    if trial.control:
        notes.append(f"WITHOUT IT, TOO: {', '.join(trial.control)}")
    print(f"{line}{f' ({"; ".join(notes)})' if notes else ''}", flush=True)


def _schedules(trial: Trial) -> str:
    return f"{trial.schedules} schedule{'' if trial.schedules == 1 else 's'}"


def _sum_up(trials: Trials) -> None:
    caught = len(trials.mutants) - len(trials.survivors)
    print(f"\n{caught} of {len(trials.mutants)} caught, in {trials.seconds:.1f} s")
    if trials.survivors:
        print(f"survivors: {', '.join(trials.survivors)}")
        print("Either no schedule reaches what they break, or no invariant sees it: find out which.")
    unsound = [trial for trial in trials.mutants if trial.control]
    for trial in unsound:
        print(
            f"without the defect {trial.name!r}, its plan for seed {trial.caught_by_seed} breaks "
            f"{', '.join(trial.control)}, too: there is a defect that nobody put in"
        )

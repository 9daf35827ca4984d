"""``aegis chaos sim``: schedules of faults against the production code, in a deterministic simulation."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

DEFAULT_SEEDS = 1000

_DESCRIPTION = """\
Run real clients, instances and routers on a virtual clock against a model of NATS JetStream, break what a
seed says, heal it, and judge what is left: the log, what clients were told, what handlers did.

Each seed expands to a plan of its own: who is there, what is called, what breaks and when. The same seed
gives the same run, to the byte: compare the trace. Without --seed, many seeds are run, side by side; with it
one, and its plan and its verdicts are told. A plan that breaks something is cut down to a small one that
breaks the same.

Exit code 1 says that a promise was broken (or, with --json and an "error", that it could not be run)."""

_EXAMPLES = """\
examples:
  aegis chaos sim --seeds 10000 --json            # ten thousand schedules, on all cores
  aegis chaos sim --budget-s 3600 --seeds 10000000 --first-seed 5000000
  aegis chaos sim --seed 4711 --keep out          # one, with its plan, and its log for aegis replay
  aegis chaos sim --seed 4711 --plan --json > plan.json
  aegis chaos sim --plan-file plan.json
  aegis chaos sim --seed 4711 --remember tests/chaos/seeds/late-ack.json --because "a late ack was ...\""""


def configure(kinds: Any) -> None:
    """Add it to the subparsers of ``aegis chaos``."""
    from argparse import RawDescriptionHelpFormatter  # noqa: PLC0415 - as eventstore.cli has it

    from aegisipc.eventstore.cli import add_json_option  # noqa: PLC0415 - as above

    parser: ArgumentParser = kinds.add_parser(
        "sim",
        help="thousands of schedules of faults in a deterministic simulation",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    many = parser.add_argument_group("many seeds")
    many.add_argument(
        "--seeds", type=_count, metavar="N", help=f"how many schedules (default: {DEFAULT_SEEDS})"
    )
    many.add_argument("--first-seed", type=_whole, metavar="N", help="the first of them (default: 0)")
    many.add_argument(
        "--jobs", type=_count, metavar="N", help="in how many processes (default: one for each core)"
    )
    many.add_argument("--budget-s", type=_seconds, metavar="S", help="begin no more after so many seconds")
    one = parser.add_argument_group("one").add_mutually_exclusive_group()
    one.add_argument("--seed", type=_whole, metavar="N", help="the schedule of that seed")
    one.add_argument("--plan-file", metavar="FILE", help="a plan from a file, as --plan --json prints it")
    more = parser.add_argument_group("with --seed or --plan-file")
    more.add_argument("--plan", action="store_true", help="print the plan, and do not run it")
    more.add_argument(
        "--no-shrink", action="store_true", help="do not look for a smaller plan that breaks the same"
    )
    more.add_argument(
        "--remember", metavar="FILE", help="write the plan (the small one) into FILE, for the tests to run"
    )
    more.add_argument("--because", metavar="TEXT", help="with --remember: which defect it is about")
    parser.add_argument(
        "--keep",
        metavar="DIR",
        help="write plan, history, verdicts and log into DIR; of many seeds, those that broke something, "
        "each into a folder of its own",
    )
    add_json_option(parser)
    parser.set_defaults(chaos=_run, usage_error=parser.error)


def _run(args: Namespace) -> int:
    is_one = args.seed is not None or args.plan_file is not None
    for name in ("seeds", "first_seed", "jobs", "budget_s") if is_one else ("plan", "no_shrink", "remember"):
        if getattr(args, name) not in (None, False):
            needs = "goes with no --seed and no --plan-file" if is_one else "needs --seed or --plan-file"
            args.usage_error(f"--{name.replace('_', '-')} {needs}")
    if (args.remember is None) != (args.because is None):
        args.usage_error("--remember FILE and --because TEXT go together")
    if args.plan and (args.keep or args.remember or args.no_shrink):
        args.usage_error("--plan runs nothing: it goes with no --keep, --no-shrink and --remember")

    from aegisipc.chaos.cli.simulating import simulate_many, simulate_one  # noqa: PLC0415 - heavy

    return simulate_one(args) if is_one else simulate_many(args)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(text)
    return value

"""``aegis chaos run`` and ``aegis chaos scenarios``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any


def configure(kinds: Any) -> None:
    """Add both to the subparsers of ``aegis chaos``."""
    from aegisipc.eventstore.cli import add_json_option  # noqa: PLC0415 - the top stays light

    run = kinds.add_parser(
        "run",
        help="break real processes while clients call, and judge what came of it",
        description="Real clients, instances, routers and servers on loopback. Each scenario breaks things "
        "again and again while clients call; then everything is healed, every node is probed, and the log, "
        "the clients' histories and the handlers' ledgers are compared. Exit code 1 if anything is violated. "
        "A scenario that cannot be run on this machine says why, and counts as neither.",
    )
    run.add_argument(
        "--scenario",
        default="all",
        metavar="NAME[,NAME…]",
        help="which ones, or all (default: all); aegis chaos scenarios lists them",
    )
    run.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="the same seed makes the same plan of what is broken when (default: %(default)s)",
    )
    run.add_argument(
        "--duration",
        type=_seconds,
        default=20.0,
        metavar="S",
        help="for how long things are broken in each scenario (default: %(default)g)",
    )
    run.add_argument(
        "--report",
        metavar="DIR",
        help="write report.html and report.json there, and the log of each scenario that was violated",
    )
    add_json_option(run)
    run.set_defaults(chaos=_run)

    scenarios = kinds.add_parser(
        "scenarios",
        help="list the scenarios of aegis chaos run",
        description="List the scenarios, what each breaks, and whether it can be run on this machine.",
    )
    add_json_option(scenarios)
    scenarios.set_defaults(chaos=_list)


def _run(args: Namespace) -> int:
    import asyncio  # noqa: PLC0415 - not for --help
    from pathlib import Path  # noqa: PLC0415 - not for --help

    from aegisipc.chaos.cli.reporting import run_and_report  # noqa: PLC0415 - heavy

    report = Path(args.report) if args.report else None
    return asyncio.run(  # the proxies need its transports, which can be reset
        run_and_report(
            args.scenario, seed=args.seed, duration_s=args.duration, report=report, as_json=args.json
        )
    )


def _list(args: Namespace) -> int:
    from aegisipc.chaos.cli.reporting import list_scenarios  # noqa: PLC0415 - heavy

    return list_scenarios(as_json=args.json)


def _seconds(text: str) -> float:
    value = float(text)
    if not 1.0 <= value <= 3600.0:
        raise ValueError(text)
    return value

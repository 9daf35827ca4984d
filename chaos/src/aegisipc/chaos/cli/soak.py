"""``aegis chaos soak``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any


def configure(kinds: Any) -> None:
    """Add it to the subparsers of ``aegis chaos``."""
    from aegisipc.eventstore.cli import add_json_option  # noqa: PLC0415 - the top stays light

    soak = kinds.add_parser(
        "soak",
        help="as many calls as fit, with random faults throughout, and the memory of each process",
        description="Real processes under full load for minutes, while random faults hit every role and the "
        "server: kills, freezes and (as root) partitions. Counts what was lost and what was done twice, "
        "judges all of it as aegis chaos run does, and tells the memory of each process at the beginning, "
        "in the middle and at the end. Progress is on stderr. Exit code 1 if anything is violated.",
    )
    soak.add_argument(
        "--minutes", type=_minutes, default=10.0, metavar="N", help="for how long (default: %(default)g)"
    )
    soak.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="the same seed makes the same plan of what is broken when (default: %(default)s)",
    )
    soak.add_argument(
        "--report", metavar="DIR", help="write report.html and report.json there, and the log if violated"
    )
    add_json_option(soak)
    soak.set_defaults(chaos=_run)


def _run(args: Namespace) -> int:
    import asyncio  # noqa: PLC0415 - not for --help
    from pathlib import Path  # noqa: PLC0415 - not for --help

    from aegisipc.chaos.cli.soaking import soak_and_report  # noqa: PLC0415 - heavy

    report = Path(args.report) if args.report else None
    return asyncio.run(
        soak_and_report(minutes=args.minutes, seed=args.seed, report=report, as_json=args.json)
    )


def _minutes(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 24 * 60:
        raise ValueError(text)
    return value

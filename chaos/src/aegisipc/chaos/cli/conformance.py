"""``aegis chaos conformance``: does the simulation's model of the server do what a real server does?"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

_DESCRIPTION = """\
Run the same scripts on the model of the server that simulations use, and on real servers started for it, and
compare what was seen: publishing under conditions, duplicates, reading, purging, limits, consumers of both
kinds, a server that is killed, and three servers that replicate. Beside the fixed scripts there are random
ones. Where the two differ, the model is wrong.

Exit code 1 if there is a difference."""

_EXAMPLES = """\
examples:
  aegis chaos conformance
  aegis chaos conformance --scripts 1000 --seed 1
  aegis chaos conformance --scripts 0 --json"""


def configure(kinds: Any) -> None:
    """Add it to the subparsers of ``aegis chaos``."""
    from argparse import RawDescriptionHelpFormatter  # noqa: PLC0415 - as eventstore.cli has it

    from aegisipc.eventstore.cli import add_json_option  # noqa: PLC0415 - as above

    parser: ArgumentParser = kinds.add_parser(
        "conformance",
        help="compare the model of the server with a real one",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--scripts",
        type=_count,
        default=100,
        metavar="N",
        help="how many random scripts, beside the fixed ones (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=_count,
        default=0,
        metavar="N",
        help="of the first random script (default: %(default)s)",
    )
    add_json_option(parser)
    parser.set_defaults(chaos=_run)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _run(args: Namespace) -> int:
    from aegisipc.chaos.cli.conforming import report  # noqa: PLC0415 - heavy: not for --help
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - as above

    return run_async(report(args.scripts, args.seed, as_json=args.json))

"""``aegis log``: look at the log itself."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option

KINDS = ("call", "pen", "ha", "evidence", "state", "term")
_DEFAULT_COUNT = 20


def configure(parser: ArgumentParser) -> None:
    """Add the verb's own verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    tail = verbs.add_parser(
        "tail",
        help="print the newest records, one per line",
        description="Print the newest records of the log, one per line; --follow goes on with new ones.",
        epilog="example:\n  aegis log tail -f --service orders --kind ha",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    tail.add_argument(
        "-n", type=int, metavar="N", dest="count", help="how many (default: 20; with --from: all)"
    )
    tail.add_argument("-f", "--follow", action="store_true", help="print what is appended, until Ctrl-C")
    tail.add_argument("--from", type=int, metavar="SEQ", dest="from_seq", help="start at that sequence")
    tail.add_argument("--service", metavar="NAME", help="only records of that service")
    tail.add_argument("--group", metavar="NAME", help="only records of that group (_pool: of pools)")
    tail.add_argument("--kind", choices=KINDS, help="only records of that kind")
    tail.add_argument(
        "-v", "--verbose", action="store_true", default=SUPPRESS, help="log everything, to stderr"
    )
    add_json_option(tail)
    add_connection_options(tail)
    tail.set_defaults(log_verb=_tail, usage_error=tail.error)


def run(args: Namespace) -> int:
    """Run ``aegis log <verb>``."""
    code: int = args.log_verb(args)
    return code


def _tail(args: Namespace) -> int:
    if args.count is not None and args.count < 0:
        args.usage_error("-n: give a number of records, 0 or more")
    if args.from_seq is not None and args.from_seq < 1:
        args.usage_error("--from: sequences start at 1")
    if args.kind == "term" and (args.service or args.group):
        args.usage_error("--kind term is about routers: it goes with no --service and no --group")
    if args.count is None and args.from_seq is None:
        args.count = _DEFAULT_COUNT

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.tailing import tail  # noqa: PLC0415 - heavy

    return run_async(tail(args))


VERB = Verb(
    "log",
    "look at the log: tail",
    configure,
    run,
    description="Look at the log of a namespace, which is all that AegisIPC knows.",
    examples="""\
aegis log tail                                    # the last 20 records
aegis log tail -f --service orders --kind ha      # registrations and promotions, as they happen
aegis log tail --from 1 --json                    # everything, for programs""",
)

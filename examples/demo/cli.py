"""``aegis demo``: play a flow of orders through real processes, and recount what happened from the log."""

from __future__ import annotations

from pathlib import Path

from aegisipc.eventstore.cli import Verb, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    flow = parser.add_mutually_exclusive_group()
    flow.add_argument(
        "--orders", type=Path, metavar="FILE", help="the flow to play (default: one that is shipped)"
    )
    flow.add_argument("--seed", type=int, metavar="N", help="play a flow generated from this seed instead")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=64,
        metavar="N",
        help="calls in flight (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="keep the log there, in a new directory (default: not kept)",
    )
    parser.add_argument(
        "--no-fsync", action="store_true", help="do not sync each write to disk before it is acknowledged"
    )
    parser.add_argument(
        "--kill",
        action="store_true",
        help="with standbys: kill the active instance of one group on the way, and freeze that of the other",
    )
    add_json_option(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: Namespace) -> int:
    """Play, recount, and say whether everything is accounted for."""
    if args.concurrency < 1:
        args.usage_error("--concurrency is at least 1")

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from examples.demo.performance import perform  # noqa: PLC0415 - heavy

    return run_async(perform(args))


VERB = Verb(
    "demo",
    "watch 5,000 orders go through two order gateways and a pool of quotes",
    configure,
    run,
    description="""\
Play a flow of orders through real processes, and recount what happened from the log.

Starts a broker (each write synced to disk, unless --no-fsync is given), a router, two order gateways with
half of the accounts each, and a pool of two quote services; plays the orders from several clients, as fast
as they go; then reads the log and counts: how many calls were accepted, what became of them, whether any was
lost or has two outcomes, and whether every client saw what the log says. Exit code 1 if anything is wrong.
Everything is stopped and removed at the end.

With --kill, each group of gateways has a standby. While orders go through them, the active instance of one
group is killed (kill -9), and that of the other one frozen (SIGSTOP), and let go on some seconds later. The
gateways write each order that they execute to a book outside of the log; it says which of the calls that are
in doubt after that were executed, and whether any order was executed twice. Exit code 1, too, if a standby
did not take over.""",
    examples="""\
aegis demo
aegis demo --kill
aegis demo --json
aegis demo --orders my-orders.jsonl --concurrency 256
aegis demo --seed 11 --data ./demo-data""",
)

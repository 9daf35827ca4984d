"""``aegis promote``: give the pen of a group to another instance."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option
from aegisipc.router.cli.operating import add_author_options, add_no_wait_option, add_timeout_option


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("group", metavar="GROUP")
    parser.add_argument("instance", metavar="INSTANCE", help="the standby that is to take over")
    add_author_options(parser)
    add_timeout_option(parser, 60.0, "a router to decide, and the handover to end")
    add_no_wait_option(parser, "the instance holds the pen")
    add_json_option(parser)
    add_connection_options(parser)


def run(args: Namespace) -> int:
    """Ask for it, and wait."""
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.promoting import promote  # noqa: PLC0415 - heavy

    return run_async(promote(args))


VERB = Verb(
    "promote",
    "give a group to another of its instances",
    configure,
    run,
    description="""\
Let a standby take over its group. The holder starts no more calls, finishes what it runs and yields; then the
standby is promoted to the next epoch. Calls that come meanwhile wait, and no caller sees an error.

A holder that is suspected is not waited for, nor one that does not finish within 30 s: calls that it had
begun may then be in doubt. Exit code 1 if it was refused, if the handover was called off, or if it is not
over in time: then it goes on.""",
    examples="""\
aegis promote orders g1 orders-2
aegis promote orders g1 orders-2 --reason 'move to the other rack' --json""",
    intermixed=True,
)

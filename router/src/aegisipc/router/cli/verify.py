"""``aegis verify``: do all instances of a service have the same state?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option
from aegisipc.router.cli.operating import add_timeout_option


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("--group", metavar="NAME", help="only this group (default: all that are served)")
    add_timeout_option(parser, 15.0, "the instances to answer")
    add_json_option(parser)
    add_connection_options(parser)


def run(args: Namespace) -> int:
    """Compare, and print what was found."""
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.verifying import verify  # noqa: PLC0415 - heavy

    return run_async(verify(args))


VERB = Verb(
    "verify",
    "check that all instances of a group share the same state",
    configure,
    run,
    description="""\
Check that the instances of each owned group of a service have the same shared state.

The holder writes a digest of its state into the log, and every other instance compares that with its own at
exactly the same place of the log; calls go on meanwhile. No router is needed. Exit code 0 if all agree; 1 if
one differs or does not answer, or if the service keeps no shared state (code no_shared_state).""",
    examples="""\
aegis verify orders
aegis verify orders --group g1 --json""",
)

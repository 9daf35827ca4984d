"""``aegis instances``: which instances there are, and what happened to them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb
from aegisipc.router.cli.listing import add_model_options, add_time_options, check_times


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--history", action="store_true", help="what happened to them, and to those that are gone"
    )
    parser.add_argument("--service", metavar="NAME", help="only those of that service")
    parser.add_argument("--group", metavar="NAME", help="only those of that group (_pool: of pools)")
    parser.add_argument("--instance", metavar="NAME", help="only that one")
    add_time_options(parser, "events, or instances that are in their state")
    add_model_options(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: Namespace) -> int:
    """Run ``aegis instances``."""
    check_times(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.needing_sql import require_sql  # noqa: PLC0415 - as above

    require_sql()
    from aegisipc.router.cli.model_answers import list_instances  # noqa: PLC0415 - heavy

    return run_async(list_instances(args))


VERB = Verb(
    "instances",
    "which instances there are; --history: what happened to them",
    configure,
    run,
    description="""\
List the instances that are there, or with --history what happened to instances, the newest first. Both come
from the read model: no server is needed.""",
    examples="""\
aegis instances --service orders
aegis instances --history --instance orders-1 --since -2h""",
)

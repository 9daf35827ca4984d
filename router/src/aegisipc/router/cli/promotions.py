"""``aegis promotions``: who got the pens of groups, when and why."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb
from aegisipc.router.cli.listing import add_model_options, add_time_options, check_times


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--service", metavar="NAME", help="only those of that service")
    parser.add_argument("--group", metavar="NAME", help="only those of that group")
    parser.add_argument("--instance", metavar="NAME", help="only those by which that instance got the pen")
    add_time_options(parser, "what happened")
    add_model_options(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: Namespace) -> int:
    """Run ``aegis promotions``."""
    check_times(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.needing_sql import require_sql  # noqa: PLC0415 - as above

    require_sql()
    from aegisipc.router.cli.model_answers import list_promotions  # noqa: PLC0415 - heavy

    return run_async(list_promotions(args))


VERB = Verb(
    "promotions",
    "who got the pens of groups, when and why",
    configure,
    run,
    description="""\
List promotions, handovers and vacancies, the newest first, from the read model: no server is needed. --json
tells the evidence of each, too.""",
    examples="""\
aegis promotions --service orders --since -1d
aegis promotions --group g1 --limit 5 --json""",
)

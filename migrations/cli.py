"""``aegis migrate``: bring the tables of services' databases to the shape that this version uses."""

from __future__ import annotations

from aegisipc.eventstore.cli import Verb, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any


def _configure(parser: ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    _configure_effects(kinds)


def _configure_effects(kinds: Any) -> None:
    effects = kinds.add_parser(
        "effects",
        help="the table of transactional effects, in the database of a service",
        description="The table aegis_effects holds the outcomes of calls that ran in a transaction "
        "(ctx.transaction). It is in the database of the service itself: each such database has its own.",
    )
    steps = effects.add_subparsers(dest="step", required=True, metavar="STEP")
    up = steps.add_parser(
        "up",
        help="make the table, or bring it to the newest shape",
        description="Make the table, or bring it to the newest shape. What is there already is left alone.",
    )
    down = steps.add_parser(
        "down",
        help="remove the table",
        description="Remove the table. Calls whose outcomes it holds could then take effect a second time, "
        "if they are run again: so it refuses while the table holds any, unless --discard is given.",
    )
    down.add_argument(
        "--discard", action="store_true", help="remove it even if it holds outcomes: they are lost"
    )
    status = steps.add_parser(
        "status",
        help="say which shape the table has; exit code 1 if something is to be done",
        description="Say which shape the table has. Exit code 1 if it is missing or out of date.",
    )
    for step in (up, down, status):
        step.add_argument(
            "--database",
            required=True,
            metavar="URL",
            help="as SQLAlchemy takes it: sqlite:///orders.db, postgresql://user:password@host/database",
        )
        add_json_option(step)
    effects.set_defaults(migrate=_run_effects)


def _run(args: Namespace) -> int:
    code: int = args.migrate(args)
    return code


def _run_effects(args: Namespace) -> int:
    from migrations.effects.command import perform  # noqa: PLC0415 - heavy: not for --help

    return perform(args)


VERB = Verb(
    "migrate",
    "make and upgrade the tables of services' databases",
    _configure,
    _run,
    examples="""
aegis migrate effects up --database sqlite:///orders.db
aegis migrate effects status --database postgresql://orders@db/orders --json
aegis migrate effects down --database sqlite:///orders.db
""",
)

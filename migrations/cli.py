"""``aegis migrate``: bring the tables in SQL databases to the shape that this version uses."""

from __future__ import annotations

import os

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option
from aegisipc.router.cli.listing import DEFAULT_SQL
from aegisipc.router.cli.projector import add_content_options, check_content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any


def _configure(parser: ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    _configure_read_model(kinds)
    _configure_effects(kinds)


def _configure_read_model(kinds: Any) -> None:
    up = kinds.add_parser(
        "up",
        help="make the tables of the read model, or bring them to the newest shape",
        description="Make the tables of the read model, or bring them to the newest shape. aegis projector, "
        "or aegis router --sql, fills them.",
    )
    down = kinds.add_parser(
        "down",
        help="remove the tables of the read model",
        description="Remove the tables of the read model. They can be filled again from the log.",
    )
    status = kinds.add_parser(
        "status",
        help="say which shape the read model has, and how far it is; exit code 1 if something is to be done",
        description="Say which shape the read model has, and up to where it was filled; with --url also how "
        "far it is behind the log. Exit code 1 if it is missing or out of date.",
    )
    status.add_argument(
        "--url",
        default=os.environ.get("AEGIS_URL") or None,
        metavar="URL",
        help="server with the log: say how far behind it is (default: $AEGIS_URL, else do not)",
    )
    for step in (up, down, status):
        _add_sql(step)
        add_json_option(step)
        step.set_defaults(migrate=_run_read_model)
    _configure_rebuild(kinds)


def _configure_rebuild(kinds: Any) -> None:
    rebuild = kinds.add_parser(
        "rebuild",
        help="fill the read model anew from the log",
        description="Fill the read model anew, from the beginning of the log to its end as of now. It is one "
        "transaction: whoever reads sees the former rows until it is done, and a projector that runs waits "
        "and goes on behind it. So it takes room for all rows a second time, and the time to read the whole "
        "log. What --capture stored is lost, unless it is given again; rows that were removed because of "
        "their age come back.",
    )
    _add_sql(rebuild)
    add_content_options(rebuild.add_argument_group("read model"), level=None)
    add_json_option(rebuild)
    add_connection_options(rebuild)
    rebuild.set_defaults(migrate=_run_rebuild, usage_error=rebuild.error)


def _add_sql(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sql",
        default=os.environ.get("AEGIS_SQL") or DEFAULT_SQL,
        metavar="URL",
        help="the read model's database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE "
        f"(default: $AEGIS_SQL, else {DEFAULT_SQL})",
    )


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


def _run_read_model(args: Namespace) -> int:
    from migrations.readmodel.command import perform  # noqa: PLC0415 - heavy: not for --help

    return perform(args)


def _run_rebuild(args: Namespace) -> int:
    check_content(args)
    from migrations.readmodel.filling import fill  # noqa: PLC0415 - heavy: not for --help

    return fill(args)


def _run_effects(args: Namespace) -> int:
    from migrations.effects.command import perform  # noqa: PLC0415 - heavy: not for --help

    return perform(args)


VERB = Verb(
    "migrate",
    "make, upgrade and fill the tables in SQL databases",
    _configure,
    _run,
    examples="""
aegis migrate up --sql sqlite:///aegis.db
aegis migrate status --sql sqlite:///aegis.db --url nats://127.0.0.1:4222
aegis migrate rebuild --sql postgresql://aegis@db/aegis
aegis migrate effects up --database sqlite:///orders.db
aegis migrate effects status --database postgresql://orders@db/orders --json
aegis migrate effects down --database sqlite:///orders.db
""",
)

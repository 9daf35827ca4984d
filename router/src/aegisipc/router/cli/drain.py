"""``aegis drain``: let an instance finish what it runs, and leave."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option
from aegisipc.router.cli.operating import add_author_options, add_no_wait_option, add_timeout_option


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "place",
        type=_place,
        metavar="INSTANCE",
        help="its name, or SERVICE/GROUP/INSTANCE where several have that name (_pool: of a pool)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="even if it is the last of its group: then calls wait until another instance comes",
    )
    add_author_options(parser)
    add_timeout_option(parser, 60.0, "a router to decide, and the instance to leave")
    add_no_wait_option(parser, "it has left")
    add_json_option(parser)
    add_connection_options(parser)


def _place(text: str) -> tuple[str | None, str | None, str]:
    parts = text.split("/")
    if len(parts) not in (1, 3) or not all(parts):
        raise ArgumentTypeError(f"{text!r} is neither INSTANCE nor SERVICE/GROUP/INSTANCE")
    return (None, None, parts[0]) if len(parts) == 1 else (parts[0], parts[1], parts[2])


def run(args: Namespace) -> int:
    """Ask for it, and wait."""
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.draining import drain  # noqa: PLC0415 - heavy

    return run_async(drain(args))


VERB = Verb(
    "drain",
    "let an instance finish its calls and leave",
    configure,
    run,
    description="""\
Let an instance finish what it runs, hand over what it holds, and leave; then its process ends.

Its calls go on elsewhere, and no caller sees an error. The router that leads decides, and the wish is kept in
the log. The last instance of a group is drained with --force only. Exit code 1 if it was refused, if the
instance was lost instead of leaving, or if it has not left in time: then it still may.""",
    examples="""\
aegis drain orders-1 --reason 'kernel update'
aegis drain orders/g1/orders-1 --timeout 120""",
)

"""``aegis projector``: keep the read model in an SQL database current."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ArgumentGroup

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option, add_wait_option
from aegisipc.router.cli.listing import DEFAULT_SQL, add_sql_option

LEVELS = ("all", "failures", "off")
CAPTURED = ("arguments", "results")
_DURATION = re.compile(r"(\d{1,9})\s?(s|m|h|d)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    where = parser.add_argument_group("read model")
    add_sql_option(where, "the read model's database", DEFAULT_SQL)
    add_content_options(where)
    add_retention_options(where)
    add_json_option(parser)
    add_connection_options(parser)
    add_wait_option(parser)
    parser.set_defaults(usage_error=parser.error)


def add_content_options(group: _ArgumentGroup, level: str | None = "all") -> None:
    """Add which calls get rows, and what of them."""
    shown = level if level is not None else "as it is now"
    group.add_argument(
        "--calls",
        choices=LEVELS,
        default=level,
        help=f"which calls get rows: all, only those that did not succeed, or none (default: {shown})",
    )
    group.add_argument(
        "--capture",
        type=_captured,
        default=frozenset(),
        metavar="WHAT",
        help="also store arguments, results, or both (arguments,results), with --calls all; 16 KiB of each "
        "at most (default: neither)",
    )
    group.add_argument(
        "--redact",
        action="append",
        default=[],
        metavar="FIELD",
        help="make that field unreadable in what is captured and in errors, as aegis log export does: text "
        "becomes x, numbers 0 (may be given several times)",
    )


def add_retention_options(group: _ArgumentGroup) -> None:
    """Add how long rows are kept."""
    group.add_argument(
        "--keep-calls",
        type=_duration,
        metavar="TIME",
        help="remove calls that ended longer ago than that: 30d, 12h (default: keep all)",
    )
    group.add_argument(
        "--keep-history",
        type=_duration,
        metavar="TIME",
        help="remove promotions, events of instances, and doubts and dead letters that were dealt with, when "
        "they are older than that (default: keep all)",
    )


def check_content(args: Namespace) -> None:
    """Refuse what makes no sense together."""
    if args.capture and args.calls in ("failures", "off"):
        args.usage_error("--capture goes with --calls all")
    if args.redact:
        from aegisipc.eventstore.replay.redaction import BadField, Redactor  # noqa: PLC0415 - heavy

        try:
            Redactor(args.redact)
        except BadField as error:
            args.usage_error(error.message)


def _captured(text: str) -> frozenset[str]:
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not wanted or not wanted.issubset(CAPTURED):
        raise ArgumentTypeError(
            f"{text!r:.80}: give {', '.join(CAPTURED)}, or both with a comma between them"
        )
    return wanted


def _duration(text: str) -> int:
    found = _DURATION.fullmatch(text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found is not None else 0
    if not 0 < seconds <= 100 * 366 * 86_400:
        raise ArgumentTypeError(f"{text!r:.80} is no time to keep rows for; give one like 30d, 12h or 90m")
    return seconds


def run(args: Namespace) -> int:
    """Run the projector until SIGTERM or SIGINT."""
    check_content(args)
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.needing_sql import require_sql  # noqa: PLC0415 - heavy

    require_sql()
    from aegisipc.router.cli.projecting import project  # noqa: PLC0415 - heavy

    return run_async(project(args))


VERB = Verb(
    "projector",
    "keep the read model (history in an SQL database) current",
    configure,
    run,
    description="""\
Follow the log and write it as tables into an SQL database, for questions about history: aegis calls, aegis
promotions, aegis instances. Runs until SIGTERM or Ctrl-C; prints a line that starts with 'ready' once it
follows.

aegis migrate up makes the tables. Should the projector be killed, it goes on exactly where the tables are;
should the tables be lost, they are filled again from the log. Calls never wait for it. The router can do the
same beside its work: aegis router --sql URL.""",
    examples="""\
aegis migrate up --sql sqlite:///aegis.db && aegis projector --sql sqlite:///aegis.db
aegis projector --sql postgresql://aegis@db/aegis --calls failures --keep-calls 30d
aegis projector --capture arguments,results --redact card_number --redact iban""",
    serves=True,
)

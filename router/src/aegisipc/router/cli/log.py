"""``aegis log``: look at the log itself."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_json_option
from aegisipc.router.cli.durations import allow_ago
from aegisipc.router.cli.nested import Nested, add_common, run_nested

KINDS = ("call", "pen", "ha", "evidence", "state", "term", "snapshot")
_DEFAULT_COUNT = 20


def configure(parser: ArgumentParser) -> None:
    """Add the verb's own verbs."""
    verbs = Nested(parser, "log")
    tail = verbs.add(
        "tail",
        "print the newest records, one per line",
        "Print the newest records of the log, one per line; --follow goes on with new ones.",
        "-f --service orders --kind ha",
        _tail,
    )
    tail.add_argument(
        "-n", type=int, metavar="N", dest="count", help="how many (default: 20; with --from: all)"
    )
    tail.add_argument("-f", "--follow", action="store_true", help="print what is appended, until Ctrl-C")
    tail.add_argument("--from", type=int, metavar="SEQ", dest="from_seq", help="start at that sequence")
    tail.add_argument("--service", metavar="NAME", help="only records of that service")
    tail.add_argument("--group", metavar="NAME", help="only records of that group (_pool: of pools)")
    tail.add_argument("--kind", choices=KINDS, help="only records of that kind")
    add_common(tail)
    _add_export(verbs)
    _add_verify(verbs)
    _add_import(verbs)


def _add_export(verbs: Nested) -> None:
    parser = verbs.add(
        "export",
        "write a part of the log into a file, to look into it elsewhere",
        """\
Write an incident bundle: one file with the records of a part of the log, the state before them and the
heartbeats of that time. aegis replay --bundle FILE shows it anywhere, without a server; aegis log verify FILE
detects any changed byte; aegis log import FILE makes it a log again.

POINT is a time, a sequence, a call or an event, as for aegis replay. Near the beginning of the log a bundle
begins with its first record.

--redact replaces what a field holds by something of the same kind and length, in arguments, results, details
of errors and events of shared states, at any depth: text by x, numbers by 0. Arguments by position have the
names of their parameters; where nobody told these, all of them are replaced. The names arguments, results and
errors stand for all of these: messages of errors are free text, of which only goes what is replaced in the
details. Services, groups, methods, clients, resources and idempotency
keys stay, for routing goes by them. Large bodies are not in the log, and so in no bundle.""",
        "--around 019a9e6e --redact account --redact name",
        _export,
    )
    allow_ago(parser)
    parser.add_argument(
        "--around",
        metavar="CALL",
        help="from 30 s before that call was accepted to 30 s after its outcome (8 digits of its id will do)",
    )
    parser.add_argument("--from", metavar="POINT", dest="since", help="the first record (default: start)")
    parser.add_argument("--to", metavar="POINT", dest="until", help="the last record (default: end)")
    parser.add_argument(
        "--redact",
        metavar="FIELD",
        action="append",
        default=[],
        help="make that field unreadable (may be given again)",
    )
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="what to write (default: a name of its own, here)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if there is one")
    parser.add_argument("--bundle", metavar="FILE", help="take it from that bundle instead of a server's log")
    add_common(parser)


def _add_verify(verbs: Nested) -> None:
    parser = verbs.add(
        "verify",
        "check that an exported file is what was exported",
        "Read a bundle to its last byte: none has changed, and its records come to the state that the "
        "exporter had. If not, say from which record on it cannot be trusted. Whoever made the file can tell "
        "its fingerprint: if that is the same, it is the same file.",
        "incident.aegis",
        _verify,
    )
    parser.add_argument("file", metavar="FILE", help="a bundle")
    parser.add_argument(
        "-v", "--verbose", action="store_true", default=SUPPRESS, help="log everything, to stderr"
    )
    add_json_option(parser)


def _add_import(verbs: Nested) -> None:
    parser = verbs.add(
        "import",
        "make an exported file the log of a fresh namespace, for a rehearsal",
        "Make a bundle the log of a namespace that has none. Sequences are as they were; times are those of "
        "the import, and heartbeats are left out. Start a router there when it is done.",
        "incident.aegis --namespace rehearsal",
        _import,
    )
    parser.add_argument("file", metavar="FILE", help="a bundle")
    parser.add_argument(
        "--replicas", type=int, default=1, metavar="N", help="copies of the log to make it with (default: 1)"
    )
    add_common(parser)


def run(args: Namespace) -> int:
    """Run ``aegis log <verb>``."""
    return run_nested(args)


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


def _export(args: Namespace) -> int:
    if args.around is not None and (args.since or args.until):
        args.usage_error("--around says which part it is: it goes with no --from and no --to")
    if args.around is None and not (args.since or args.until):
        args.usage_error("say which part of the log: --around CALL, or --from POINT and --to POINT")

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.eventstore.replay.point_texts import BadPoint, parse_point  # noqa: PLC0415 - heavy
    from aegisipc.eventstore.replay.ranges import digits_of  # noqa: PLC0415 - heavy
    from aegisipc.eventstore.replay.redaction import BadField, Redactor  # noqa: PLC0415 - heavy
    from aegisipc.router.cli.bundling import export_bundle  # noqa: PLC0415 - heavy

    try:
        Redactor(args.redact)
        if args.around is not None:
            digits_of(args.around)
        for text in filter(None, (args.since, args.until)):
            parse_point(text)
    except (BadPoint, BadField) as error:
        args.usage_error(error.message)
    return run_async(export_bundle(args))


def _verify(args: Namespace) -> int:
    from aegisipc.router.cli.bundling import verify_bundle  # noqa: PLC0415 - heavy

    return verify_bundle(args)


def _import(args: Namespace) -> int:
    if args.replicas < 1:
        args.usage_error("--replicas: give a number of copies, 1 or more")

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.bundling import import_from  # noqa: PLC0415 - heavy

    return run_async(import_from(args))


VERB = Verb(
    "log",
    "look at the log: tail, export, verify, import",
    configure,
    run,
    description="""\
Look at the log of a namespace, which is all that AegisIPC knows; write a part of it into a file, an incident
bundle, and make that a log again elsewhere.""",
    examples="""\
aegis log tail                                    # the last 20 records
aegis log tail -f --service orders --kind ha      # registrations and promotions, as they happen
aegis log tail --from 1 --json                    # everything, for programs
aegis log export --around 019a9e6e                # what happened around a call, in one file
aegis log export --from -10m --redact account -o incident.aegis
aegis log verify incident.aegis                   # is it what was exported?
aegis log import incident.aegis --namespace rehearsal""",
)

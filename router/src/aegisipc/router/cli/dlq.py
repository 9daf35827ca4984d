"""``aegis dlq``: calls that were given up."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb
from aegisipc.router.cli.nested import EXAMPLE_CALL, Nested, add_common, call_id_in, run_nested
from aegisipc.router.cli.operating import add_author_options, add_timeout_option, author_of

DEFAULT_LIMIT = 100
MAX_LIMIT = 100_000
DEFAULT_TIMEOUT_S = 10.0
REASONS = ("attempts", "deadline", "poison")

_LIST = """\
List the dead letters, oldest first. They are read from the log, from the records that are about dead letters
and no others, so no router is needed."""
_SHOW = """\
Show the whole history of a call: its arguments, each attempt, the error and the summary of the stack with
which it was given up, and who requeued it when."""
_REQUEUE = """\
Let dead letters run again: under their own call ids, with a new deadline, attempts counted anew. Whoever
holds the pen of the group (in a pool: the eldest worker) records that, so an instance of the service has to
run.
Name the calls, or say which ones by --service and the like, or --all."""
_DISCARD = """\
Put dead letters away for good: they will never run again, and are not listed any more. Their history stays in
the log. Name the calls, or say which ones by --service and the like, or --all."""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's own verbs."""
    verbs = Nested(parser, "dlq")
    listing = verbs.add("list", "list the dead letters", _LIST, "--service orders", _list)
    _add_filters(listing)
    listing.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"how many, 1 to {MAX_LIMIT} (default: %(default)s)",
    )
    showing = verbs.add("show", "show the history of a dead letter", _SHOW, EXAMPLE_CALL, _show)
    showing.add_argument("call", metavar="CALL", help="its id")
    requeueing = verbs.add(
        "requeue",
        "let dead letters run again",
        _REQUEUE,
        f"{EXAMPLE_CALL} --reason 'venue is back'",
        _decide,
    )
    _add_selection(requeueing, "requeue")
    requeueing.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="how long they may wait for their start (default: as long as at first)",
    )
    discarding = verbs.add(
        "discard",
        "put dead letters away for good",
        _DISCARD,
        "--service orders --all",
        _decide,
    )
    _add_selection(discarding, "discard")
    for each in (listing, showing, requeueing, discarding):
        add_common(each)


def _add_filters(parser: ArgumentParser) -> None:
    parser.add_argument("--service", metavar="NAME", help="only those of that service")
    parser.add_argument("--group", metavar="NAME", help="only those of that group (_pool: of pools)")
    parser.add_argument("--method", metavar="NAME", help="only those of that method")
    parser.add_argument("--because", choices=REASONS, help="only those that were given up for that reason")
    parser.add_argument("--error", metavar="CODE", help="only those whose last attempt failed with that code")


def _add_selection(parser: ArgumentParser, decision: str) -> None:
    parser.add_argument("calls", metavar="CALL", nargs="*", help="their ids")
    _add_filters(parser)
    parser.add_argument("--all", action="store_true", help="all that the other options leave")
    add_author_options(parser)
    add_timeout_option(parser, DEFAULT_TIMEOUT_S, "the holder of the pen, for each call")
    parser.set_defaults(decision=decision)


def _list(args: Namespace) -> int:
    if not 1 <= args.limit <= MAX_LIMIT:
        args.usage_error(f"--limit: give a number from 1 to {MAX_LIMIT}")

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.dead_lettering import list_dead_letters  # noqa: PLC0415 - heavy

    return run_async(list_dead_letters(args))


def _show(args: Namespace) -> int:
    call_id = call_id_in(args, args.call)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.doubting import show  # noqa: PLC0415 - heavy

    return run_async(show(args, call_id))


def _decide(args: Namespace) -> int:
    filters = (args.service, args.group, args.method, args.because, args.error)
    if args.calls and (args.all or any(filters)):
        args.usage_error("name calls, or say which ones by options, not both")
    if not args.calls and not args.all:
        more = " to these options" if any(filters) else ""
        args.usage_error(f"name calls, or add --all{more}: then it is about all that are left")
    deadline_s = getattr(args, "deadline", None)
    if deadline_s is not None and not 0 < deadline_s <= 30 * 24 * 3600:
        args.usage_error("--deadline: give seconds, above 0 and at most 30 days")
    args.call_ids = [call_id_in(args, call) for call in dict.fromkeys(args.calls)]
    args.author = author_of(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.dead_lettering import decide  # noqa: PLC0415 - heavy

    return run_async(decide(args))


VERB = Verb(
    "dlq",
    "calls that were given up: list, show, requeue, discard",
    configure,
    run_nested,
    description="""\
A call is given up, and becomes a dead letter, when its last attempt failed (see the retry policy of its
method), when the next attempt would come after its deadline, or when it took down every instance that began
it. Its caller is told. It stays in the log, and can run again under its own id.""",
    examples=f"""\
aegis dlq list --service orders
aegis dlq show {EXAMPLE_CALL}
aegis dlq requeue {EXAMPLE_CALL} --reason 'the venue is back'
aegis dlq requeue --service orders --error venue_unavailable --all
aegis dlq discard --service orders --because poison --all""",
)

"""``aegis calls``: which calls there were, and single ones."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb
from aegisipc.router.cli.listing import (
    OPEN,
    STATUSES,
    add_model_options,
    add_sql_option,
    add_time_options,
    call_digits,
    check_times,
    duration_us,
)
from aegisipc.router.cli.nested import (
    EXAMPLE_CALL,
    Nested,
    add_common,
    call_id_in,
    run_nested,
)
from aegisipc.router.cli.operating import (
    add_author_options,
    add_no_wait_option,
    add_timeout_option,
    author_of,
)

DEFAULT_TIMEOUT_S = 10.0

_SHOW = """\
Show the history of a call: its arguments, what the log says of it, with who wrote it and when, and why the
router gave the pen to whom. The beginning of its id will do if no other call's begins so. All that is read
from the log alone, so no router is needed. Where the log cannot tell, the read model says what it knows, if
--sql (or $AEGIS_SQL) names one."""
_CANCEL = """\
Ask for a call not to run, or to stop. The request is kept in the log, so it holds even while nobody serves
the call. A call that has not started never will; one that runs is told to stop, and says itself how it ended;
one that has an outcome keeps it."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of the list, and the verb's own verbs."""
    _configure_list(parser)
    verbs = Nested(parser, "calls", required=False)
    show = verbs.add("show", "show the history of a call", _SHOW, EXAMPLE_CALL, _show)
    cancel = verbs.add("cancel", "ask for a call not to run, or to stop", _CANCEL, EXAMPLE_CALL, _cancel)
    show.add_argument(
        "call", metavar="CALL", type=call_digits, help="its id, or the first 8 digits or more of it"
    )
    cancel.add_argument("call", metavar="CALL", help="its id")
    add_author_options(cancel)
    add_timeout_option(cancel, DEFAULT_TIMEOUT_S, "the end of the call")
    add_no_wait_option(cancel, "the call has ended")
    for each in (show, cancel):
        add_common(each)
    add_sql_option(show, "the read model's database, to be asked if the log cannot tell", "none")


def _configure_list(parser: ArgumentParser) -> None:
    parser.set_defaults(run_nested=_list, usage_error=parser.error)
    parser.add_argument("--service", metavar="NAME", help="only those to that service")
    parser.add_argument("--group", metavar="NAME", help="only those to that group (_pool: to pools)")
    parser.add_argument("--method", metavar="NAME", help="only those of that method: place, or orders.place")
    parser.add_argument(
        "--status",
        action="append",
        default=[],
        choices=(OPEN, *STATUSES),
        metavar="STATUS",
        help=f"only those in that state; may be repeated: {OPEN} (no outcome yet), {', '.join(STATUSES)}",
    )
    add_time_options(parser, "those accepted")
    parser.add_argument(
        "--slower-than",
        type=duration_us,
        metavar="DURATION",
        help="only those that took at least so long (50ms, 1.5s, 2m), or are open for as long",
    )
    parser.add_argument("--resource", metavar="ID", help="only those for that resource")
    parser.add_argument("--client", metavar="NAME", help="only those of that client")
    add_model_options(parser)


def _list(args: Namespace) -> int:
    check_times(args)
    if args.service and "." in (args.method or ""):
        args.usage_error("--method: name the service there, or by --service")

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.needing_sql import require_sql  # noqa: PLC0415 - as above

    require_sql()
    from aegisipc.router.cli.model_answers import list_calls  # noqa: PLC0415 - heavy

    return run_async(list_calls(args))


def _show(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.showing import show  # noqa: PLC0415 - heavy

    return run_async(show(args))


def _cancel(args: Namespace) -> int:
    call_id = call_id_in(args, args.call)
    args.author = author_of(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.cancelling import cancel  # noqa: PLC0415 - heavy

    return run_async(cancel(args, call_id))


VERB = Verb(
    "calls",
    "which calls there were; show or cancel one",
    configure,
    run_nested,
    description="""\
List calls, those accepted last first, from the read model, which a projector keeps: no server is needed. With
show or cancel: look at one call, or cancel it.""",
    examples=f"""\
aegis calls --service orders --status failed --since -15m
aegis calls --method orders.place --slower-than 50ms --limit 20
aegis calls show {EXAMPLE_CALL}
aegis calls cancel {EXAMPLE_CALL} --reason 'wrong account'""",
)

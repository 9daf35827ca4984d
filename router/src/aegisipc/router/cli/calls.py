"""``aegis calls``: single calls."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option
from aegisipc.router.cli.operating import (
    add_author_options,
    add_no_wait_option,
    add_timeout_option,
    author_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_TIMEOUT_S = 10.0

_ID = "019a9e6e-8d5b-7000-8000-3b9aca000001"
_SHOW = """\
Show the history of a call: its arguments, and what the log says of it, with who wrote it and when. It is read
from the log alone, so no router is needed."""
_CANCEL = """\
Ask for a call not to run, or to stop. The request is kept in the log, so it holds even while nobody serves
the call. A call that has not started never will; one that runs is told to stop, and says itself how it ended;
one that has an outcome keeps it."""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's own verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    kinds: tuple[tuple[str, str, str, Callable[[Namespace], int]], ...] = (
        ("show", "show the history of a call", _SHOW, _show),
        ("cancel", "ask for a call not to run, or to stop", _CANCEL, _cancel),
    )
    for name, does, description, run_it in kinds:
        each = verbs.add_parser(
            name,
            help=does,
            description=description,
            epilog=f"example:\n  aegis calls {name} {_ID}",
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        each.set_defaults(calls_verb=run_it, usage_error=each.error)
        each.add_argument("call", metavar="CALL", help="its id")
        if name == "cancel":
            add_author_options(each)
            add_timeout_option(each, DEFAULT_TIMEOUT_S, "the end of the call")
            add_no_wait_option(each, "the call has ended")
        each.add_argument(
            "-v", "--verbose", action="store_true", default=SUPPRESS, help="log everything, to stderr"
        )
        add_json_option(each)
        add_connection_options(each)


def run(args: Namespace) -> int:
    """Run ``aegis calls <verb>``."""
    code: int = args.calls_verb(args)
    return code


def _show(args: Namespace) -> int:
    call_id = _call_id(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.doubting import show  # noqa: PLC0415 - heavy

    return run_async(show(args, call_id))


def _cancel(args: Namespace) -> int:
    call_id = _call_id(args)
    args.author = author_of(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.cancelling import cancel  # noqa: PLC0415 - heavy

    return run_async(cancel(args, call_id))


def _call_id(args: Namespace) -> bytes:
    from aegisipc.eventstore.errors import MalformedPayload  # noqa: PLC0415 - only to run the verb
    from aegisipc.eventstore.ids import parse_call_id  # noqa: PLC0415 - as above

    try:
        return parse_call_id(args.call)
    except MalformedPayload as error:
        args.usage_error(error.message)
        raise


VERB = Verb(
    "calls",
    "single calls: show, cancel",
    configure,
    run,
    description="Look at a call, or cancel it.",
    examples=f"""\
aegis calls show {_ID}
aegis calls cancel {_ID} --reason 'wrong account'""",
)

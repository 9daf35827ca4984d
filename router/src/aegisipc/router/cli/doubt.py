"""``aegis doubt``: calls of which nobody knows whether they ran."""

from __future__ import annotations

import json
from argparse import SUPPRESS, ArgumentParser, Namespace, _SubParsersAction

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option
from aegisipc.router.cli.operating import add_author_options, add_timeout_option, author_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
DEFAULT_TIMEOUT_S = 10.0

_LIST = """\
List the calls in doubt, oldest first. Any router answers that, so one has to run."""
_SHOW = """\
Show the history of a call, in doubt or not: its arguments, and what the log says of it, with who wrote it and
when. What is in parentheses changed nothing. It is read from the log alone, so no router is needed."""
_RESOLVE = """\
End the doubt about a call. With --executed the call has that result, and is over; with --not-executed it may
run now, unless its deadline has passed. Whoever waits for the call gets the answer.

--executed carries no events of the shared state: if the call was to change that, make the change by a call
of its own."""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's own verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _configure_list(_add(verbs, parser, "list", "list the calls in doubt", _LIST, "--service orders", _list))
    _configure_show(_add(verbs, parser, "show", "show the history of a call", _SHOW, _ID, _show))
    example = f"{_ID} --not-executed --reason 'the venue has no such order'"
    _configure_resolve(
        _add(verbs, parser, "resolve", "say whether a call was executed", _RESOLVE, example, _resolve)
    )


_ID = "019a9e6e-8d5b-7000-8000-3b9aca000001"


def _add(  # noqa: PLR0917 - what a verb consists of
    verbs: _SubParsersAction[ArgumentParser],
    parent: ArgumentParser,
    name: str,
    does: str,
    description: str,
    example: str,
    run: Callable[[Namespace], int],
) -> ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=does,
        description=description,
        epilog=f"example:\n  aegis doubt {name} {example}",
        formatter_class=parent.formatter_class,
        allow_abbrev=False,
    )
    parser.set_defaults(doubt_verb=run, usage_error=parser.error)
    return parser


def _configure_list(parser: ArgumentParser) -> None:
    parser.add_argument("--service", metavar="NAME", help="only those of that service")
    parser.add_argument("--group", metavar="NAME", help="only those of that group (_pool: of pools)")
    parser.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"how many, 1 to {MAX_LIMIT} (default: %(default)s)",
    )
    _add_common(parser)


def _configure_show(parser: ArgumentParser) -> None:
    parser.add_argument("call", metavar="CALL", help="its id")
    _add_common(parser)


def _configure_resolve(parser: ArgumentParser) -> None:
    parser.add_argument("call", metavar="CALL", help="its id")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--executed", metavar="JSON", help="it was, with this result (null: none)")
    how.add_argument("--not-executed", action="store_true", help="it was not")
    add_author_options(parser)
    add_timeout_option(parser, DEFAULT_TIMEOUT_S, "the holder of the group's pen")
    _add_common(parser)


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--verbose", action="store_true", default=SUPPRESS, help="log everything, to stderr"
    )
    add_json_option(parser)
    add_connection_options(parser)


def run(args: Namespace) -> int:
    """Run ``aegis doubt <verb>``."""
    code: int = args.doubt_verb(args)
    return code


def _list(args: Namespace) -> int:
    if not 1 <= args.limit <= MAX_LIMIT:
        args.usage_error(f"--limit: give a number from 1 to {MAX_LIMIT}")

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.doubting import list_doubts  # noqa: PLC0415 - heavy

    return run_async(list_doubts(args))


def _show(args: Namespace) -> int:
    call_id = _call_id(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.doubting import show  # noqa: PLC0415 - heavy

    return run_async(show(args, call_id))


def _resolve(args: Namespace) -> int:
    call_id = _call_id(args)
    result = None if args.not_executed else _result(args)
    args.author = author_of(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.resolving import resolve  # noqa: PLC0415 - heavy

    return run_async(resolve(args, call_id, result))


def _call_id(args: Namespace) -> bytes:
    from aegisipc.eventstore.errors import MalformedPayload  # noqa: PLC0415 - only to run the verb
    from aegisipc.eventstore.ids import parse_call_id  # noqa: PLC0415 - as above

    try:
        return parse_call_id(args.call)
    except MalformedPayload as error:
        args.usage_error(error.message)
        raise


def _result(args: Namespace) -> Any:
    try:
        return json.loads(args.executed, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        args.usage_error(
            f"--executed is not JSON: {args.executed!r:.200} ({error}); quote text for JSON and for the "
            "shell: '\"text\"'"
        )
        raise


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


VERB = Verb(
    "doubt",
    "calls of which nobody knows whether they ran: list, show, resolve",
    configure,
    run,
    description="""\
A call with effect 'once' is in doubt when the instance that had claimed it is gone, and nobody can know
whether it ran. It is not run again until somebody says what became of it: the service's reconcile hook, that
instance if it lives after all, or you.""",
    examples="""\
aegis doubt list --service orders
aegis doubt show 019a9e6e-8d5b-7000-8000-3b9aca000001
aegis doubt resolve 019a9e6e-8d5b-7000-8000-3b9aca000001 --executed '{"filled": 5}' --reason 'it was filled'
aegis doubt resolve 019a9e6e-8d5b-7000-8000-3b9aca000001 --not-executed""",
)

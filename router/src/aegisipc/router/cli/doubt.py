"""``aegis doubt``: calls of which nobody knows whether they ran."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb
from aegisipc.router.cli.nested import EXAMPLE_CALL, Nested, add_common, call_id_in, run_nested
from aegisipc.router.cli.operating import add_author_options, add_timeout_option, author_of

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    verbs = Nested(parser, "doubt")
    _configure_list(verbs.add("list", "list the calls in doubt", _LIST, "--service orders", _list))
    _configure_show(verbs.add("show", "show the history of a call", _SHOW, EXAMPLE_CALL, _show))
    example = f"{EXAMPLE_CALL} --not-executed --reason 'the venue has no such order'"
    _configure_resolve(verbs.add("resolve", "say whether a call was executed", _RESOLVE, example, _resolve))


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
    add_common(parser)


def _configure_show(parser: ArgumentParser) -> None:
    parser.add_argument("call", metavar="CALL", help="its id")
    add_common(parser)


def _configure_resolve(parser: ArgumentParser) -> None:
    parser.add_argument("call", metavar="CALL", help="its id")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--executed", metavar="JSON", help="it was, with this result (null: none)")
    how.add_argument("--not-executed", action="store_true", help="it was not")
    add_author_options(parser)
    add_timeout_option(parser, DEFAULT_TIMEOUT_S, "the holder of the group's pen")
    add_common(parser)


def _list(args: Namespace) -> int:
    if not 1 <= args.limit <= MAX_LIMIT:
        args.usage_error(f"--limit: give a number from 1 to {MAX_LIMIT}")

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.doubting import list_doubts  # noqa: PLC0415 - heavy

    return run_async(list_doubts(args))


def _show(args: Namespace) -> int:
    call_id = call_id_in(args, args.call)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.doubting import show  # noqa: PLC0415 - heavy

    return run_async(show(args, call_id))


def _resolve(args: Namespace) -> int:
    call_id = call_id_in(args, args.call)
    result = None if args.not_executed else _result(args)
    args.author = author_of(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.resolving import resolve  # noqa: PLC0415 - heavy

    return run_async(resolve(args, call_id, result))


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
    run_nested,
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

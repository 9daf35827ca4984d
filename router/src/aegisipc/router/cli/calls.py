"""``aegis calls``: single calls."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb
from aegisipc.router.cli.nested import EXAMPLE_CALL, Nested, add_common, call_id_in, run_nested
from aegisipc.router.cli.operating import (
    add_author_options,
    add_no_wait_option,
    add_timeout_option,
    author_of,
)

DEFAULT_TIMEOUT_S = 10.0

_SHOW = """\
Show the history of a call: its arguments, and what the log says of it, with who wrote it and when. It is read
from the log alone, so no router is needed."""
_CANCEL = """\
Ask for a call not to run, or to stop. The request is kept in the log, so it holds even while nobody serves
the call. A call that has not started never will; one that runs is told to stop, and says itself how it ended;
one that has an outcome keeps it."""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's own verbs."""
    verbs = Nested(parser, "calls")
    show = verbs.add("show", "show the history of a call", _SHOW, EXAMPLE_CALL, _show)
    cancel = verbs.add("cancel", "ask for a call not to run, or to stop", _CANCEL, EXAMPLE_CALL, _cancel)
    for each in (show, cancel):
        each.add_argument("call", metavar="CALL", help="its id")
    add_author_options(cancel)
    add_timeout_option(cancel, DEFAULT_TIMEOUT_S, "the end of the call")
    add_no_wait_option(cancel, "the call has ended")
    for each in (show, cancel):
        add_common(each)


def _show(args: Namespace) -> int:
    call_id = call_id_in(args, args.call)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.doubting import show  # noqa: PLC0415 - heavy

    return run_async(show(args, call_id))


def _cancel(args: Namespace) -> int:
    call_id = call_id_in(args, args.call)
    args.author = author_of(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.cancelling import cancel  # noqa: PLC0415 - heavy

    return run_async(cancel(args, call_id))


VERB = Verb(
    "calls",
    "single calls: show, cancel",
    configure,
    run_nested,
    description="Look at a call, or cancel it.",
    examples=f"""\
aegis calls show {EXAMPLE_CALL}
aegis calls cancel {EXAMPLE_CALL} --reason 'wrong account'""",
)

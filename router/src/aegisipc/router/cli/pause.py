"""``aegis pause`` and ``aegis resume``: start no more calls of a service or group, and start them again."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option
from aegisipc.router.cli.operating import add_author_options, add_timeout_option


def configure(parser: ArgumentParser) -> None:
    """Add the verbs' arguments."""
    parser.add_argument(
        "scope",
        type=_scope,
        metavar="SERVICE[/GROUP]",
        help="the service with all its groups, those to come as well; or one group (_pool: the pool)",
    )
    add_author_options(parser)
    add_timeout_option(parser, 30.0, "a router to decide")
    add_json_option(parser)
    add_connection_options(parser)


def _scope(text: str) -> tuple[str, str | None]:
    service, slash, group = text.partition("/")
    if not service or "/" in group or (slash and not group):
        raise ArgumentTypeError(f"{text!r} is neither SERVICE nor SERVICE/GROUP")
    return service, group or None


def _run(verb: str, args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.pausing import decide  # noqa: PLC0415 - heavy

    return run_async(decide(verb, args))


def _pause(args: Namespace) -> int:
    return _run("pause", args)


def _resume(args: Namespace) -> int:
    return _run("resume", args)


PAUSE = Verb(
    "pause",
    "start no more calls of a service or of a group",
    configure,
    _pause,
    description="""\
Start no more calls of a service, or of one of its groups, until 'aegis resume'.

Calls are still accepted, and wait in the log; those that run go on to their end. Deadlines go on: a call that
is not started before its own expires. A paused service is paused for groups that it gets later, too. Pausing
what is paused changes nothing.""",
    examples="""\
aegis pause orders --reason 'the exchange is closed'
aegis pause orders/g1""",
)

RESUME = Verb(
    "resume",
    "start calls again: after a pause, or in quarantine",
    configure,
    _resume,
    description="""\
Start the calls of a service, or of one of its groups, again: those that wait first, in their order.

It also ends the quarantine of instances that were started with 'aegis serve --quarantine'. Resuming what is
not paused changes nothing.""",
    examples="""\
aegis resume orders
aegis resume orders/g1 --reason 'checked by hand'""",
)

"""``aegis serve``: run one instance of a service."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Final

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option, add_wait_option

_PULSE_MS: Final = (10, 10_000)


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("where", metavar="MODULE:ATTR", help="the service: where to import it from")
    parser.add_argument("--group", metavar="NAME", help="group to join (default: named by its resources)")
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        dest="resources",
        metavar="ID",
        help="a resource that the group serves; repeat it for more. Without any, join the service's pool",
    )
    parser.add_argument("--instance", metavar="ID", help="name of this instance (default: made up)")
    parser.add_argument(
        "--quarantine",
        action="store_true",
        help="accept and queue calls, but run none before an operator resumes the group (aegis resume)",
    )
    parser.add_argument(
        "--pulse-ms",
        type=_pulse_ms,
        default=250,
        metavar="MS",
        help=f"time between two heartbeats, {_PULSE_MS[0]} to {_PULSE_MS[1]} (default: %(default)s)",
    )
    add_json_option(parser)
    add_connection_options(parser)
    add_wait_option(parser)


def _pulse_ms(text: str) -> int:
    least, most = _PULSE_MS
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not least <= value <= most:
        raise ArgumentTypeError(f"{text!r} is not a number of milliseconds from {least} to {most}")
    return value


def run(args: Namespace) -> int:
    """Run the instance until SIGTERM, SIGINT or an operator's wish."""
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.sdk.cli.loading import ServiceNotFound, load_service  # noqa: PLC0415 - as above

    try:
        service = load_service(args.where)
    except ServiceNotFound as error:
        if args.verbose and error.__cause__ is not None:
            import traceback  # noqa: PLC0415 - only then

            traceback.print_exception(error.__cause__)
        raise
    from aegisipc.sdk.cli.serving import serve  # noqa: PLC0415 - heavy, and the module may be wrong

    return run_async(serve(service, args))


VERB = Verb(
    "serve",
    "run an instance of a service",
    configure,
    run,
    description="""\
Run one instance of a service until SIGTERM, Ctrl-C or 'aegis drain'; then finish what runs and leave.

With --resource it joins the group that serves these resources: the first instance is active, further ones
are standbys that take over when it is gone. Without, it joins the service's pool, and calls are shared out.
Prints a line that starts with 'ready' once it is registered.""",
    examples="""\
aegis serve examples.orders:orders --resource acc_1 --resource acc_2
aegis serve examples.orders:orders --resource acc_1 --resource acc_2     # again: a standby
aegis serve examples.prices:prices                                       # a pool""",
    serves=True,
)

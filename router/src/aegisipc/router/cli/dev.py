"""``aegis dev``: a whole system for development, in the foreground."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_json_option, add_namespace_option


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--data", default=".aegis", metavar="DIR", help="where everything is kept (default: .aegis)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=4222, help="port for clients (default: 4222; 0: a free one)"
    )
    parser.add_argument(
        "--monitor-port",
        type=int,
        default=0,
        metavar="PORT",
        help="the server's pages /varz, /jsz … (default: a free one)",
    )
    parser.add_argument(
        "--no-fsync",
        action="store_true",
        help="faster; should the machine die, and not only the program, two minutes of calls may be lost",
    )
    parser.add_argument(
        "--no-system-account",
        action="store_true",
        help="the router does not hear from the server that a connection ended: it waits for the silence, as "
        "one without those credentials does",
    )
    add_namespace_option(parser)
    add_json_option(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: Namespace) -> int:
    """Run server and router until SIGTERM or SIGINT."""
    for name in ("port", "monitor_port"):
        if not 0 <= getattr(args, name) <= 65535:
            args.usage_error(f"--{name.replace('_', '-')}: a port is between 0 and 65535")

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.developing import develop  # noqa: PLC0415 - heavy

    return run_async(develop(args))


VERB = Verb(
    "dev",
    "run an embedded server and a router, for development",
    configure,
    run,
    description="""\
Run a nats-server and a router as children of this process, until SIGTERM or Ctrl-C.

Everything is kept in --data and found again at the next start. Each write is synced to disk before it is
acknowledged, unless --no-fsync is given. Prints a line that starts with 'ready', and the URL, once calls can
be made. The router listens to the server's system account, so that a standby takes over within milliseconds
of a death, unless --no-system-account is given. Should the router die, calls go on, and the server keeps
running; should the server die, so does this (exit code 1). The children end with this process, even if it is
killed.""",
    examples="""\
aegis dev
aegis dev --data /tmp/trial --port 0 --no-fsync""",
)

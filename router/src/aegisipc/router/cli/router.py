"""``aegis router``: run a router."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Final

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option, add_wait_option
from aegisipc.router.cli.projector import add_content_options, add_retention_options, check_content

_MOST_SNAPSHOT_S: Final = 365 * 24 * 3600.0


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--name", metavar="ID", help="this router's name (default: made up)")
    parser.add_argument(
        "--replicas", type=int, default=1, metavar="N", help="copies of the log to make it with (default: 1)"
    )
    parser.add_argument(
        "--max-bytes", type=int, default=0, metavar="N", help="size limit of the log (default: 0, none)"
    )
    _add_object_options(parser)
    add_policy_options(parser)
    _add_hint_options(parser)
    _add_snapshot_options(parser)
    _add_read_model_options(parser)
    add_json_option(parser)
    add_connection_options(parser)
    add_wait_option(parser)
    parser.set_defaults(usage_error=parser.error)


def _add_object_options(parser: ArgumentParser) -> None:
    """Add what is about bodies too large for a message."""
    parser.add_argument(
        "--objects-max-bytes",
        type=int,
        default=0,
        metavar="N",
        help="size limit of the store of large bodies (default: 0, none)",
    )
    parser.add_argument(
        "--objects-grace-s",
        type=int,
        default=3600,
        metavar="S",
        help="large arguments are removed so long after they were stored, if their call is over (default: "
        "%(default)s)",
    )


def add_policy_options(parser: ArgumentParser) -> None:
    """Add what says when silence means something."""
    parser.add_argument(
        "--suspect-after-ms",
        type=int,
        default=1000,
        metavar="MS",
        help="an instance that is silent for so long is suspected, and a standby takes over (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--lost-after-ms",
        type=int,
        default=3000,
        metavar="MS",
        help="and for so long, lost: it comes back as a new one only (default: %(default)s)",
    )


def _add_hint_options(parser: ArgumentParser) -> None:
    """Add what tells of trouble sooner than silence, or where there is none."""
    parser.add_argument(
        "--system-url",
        default=os.environ.get("AEGIS_SYSTEM_URL") or None,
        metavar="URL",
        help="the same servers with credentials of their system account (SYS): they tell of connections that "
        "end, so a standby takes over within milliseconds of a death (default: $AEGIS_SYSTEM_URL, else the "
        "second of silence is waited for); prefer the variable, for others can read command lines",
    )
    parser.add_argument(
        "--probe-ms",
        type=int,
        default=1000,
        metavar="MS",
        help="how often the leading router asks each instance how it is; three questions in a row without an "
        "answer make it suspected (default: %(default)s; 0: never)",
    )


def _add_snapshot_options(parser: ArgumentParser) -> None:
    """Add what says when the state is written down."""
    parser.add_argument(
        "--snapshot-every",
        type=int,
        default=100_000,
        metavar="N",
        help="while it leads, write a snapshot of the state into the log after so many words about calls, so "
        "that routers start from there instead of from the beginning (default: %(default)s; 0: never)",
    )
    parser.add_argument(
        "--snapshot-seconds",
        type=float,
        default=900,
        metavar="S",
        help="and after so long, if there was a word at all (default: %(default)s)",
    )


def _add_read_model_options(parser: ArgumentParser) -> None:
    """Add what is about a projector beside the router."""
    group = parser.add_argument_group("read model")
    group.add_argument(
        "--sql",
        metavar="URL",
        help="also keep this read model current, as aegis projector does: sqlite:///FILE or "
        "postgresql://USER:PASSWORD@HOST/DATABASE (default: none)",
    )
    add_content_options(group)
    add_retention_options(group)


def check_policy(args: Namespace) -> None:
    """Refuse limits that make no sense."""
    if args.suspect_after_ms < 1 or args.lost_after_ms < args.suspect_after_ms:
        args.usage_error("--suspect-after-ms is at least 1, and --lost-after-ms not below it")


def run(args: Namespace) -> int:
    """Run the router until SIGTERM or SIGINT."""
    check_policy(args)
    if args.probe_ms < 0:
        args.usage_error("--probe-ms is 0 (never) or more")
    if args.replicas < 1 or args.max_bytes < 0:
        args.usage_error("--replicas is at least 1; --max-bytes is 0 or more")
    if args.objects_max_bytes < 0 or args.objects_grace_s < 0:
        args.usage_error("--objects-max-bytes and --objects-grace-s are 0 or more")
    if args.snapshot_every < 0 or not 1 <= args.snapshot_seconds <= _MOST_SNAPSHOT_S:
        args.usage_error(
            "--snapshot-every is 0 (never) or more, and --snapshot-seconds 1 to 31536000 (a year)"
        )
    if not args.sql and (args.capture or args.redact or args.keep_calls or args.keep_history):
        args.usage_error("--capture, --redact, --keep-calls and --keep-history go with --sql")
    check_content(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.needing_sql import require_sql  # noqa: PLC0415 - heavy
    from aegisipc.router.cli.routing import route  # noqa: PLC0415 - heavy

    if args.sql:
        require_sql()

    return run_async(route(args))


VERB = Verb(
    "router",
    "run a router: it admits instances, promotes standbys, watches pulses",
    configure,
    run,
    description="""\
Run a router until SIGTERM or Ctrl-C.

It makes the namespace's log where there is none (with --replicas and --max-bytes), reads it from the newest
snapshot on, and prints a line that starts with 'ready' once it follows. One of the routers of a namespace
leads; the others take over when it is gone. Calls do not pass through a router: without any, calls go on, but
nobody is promoted.

An instance that is silent is suspected, and its standby promoted. With credentials of the servers' system
account (--system-url) the router need not wait for the silence: it hears at once that a connection ended.
Should it lose that account, it says so, works on by the pulses, and connects again when it can.

With --sql it keeps a read model current beside its work (aegis migrate up makes the tables). Whatever happens
to that database, the router goes on; aegis status --json says how far the read model is.""",
    examples="""\
aegis router --url nats://127.0.0.1:4222
aegis router --name router-1 --replicas 3 --max-bytes 4294967296
aegis router --sql postgresql://aegis@db/aegis --keep-calls 30d
AEGIS_SYSTEM_URL=nats://sys:PASSWORD@127.0.0.1:4222 aegis router""",
    serves=True,
)

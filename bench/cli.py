"""The verb `aegis bench`."""

from __future__ import annotations

from aegisipc.eventstore.cli import Verb, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any


def _configure(parser: ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    _configure_rpc(kinds)
    _configure_failover(kinds)
    _configure_keys(kinds)
    _configure_replay(kinds)
    _configure_projection(kinds)


def _configure_replay(kinds: Any) -> None:
    replay = kinds.add_parser(
        "replay",
        help="how long it takes to replay a log, and to start a router on it",
        description="Real calls build a log; then aegis replay folds it to its end, from the beginning and "
        "from the newest snapshot, and the router is started anew. Time and peak memory of each. Exit code 1 "
        "if both come to different states.",
    )
    replay.add_argument(
        "--calls", type=_count, default=100_000, metavar="N", help="calls in the log (default: %(default)s)"
    )
    replay.add_argument(
        "--open",
        type=_whole,
        default=20_000,
        metavar="N",
        help="calls that nobody concludes, for the last measurement (default: %(default)s; 0: none)",
    )
    _add_common(replay)
    replay.set_defaults(measure=_run_replay)


def _configure_projection(kinds: Any) -> None:
    projection = kinds.add_parser(
        "projection",
        help="how far the SQL read model is behind the log under load",
        description="Calls at a steady rate, and a projector that writes all of them into a database: how "
        "far it is behind, how fast it is alone, and whether every call is in its tables in the end (else "
        "exit code 1).",
    )
    projection.add_argument(
        "--rate", type=_count, default=10_000, metavar="N", help="calls per second (default: %(default)s)"
    )
    projection.add_argument(
        "--seconds", type=_count, default=10, metavar="S", help="for how long (default: %(default)s)"
    )
    projection.add_argument(
        "--sql", metavar="URL", help="the database, empty (default: a SQLite file that is removed afterwards)"
    )
    _add_common(projection)
    projection.set_defaults(measure=_run_projection)


def _configure_keys(kinds: Any) -> None:
    keys = kinds.add_parser(
        "keys",
        help="what idempotency keys cost in time and memory",
        description="Calls with distinct idempotency keys beside calls without, and the memory of each "
        "process as the keys gather; then keys are used again, also after the service was killed and "
        "started anew. Exit code 1 if one gives another result than before, or anything runs twice.",
    )
    keys.add_argument(
        "--keys", type=_count, default=100_000, metavar="N", help="distinct keys (default: %(default)s)"
    )
    keys.add_argument(
        "--concurrency",
        type=_count,
        default=256,
        metavar="N",
        help="calls in flight (default: %(default)s)",
    )
    keys.add_argument("--pool", action="store_true", help="call a pool, not a group with a pen")
    _add_common(keys)
    keys.set_defaults(measure=_run_keys)


def _configure_rpc(kinds: Any) -> None:
    rpc = kinds.add_parser(
        "rpc",
        help="durable calls beside plain nats-py request/reply",
        description="Durable calls of an idempotent and of a once method beside plain (non-durable) nats-py "
        "request/reply on the same server: own processes for server, router, service and echo; interleaved "
        "rounds, of which the median counts.",
    )
    rpc.add_argument(
        "--concurrency",
        type=_counts,
        default=[1, 64, 256],
        metavar="N,N,…",
        help="calls in flight (default: 1,64,256)",
    )
    rpc.add_argument(
        "--calls",
        type=_count,
        default=20_000,
        metavar="N",
        help="calls per round at 64 and more (default: %(default)s)",
    )
    rpc.add_argument(
        "--rounds", type=_count, default=3, metavar="N", help="rounds per figure (default: %(default)s)"
    )
    _add_common(rpc)
    rpc.set_defaults(measure=_run_rpc)


def _configure_failover(kinds: Any) -> None:
    failover = kinds.add_parser(
        "failover",
        help="kill the active instance of a group under load, again and again",
        description="Kill -9 of the active instance of a group, under an open loop of calls at a steady "
        "rate; how long until the standby's first outcome is durable, and until the client has its first "
        "reply. Own processes for server, router and instances. Exit code 1 if a call is lost or has two "
        "outcomes.",
    )
    failover.add_argument(
        "--kills", type=_count, default=50, metavar="N", help="how often (default: %(default)s)"
    )
    failover.add_argument(
        "--rate", type=_count, default=5000, metavar="N", help="calls per second (default: %(default)s)"
    )
    failover.add_argument(
        "--effect",
        choices=("idempotent", "once"),
        default="idempotent",
        help="of the method that is called: what a standby runs again, or what is in doubt then "
        "(default: %(default)s)",
    )
    failover.add_argument(
        "--no-system-account",
        action="store_true",
        help="the router does not hear of ended connections: it notices silence only",
    )
    failover.add_argument(
        "--pulse-ms",
        type=_count,
        default=250,
        metavar="MS",
        help="time between heartbeats of an instance (default: %(default)s)",
    )
    failover.add_argument(
        "--suspect-after-ms",
        type=_count,
        default=1000,
        metavar="MS",
        help="silence after which the router suspects an instance (default: %(default)s)",
    )
    _add_common(failover)
    failover.set_defaults(measure=_run_failover)


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--no-fsync", action="store_true", help="do not sync each frame to disk before it is acknowledged"
    )
    add_json_option(parser)


def _run(args: Namespace) -> int:
    code: int = args.measure(args)
    return code


def _run_failover(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - heavy: not for --help
    from bench.failover import report  # noqa: PLC0415 - as above
    from bench.scene import Plan  # noqa: PLC0415 - as above

    plan = Plan(
        args.kills,
        args.rate,
        args.effect,
        system_account=not args.no_system_account,
        pulse_ms=args.pulse_ms,
        suspect_after_ms=args.suspect_after_ms,
        fsync=not args.no_fsync,
    )
    return run_async(report(plan, as_json=args.json))


def _run_replay(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - heavy: not for --help
    from bench.replays import Plan, report  # noqa: PLC0415 - as above

    plan = Plan(args.calls, args.open, fsync=not args.no_fsync)
    return run_async(report(plan, as_json=args.json))


def _run_projection(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - heavy: not for --help
    from bench.projection import Plan, report  # noqa: PLC0415 - as above

    plan = Plan(args.rate, args.seconds, args.sql, fsync=not args.no_fsync)
    return run_async(report(plan, as_json=args.json))


def _run_keys(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - heavy: not for --help
    from bench.keys import Plan, report  # noqa: PLC0415 - as above

    plan = Plan(args.keys, args.concurrency, args.pool, fsync=not args.no_fsync)
    return run_async(report(plan, as_json=args.json))


def _run_rpc(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - heavy: not for --help
    from bench.rpc import Plan, report  # noqa: PLC0415 - as above

    plan = Plan(tuple(args.concurrency), args.calls, args.rounds, fsync=not args.no_fsync)
    return run_async(report(plan, as_json=args.json))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


VERB = Verb(
    "bench",
    "measure calls beside their baselines, failovers, keys, replay, projection",
    _configure,
    _run,
    examples="""
aegis bench rpc
aegis bench rpc --concurrency 64 --no-fsync --json
aegis bench failover
aegis bench keys --keys 1000000 --json
aegis bench replay --calls 1000000 --json
aegis bench projection --rate 10000 --json
aegis bench failover --kills 10 --rate 1000 --effect once --no-system-account --json
""",
)

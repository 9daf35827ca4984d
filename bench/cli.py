"""The verb `aegis bench`."""

from __future__ import annotations

from aegisipc.eventstore.cli import Verb, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _configure(parser: ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
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
    rpc.add_argument(
        "--no-fsync", action="store_true", help="do not sync each frame to disk before it is acknowledged"
    )
    add_json_option(rpc)


def _run(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - heavy: not for --help
    from bench.rpc import Plan, report  # noqa: PLC0415 - as above

    plan = Plan(tuple(args.concurrency), args.calls, args.rounds, fsync=not args.no_fsync)
    return run_async(report(plan, as_json=args.json))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


VERB = Verb(
    "bench",
    "measure calls beside their baselines",
    _configure,
    _run,
    examples="""
aegis bench rpc
aegis bench rpc --concurrency 64 --no-fsync --json
""",
)

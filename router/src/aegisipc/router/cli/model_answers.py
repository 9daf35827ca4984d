"""What the read model answers, printed."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from aegisipc.eventstore.cli.output import Paint, print_json
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.names import POOL_GROUP, check_method, check_name, check_resource
from aegisipc.eventstore.sql import queries
from aegisipc.eventstore.sql.engines import DEFAULT_SQL
from aegisipc.eventstore.sql.queries import Found, WantedCalls, WantedHistory
from aegisipc.eventstore.sql.reading import Answer, ask
from aegisipc.router.cli import history_tables as tables
from aegisipc.router.cli.listing import OPEN

if TYPE_CHECKING:
    from sqlalchemy import Connection


async def list_calls(args: Namespace) -> int:
    """Print the calls that the arguments ask for."""
    now_ns = time.time_ns()
    wanted = _wanted_calls(args, now_ns)
    answer = await _ask(args, lambda connection: queries.calls(connection, wanted, args.limit))
    paint = Paint()
    if args.json:
        _print_plain("calls", answer.value, answer.checkpoint)
        return 0
    print(tables.calls_table(answer.value, now_ns, paint))
    for line in tables.level_hint(answer.checkpoint, paint):
        print(line)
    print(tables.freshness(answer.checkpoint, now_ns, paint))
    return 0


def _wanted_calls(args: Namespace, now_ns: int) -> WantedCalls:
    statuses: list[str] = []
    for status in args.status:
        statuses += queries.OPEN_STATES if status == OPEN else [CallState(status)]
    service, dot, method = (args.method or "").rpartition(".")
    return WantedCalls(
        service=_name(service if dot else args.service, "service"),
        group=_group(args.group),
        method=None if args.method is None else check_method(method),
        statuses=statuses,
        since_ns=args.since,
        until_ns=args.until,
        slower_than_us=args.slower_than,
        now_ns=now_ns,
        resource=None if args.resource is None else check_resource(args.resource),
        client=_name(args.client, "client"),
    )


async def list_promotions(args: Namespace) -> int:
    """Print who got or lost the pens of groups."""
    return await _list_history(args, "promotions", queries.promotions, tables.promotions_table)


async def list_instances(args: Namespace) -> int:
    """Print the instances that are there, or with ``--history`` what happened to them."""
    if args.history:
        return await _list_history(args, "events", queries.instance_events, tables.events_table)
    return await _list_history(args, "instances", queries.instances, tables.instances_table)


async def _list_history(
    args: Namespace,
    name: str,
    query: Callable[[Connection, WantedHistory, int], Found],
    as_table: Callable[[Found, Paint], str],
) -> int:
    wanted = WantedHistory(
        service=_name(args.service, "service"),
        group=_group(args.group),
        instance=_name(args.instance, "instance"),
        since_ns=args.since,
        until_ns=args.until,
    )
    answer = await _ask(args, lambda connection: query(connection, wanted, args.limit))
    if args.json:
        _print_plain(name, answer.value, answer.checkpoint)
        return 0
    paint = Paint()
    print(as_table(answer.value, paint))
    print(tables.freshness(answer.checkpoint, time.time_ns(), paint))
    return 0


def _print_plain(name: str, found: Found, checkpoint: queries.Row) -> None:
    rows = [tables.as_plain(row) for row in found.rows]
    print_json({name: rows, "more": found.more, "model": tables.model_plain(checkpoint)})


async def _ask[T](args: Namespace, question: Callable[[Connection], T]) -> Answer[T]:
    return await ask(args.sql or DEFAULT_SQL, question, namespace=args.namespace)


def _name(name: str | None, what: str) -> str | None:
    return None if name is None else check_name(name, what)


def _group(name: str | None) -> str | None:
    return name if name == POOL_GROUP else _name(name, "group")

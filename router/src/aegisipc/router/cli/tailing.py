"""The newest records of the log, and those to come."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from aegisipc.eventstore.cli.output import Paint, print_json
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.names import POOL_GROUP, check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import TERM, Subjects, subjects_of
from aegisipc.router.cli.records import as_line, as_plain

_WIDEN: Final = 8
_FIRST_WINDOW: Final = 64
_MOST_WAITING: Final = 4096
_LOOK_S: Final = 0.5


async def tail(args: Namespace) -> int:
    """Print the records that the arguments ask for."""
    subjects = subjects_of(args.namespace)
    wanted = filter_of(subjects, args.service, args.group, args.kind)
    show = _printer(args, subjects)
    async with await Connection.open(ConnectOptions(args.url, name="aegis:log")) as connection:
        log = await open_log(connection, subjects)
        position = (await log.bounds()).last_seq
        records = newest(log, wanted, args.count or 0) if args.from_seq is None else _from(log, wanted, args)
        async for record in records:
            show(record)
            position = max(position, record.seq)
        if args.follow:
            await follow(log, wanted, max(position + 1, args.from_seq or 1), show)
    return 0


def _printer(args: Namespace, subjects: Subjects) -> Callable[[Record], None]:
    paint = Paint()

    def show(record: Record) -> None:
        if args.json:
            print_json(as_plain(record, subjects))
        else:
            print(as_line(record, subjects, paint), flush=True)

    return show


def filter_of(subjects: Subjects, service: str | None, group: str | None, kind: str | None) -> str:
    """Return the subject filter for what was asked for.

    Raises:
        InvalidName: service or group cannot be names.
    """
    if kind == TERM:
        return subjects.term
    if service is not None:
        check_name(service, "service")
    if group not in (None, POOL_GROUP):
        check_name(group, "group")
    if service is None and group is None and kind is None:
        return subjects.everything
    return f"{subjects.log_root}.{service or '*'}.{group or '*'}.{f'{kind}.*' if kind else '>'}"


async def newest(log: JetStreamLog, wanted: str, count: int) -> AsyncIterator[Record]:
    """Iterate over the last `count` records that match, without reading the whole log.

    Reading starts near the end; while too few records match, from further back.
    """
    if count == 0:
        return
    bounds = await log.bounds()
    window = max(count, _FIRST_WINDOW)
    while True:
        start = max(bounds.first_seq, bounds.last_seq - window + 1)
        found: deque[Record] = deque(maxlen=count)
        async for record in log.read([wanted], start=Start(start)):
            found.append(record)
        if len(found) == count or start == bounds.first_seq:
            break
        window *= _WIDEN
    for record in found:
        yield record


async def _from(log: JetStreamLog, wanted: str, args: Namespace) -> AsyncIterator[Record]:
    left = args.count
    if left == 0:
        return
    async for record in log.read([wanted], start=Start(args.from_seq)):
        yield record
        if left is not None:
            left -= 1
            if left == 0:
                return


async def follow(log: JetStreamLog, wanted: str, seq: int, show: Callable[[Record], None]) -> None:
    """Show what comes from `seq` on, until cancelled."""
    arrived: deque[Record] = deque()
    something = asyncio.Event()

    def deliver(record: Record) -> None:
        arrived.append(record)
        something.set()

    following = await log.follow([wanted], deliver, start=Start(seq))
    try:
        while True:
            if following.failure is not None:
                raise following.failure
            if len(arrived) > _MOST_WAITING:  # whoever reads us is slower than the log
                following.hold()
            while arrived:
                show(arrived.popleft())
            following.release()
            something.clear()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await something.wait()
            except TimeoutError:
                continue
    finally:
        await following.stop()

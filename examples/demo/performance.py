"""One performance of the demonstration, from the flow to the verdict."""

from __future__ import annotations

import asyncio
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.ending import ended_by_sigterm
from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from examples.demo.audit import audited
from examples.demo.book import book_of
from examples.demo.display import Display, display_for
from examples.demo.faults import FAULTS, Failover, Faults, together
from examples.demo.flow import SHIPPED, Place, Step, accounts_of, groups_of, read_flow
from examples.demo.generate import SHIPPED_ORDERS, generate
from examples.demo.play import play
from examples.demo.recount import Recount, recount
from examples.demo.stage import NAMESPACE, Stage
from examples.demo.summary import Summary, summarize
from examples.demo.tally import Tally
from examples.demo.verdict import verdict
from examples.demo.watch import watching

_INTERRUPTED: Final = 130


class DataDirNotEmpty(AegisError):
    """The directory for the log holds something already. Field: ``path``."""

    code = "data_dir_not_empty"


async def perform(args: Namespace) -> int:
    """Play the flow that `args` name and return the exit code."""
    steps = read_flow(args.orders or SHIPPED) if args.seed is None else generate(args.seed, SHIPPED_ORDERS)
    began_s = time.perf_counter()
    try:
        with data_dir(args.data) as place, ended_by_sigterm():
            summary = await rehearsed(place, steps, args)
    except asyncio.CancelledError:
        say("demo: stopped")
        return _INTERRUPTED
    total_s = time.perf_counter() - began_s
    if args.json:
        print_json({**summary.to_json(), "total_s": round(total_s, 2), "fsync": not args.no_fsync})
    else:
        Console().print(verdict(summary, total_s, args.data))
    return 0 if summary.is_good else 1


async def rehearsed(place: Path, steps: Sequence[Step], args: Namespace) -> Summary:
    """Set the stage, play, recount, clear the stage."""
    tally = Tally(len(steps))
    books = place if args.kill else None
    audit = None
    with display_for(_title(steps, fsync=not args.no_fsync)) as display:
        display.phase("starting")
        async with (
            ticking(display),
            Stage(
                place, groups_of(steps), fsync=not args.no_fsync, tell=display.process, books=books
            ) as stage,
        ):
            display.phase("playing")
            display.show(tally)
            acting = _play_with_faults if args.kill else _play
            failovers = await guarded(acting(stage, steps, tally, args, display), stage.watch())
            display.phase("recounting from the log")
            counted = await guarded(recounted(stage.url), stage.watch())
            display.phase("clearing up")
    if books is not None:
        audit = audited(failovers, counted, executed_in(books))
    return summarize(tally, counted, audit)


async def _play(
    stage: Stage, steps: Sequence[Step], tally: Tally, args: Namespace, _display: Display
) -> list[Failover]:
    await play(stage.url, NAMESPACE, steps, tally, concurrency=args.concurrency)
    return []


async def _play_with_faults(
    stage: Stage, steps: Sequence[Step], tally: Tally, args: Namespace, display: Display
) -> list[Failover]:
    async with watching(stage.url, subjects_of(NAMESPACE)) as watch:
        faults = Faults(stage, watch, steps, display.happened)
        playing = play(
            stage.url, NAMESPACE, steps, tally, concurrency=args.concurrency, may_send=faults.may_send
        )
        await together(playing, faults.run())
    return faults.failovers


def executed_in(books: Path) -> Counter[str]:
    """Read from the venue's books how often each order was executed, by the id of its call."""
    found: Counter[str] = Counter()
    for group in FAULTS:
        book = book_of(books, group)
        book.refresh()
        found += book.placed
        book.close()
    return found


async def recounted(url: str) -> Recount:
    """Read the log by a connection of its own."""
    subjects = subjects_of(NAMESPACE)
    async with await Connection.open(ConnectOptions(url, name="aegis:demo:recount")) as connection:
        return await recount(await open_log(connection, subjects), subjects)


async def guarded[T](work: Coroutine[Any, Any, T], guard: Coroutine[Any, Any, None]) -> T:
    """Do `work`; if `guard` ends first, which it does by raising, stop and raise that."""
    tasks = (asyncio.ensure_future(work), asyncio.ensure_future(guard))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1] in done:
            tasks[1].result()
        return await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def ticking(display: Display) -> AsyncIterator[None]:
    """Let the display draw as often as it wants to."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(display.every_s)
            display.tick()

    task = asyncio.ensure_future(tick())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextmanager
def data_dir(chosen: Path | None) -> Iterator[Path]:
    """Give a directory for everything: a temporary one, or the chosen one, which must be empty.

    Raises:
        DataDirNotEmpty: an older log there would be counted, too.
    """
    if chosen is None:
        with tempfile.TemporaryDirectory(prefix="aegis-demo-") as made:
            yield Path(made)
        return
    chosen.mkdir(parents=True, exist_ok=True)
    if any(chosen.iterdir()):
        raise DataDirNotEmpty(
            f"cannot use {chosen}: it is not empty; give a new directory, or remove this one",
            path=str(chosen),
        )
    yield chosen


def _title(steps: Sequence[Step], *, fsync: bool) -> str:
    orders = sum(isinstance(step, Place) for step in steps)
    synced = "every write synced" if fsync else "writes not synced"
    return f"AegisIPC demo: {orders:,} orders of {len(accounts_of(steps))} accounts, {synced}"

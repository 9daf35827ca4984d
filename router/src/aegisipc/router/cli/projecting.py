"""A projector in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
from argparse import Namespace

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.cli.waiting import patiently
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.replay.redaction import Redactor
from aegisipc.eventstore.sql.capture import ARGUMENTS, RESULTS, Capture
from aegisipc.eventstore.sql.checkpointing import LogName
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.lagging import log_name
from aegisipc.eventstore.sql.projecting import Level
from aegisipc.eventstore.sql.projector import Projector, ProjectorOptions
from aegisipc.eventstore.sql.retention import Retention
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.cli.listing import DEFAULT_SQL


def options_of(args: Namespace) -> ProjectorOptions:
    """Return what the arguments ask for."""
    return ProjectorOptions(
        level=Level(args.calls),
        capture=capture_of(args),
        retention=Retention(args.keep_calls, args.keep_history),
    )


def capture_of(args: Namespace) -> Capture:
    """Return what is to be captured."""
    return Capture(
        arguments=ARGUMENTS in args.capture,
        results=RESULTS in args.capture,
        redact=Redactor(args.redact),
    )


async def project(args: Namespace) -> int:
    """Keep the read model current until a signal comes.

    Raises:
        AegisError: the database or the log is not what it should be, or cannot be used any more.
    """
    subjects = subjects_of(args.namespace)
    stopping = asyncio.Event()
    running = asyncio.get_running_loop().create_task(_run(args, subjects))

    def stop() -> None:
        stopping.set()
        running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await running
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
    say("stopped the projector")
    return 0


async def _run(args: Namespace, subjects: Subjects) -> None:
    async with open_database(args.sql or DEFAULT_SQL) as database:
        options = ConnectOptions(args.url, name="aegis:projector")
        connection = await patiently(lambda: Connection.open(options), args.wait)
        async with connection:
            log, name = await patiently(lambda: _find(connection, subjects), args.wait)
            projector = Projector(log, subjects, name, database, options_of(args))
            telling = asyncio.create_task(_announce(args, projector))
            try:
                await projector.run()
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)


async def _find(connection: Connection, subjects: Subjects) -> tuple[JetStreamLog, LogName]:
    return await open_log(connection, subjects), await log_name(connection, subjects)


async def _announce(args: Namespace, projector: Projector) -> None:
    await projector.following.wait()
    status = projector.status()
    if args.json:
        print_json({"ready": True, "namespace": args.namespace, "pid": os.getpid(), **status})
        return
    print(
        f"ready projector of {args.namespace} into {status['database']} (from sequence "
        f"{status['position']}, calls: {status['level']})",
        flush=True,
    )

"""What of ``aegis migrate`` needs the log: filling a read model anew, and how far it is behind."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.cli.running import run_async
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.sql import checkpointing
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.lagging import lag_of, log_name
from aegisipc.eventstore.sql.projecting import Level
from aegisipc.eventstore.sql.rebuilding import rebuild
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.projecting import capture_of


def fill(args: Namespace) -> int:
    """Fill a read model from the beginning of the log; return the exit code."""
    return run_async(_fill(args))


async def _fill(args: Namespace) -> int:
    subjects = subjects_of(args.namespace)
    async with (
        open_database(args.sql) as database,
        await Connection.open(ConnectOptions(args.url, name="aegis:rebuild")) as connection,
    ):
        log = await open_log(connection, subjects)
        name = await log_name(connection, subjects)
        level = Level(args.calls) if args.calls is not None else None
        done = await rebuild(log, subjects, name, database, level=level, capture=capture_of(args))
        if args.json:
            told = {"database": database.shown, "position": done.position, "rows": done.rows}
            print_json(told | {"level": done.level, "seconds": round(done.seconds, 3)})
        else:
            sys.stdout.write(
                f"{database.shown}: filled anew up to sequence {done.position}: {done.rows} rows in "
                f"{done.seconds:.1f} s (calls: {done.level})\n"
            )
    return 0


def lag_behind(url: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return how far a read model is behind its log, on the server at `url`.

    Raises:
        WrongLog, RebuildNeeded: it is that of another log.
        AegisError: the log cannot be read.
    """
    found: dict[str, Any] = {}

    async def ask() -> int:
        subjects = subjects_of(checkpoint["namespace"])
        async with await Connection.open(ConnectOptions(url, name="aegis:migrate")) as connection:
            log = await open_log(connection, subjects)
            checkpointing.check(checkpoint, "this read model", await log_name(connection, subjects))
            lag = await lag_of(log, subjects, checkpoint["position"])
        found.update(log_end=lag.log_end, lag_records=lag.records, lag_s=lag.seconds)
        return 0

    run_async(ask())
    return found

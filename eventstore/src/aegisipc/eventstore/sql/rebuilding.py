"""Filling a read model anew from the whole log, while others read it and a projector runs.

It is one transaction: until its end everybody sees what was there before, and whoever wants to write waits.
So it costs room for a second copy of the rows while it runs, and the time to fold all of the log.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Start
from aegisipc.eventstore.sql import checkpointing
from aegisipc.eventstore.sql.capture import Capture
from aegisipc.eventstore.sql.checkpointing import LogName
from aegisipc.eventstore.sql.engines import Database, Transaction
from aegisipc.eventstore.sql.errors import WrongNamespace
from aegisipc.eventstore.sql.projecting import Batch, Level, Projection
from aegisipc.eventstore.sql.writing import write_batch
from aegisipc.eventstore.subjects import Subjects

_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did: up to where the log was taken in, how many rows it wrote, and how long it took."""

    position: int
    rows: int
    seconds: float
    level: Level


async def rebuild(
    log: JetStreamLog,
    subjects: Subjects,
    name: LogName,
    database: Database,
    *,
    level: Level | None = None,
    capture: Capture | None = None,
) -> Rebuilt:
    """Fill a read model from the log's beginning to its end as of now. `level`: as it was, unless given.

    Raises:
        WrongMigration: its tables are missing, or of another version.
        WrongNamespace: it is that of another namespace, and stays.
        ReadModelError: the database cannot be written; it is as it was before.
        AegisError: the log cannot be read; the same holds.
    """
    began = time.monotonic()
    end = (await log.bounds()).last_seq
    async with database.transaction() as transaction:
        former = await transaction.run(lambda connection: _begin(connection, database.shown, name))
        level = level or former or Level.ALL
        state = await checkpoints.beginning(log, subjects)
        projection = Projection(state, level=level, capture=capture or Capture())
        rows = await _fill(log, end, projection, transaction)
        last = projection.take()
        rows += last.rows
        await transaction.run(lambda connection: _finish(connection, name, level, last))
    return Rebuilt(last.position, rows, time.monotonic() - began, level)


def _begin(connection: Connection, shown: str, name: LogName) -> Level | None:
    """Keep others from writing until the end, and empty the tables."""
    checkpointing.require_model(connection, shown)
    row = checkpointing.read(connection, for_update=True)
    if row is not None and row["namespace"] != name.namespace:
        raise WrongNamespace(
            f"cannot fill {shown!r} from namespace {name.namespace!r}: it is the read model of namespace "
            f"{row['namespace']!r}; give each namespace a database of its own",
            database=shown,
            found=row["namespace"],
            wanted=name.namespace,
        )
    checkpointing.clear(connection)
    return None if row is None else Level(row["level"])


async def _fill(log: JetStreamLog, end: int, projection: Projection, transaction: Transaction) -> int:
    rows, state = 0, projection.state
    async for record in log.read([state.subjects.everything], start=Start(state.position + 1)):
        if record.seq > end:
            break
        projection.fold(record)
        if projection.batch.rows >= _AT_ONCE:
            rows += await _write(projection.take(), transaction)
    return rows


async def _write(batch: Batch, transaction: Transaction) -> int:
    await transaction.run(lambda connection: write_batch(connection, batch))
    return batch.rows


def _finish(connection: Connection, name: LogName, level: Level, batch: Batch) -> None:
    write_batch(connection, batch)
    checkpointing.replace(connection, name, level, batch, time.time_ns())

"""How long the read model keeps history. The log keeps its own: what is removed here is still there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, select, tuple_

from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.sql.checkpointing import read
from aegisipc.eventstore.sql.engines import Database
from aegisipc.eventstore.sql.models import (
    Base,
    Call,
    DeadLetter,
    Doubt,
    Instance,
    InstanceEvent,
    Promotion,
)

EVERY_S: Final = 60.0
_AT_ONCE: Final = 2_000
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Retention:
    """How many seconds calls, and the history of groups and instances, are kept; ``None``: for ever. Time is
    the log's: nothing is removed while nothing happens.

    Calls that are open, doubts that are not resolved and dead letters that wait stay, however old they are.
    """

    calls_s: float | None = None
    history_s: float | None = None


async def remove_old(database: Database, retention: Retention) -> int:
    """Remove what is older than that, a little at a time; returns how many rows.

    Raises:
        ReadModelError: the database cannot be written; what was removed by then is removed.
    """
    removed = 0
    for table, is_old in await database.read(lambda connection: _old(connection, retention)):
        some = _AT_ONCE
        while some == _AT_ONCE:
            some = await database.write(partial(_remove, table=table, is_old=is_old))
            removed += some
    return removed


def _old(connection: Connection, retention: Retention) -> list[tuple[Table, ColumnElement[bool]]]:
    """Return what is to go from which table."""
    row = read(connection)
    if row is None:
        return []
    tables = Base.metadata.tables
    wanted: list[tuple[Table, ColumnElement[bool]]] = []
    if retention.calls_s is not None:
        before = row["position_ns"] - int(retention.calls_s * _NS)
        calls = tables[Call.__tablename__].c
        over = and_(calls.accepted_ns < before, calls.concluded_ns < before)
        wanted.append((tables[Call.__tablename__], and_(over, calls.status != CallState.DEAD_LETTERED)))
    if retention.history_s is not None:
        before = row["position_ns"] - int(retention.history_s * _NS)
        letters, doubts = tables[DeadLetter.__tablename__], tables[Doubt.__tablename__]
        wanted += [
            (tables[Promotion.__tablename__], tables[Promotion.__tablename__].c.at_ns < before),
            (tables[InstanceEvent.__tablename__], tables[InstanceEvent.__tablename__].c.at_ns < before),
            (tables[Instance.__tablename__], tables[Instance.__tablename__].c.ended_ns < before),
            (letters, and_(letters.c.dealt_ns < before, letters.c.state != CallState.DEAD_LETTERED)),
            (doubts, doubts.c.resolved_ns < before),
        ]
    return wanted


def _remove(connection: Connection, table: Table, is_old: ColumnElement[bool]) -> int:
    keys = list(table.primary_key)
    some = select(*keys).where(is_old).limit(_AT_ONCE)
    key = keys[0] if len(keys) == 1 else tuple_(*keys)
    return connection.execute(delete(table).where(key.in_(some))).rowcount

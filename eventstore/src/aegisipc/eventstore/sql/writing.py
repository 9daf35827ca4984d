"""One batch into the tables, within a transaction: rows of calls many at once, the few others in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Executable, Table, and_, bindparam, update
from sqlalchemy.dialects import postgresql, sqlite

from aegisipc.eventstore.sql import rows
from aegisipc.eventstore.sql.history import Op
from aegisipc.eventstore.sql.models import (
    Base,
    Call,
    DeadLetter,
    Doubt,
    Group,
    Instance,
    InstanceEvent,
    Promotion,
)
from aegisipc.eventstore.sql.projecting import Batch

_AT_ONCE: Final = 2_000
"""Rows that go to PostgreSQL in one statement. It is made in the event loop, and others have their turn
between two of them.
"""


def write_batch(connection: Connection, batch: Batch) -> None:
    """Write the rows of a batch. Equal batches may be cut differently: the tables are the same afterwards."""
    _discarded(connection, batch)
    _many(connection, rows.SQLITE_INSERT_MISSING, rows.POSTGRESQL_INSERT_MISSING, batch.requeued.values())
    _many(connection, rows.SQLITE_INSERT, rows.POSTGRESQL_INSERT, batch.inserted())
    _many(connection, rows.SQLITE_UPDATE, rows.POSTGRESQL_UPDATE, batch.updated())
    for kind, ops in itertools.groupby(batch.ops, key=_kind):
        statement = _STATEMENTS[kind]
        made = statement if isinstance(statement, Executable) else statement[connection.dialect.name]
        connection.execute(made, [op.row for op in ops])


def _kind(op: Op) -> str:
    return op.kind


def _discarded(connection: Connection, batch: Batch) -> None:
    if batch.discarded:
        connection.execute(_DISCARD, [{"key_call_id": text} for text in batch.discarded])


def _many(
    connection: Connection, for_sqlite: str, for_postgresql: str, found: Iterable[tuple[Any, ...]]
) -> None:
    if connection.dialect.name == "sqlite":
        if many := list(found):
            connection.exec_driver_sql(for_sqlite, many)
        return
    for part in itertools.batched(found, _AT_ONCE):
        columns = tuple(list(column) for column in zip(*part, strict=True))
        connection.exec_driver_sql(for_postgresql, columns)


# -- statements -------------------------------------------------------------------------------------------


def _upsert(model: type[Base]) -> dict[str, Executable]:
    """Write the row, in the place of one with that key if there is one: a batch may be written again."""
    made: dict[str, Executable] = {}
    table: Table = Base.metadata.tables[model.__tablename__]
    keys = [column.name for column in table.primary_key]
    for name, insert in (("sqlite", sqlite.insert(table)), ("postgresql", postgresql.insert(table))):
        others = {c.name: insert.excluded[c.name] for c in table.columns if c.name not in keys}
        made[name] = insert.on_conflict_do_update(index_elements=keys, set_=others)
    return made


def _change(model: type[Base], keys: Sequence[str], columns: Sequence[str]) -> Executable:
    table: Table = Base.metadata.tables[model.__tablename__]
    condition = and_(*(table.c[key] == bindparam(f"key_{key}", type_=table.c[key].type) for key in keys))
    return update(table).where(condition).values({column: bindparam(column) for column in columns})


_RUN: Final = ("service", "group_name", "instance", "incarnation")

_STATEMENTS: Final[dict[str, Executable | dict[str, Executable]]] = {
    "group": _upsert(Group),
    "promotion": _upsert(Promotion),
    "instance": _upsert(Instance),
    "instance_event": _upsert(InstanceEvent),
    "instance_moved": _change(Instance, _RUN, ("state", "since_ns", "ended_ns", "ended_cause")),
    "instance_replaced": _change(Instance, _RUN, ("ended_ns", "ended_cause")),
    "doubt": _upsert(Doubt),
    "doubt_resolved": _change(
        Doubt,
        ("call_id", "seq"),
        ("resolved_seq", "resolved_ns", "resolution", "source", "author", "reason"),
    ),
    "dead_letter": _upsert(DeadLetter),
    "dealt_with": _change(DeadLetter, ("call_id",), ("state", "dealt_seq", "dealt_ns", "dealt_by")),
}

_CALLS: Final[Table] = Base.metadata.tables[Call.__tablename__]
_DISCARD: Final = (
    update(_CALLS)
    .where(_CALLS.c.call_id == bindparam("key_call_id"), _CALLS.c.status == "dead_lettered")
    .values(status="discarded")
)

"""How far a read model is, and of which log: one row, written together with the rows that it is about.

Whoever writes says from where to where. If the row says something else by then (another projector, a
rebuild), nothing is written: so each record of the log counts once, however often projectors die, and however
many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Table, delete, insert, inspect, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.sql.errors import (
    CheckpointMoved,
    RebuildNeeded,
    WrongLog,
    WrongMigration,
    WrongNamespace,
)
from aegisipc.eventstore.sql.models import CHECKPOINT_ID, REVISION, VERSION_TABLE, Base, Call, Checkpoint
from aegisipc.eventstore.sql.projecting import Batch, Known, Level
from aegisipc.eventstore.system_snapshots import FOLD_VERSION

_ROW: Final[Table] = Base.metadata.tables[Checkpoint.__tablename__]
_CALLS: Final[Table] = Base.metadata.tables[Call.__tablename__]
_MINE: Final = _ROW.c.id == CHECKPOINT_ID


@dataclass(frozen=True, slots=True)
class LogName:
    """Which log: ``stream_id`` is when its stream was made, as the server says it."""

    namespace: str
    stream_id: str


class Place(NamedTuple):
    """How far the read model is: at ``position``, since it was last filled anew at ``rebuilt_ns``."""

    position: int
    position_ns: int
    rebuilt_ns: int


def require_model(connection: Connection, shown: str) -> None:
    """See that the tables are there, in the shape that this version writes. `shown`: the database, for
    messages.

    Raises:
        WrongMigration: they are not.
    """
    found = None
    if inspect(connection).has_table(VERSION_TABLE):
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - ours
    if found == REVISION:
        return
    what = (
        "it holds no read model" if found is None else f"its tables are at {found!r}, and not at {REVISION!r}"
    )
    hint = (
        "run `aegis migrate up --sql URL`"
        if found is None or found < REVISION
        else "use the version of AegisIPC that migrated it, or a later one"
    )
    raise WrongMigration(
        f"cannot use {shown!r}: {what}; {hint}", database=shown, found=found, wanted=REVISION
    )


def read(connection: Connection, *, for_update: bool = False) -> dict[str, Any] | None:
    """Return the row; ``None`` if nothing was ever written. `for_update`: nobody else is to write until the
    end of this transaction.
    """
    statement = select(_ROW).where(_MINE)
    found = connection.execute(statement.with_for_update() if for_update else statement).mappings().first()
    return None if found is None else dict(found)


def begin(connection: Connection, shown: str, log: LogName, level: Level, now_ns: int) -> Place:
    """Return from where to go on with this log; makes the row where there is none.

    Raises:
        WrongMigration: the tables are missing, or of another version.
        WrongNamespace, WrongLog: it is the read model of something else.
        RebuildNeeded: its rows are those of another version of the fold.
    """
    require_model(connection, shown)
    row = read(connection, for_update=True)
    if row is None:
        on_postgresql = connection.dialect.name == "postgresql"
        made: Any = postgresql.insert(_ROW) if on_postgresql else sqlite.insert(_ROW)
        connection.execute(made.on_conflict_do_nothing(), _fresh(log, level, now_ns))
        row = read(connection, for_update=True) or _fresh(log, level, now_ns)  # another one may be first
    check(row, shown, log)
    if row["level"] != level:
        connection.execute(update(_ROW).where(_MINE).values(level=level.value))
    return Place(row["position"], row["position_ns"], row["rebuilt_ns"])


def check(row: dict[str, Any], shown: str, log: LogName) -> None:
    """See that a read model is that of this log, and can be gone on with.

    Raises:
        WrongNamespace, WrongLog, RebuildNeeded: it is not, or it cannot.
    """
    if row["namespace"] != log.namespace:
        raise WrongNamespace(
            f"cannot use {shown!r} for namespace {log.namespace!r}: it is the read model of namespace "
            f"{row['namespace']!r}; give each namespace a database of its own",
            database=shown,
            found=row["namespace"],
            wanted=log.namespace,
        )
    if row["stream_id"] != log.stream_id:
        raise WrongLog(
            f"cannot go on in {shown!r}: it was filled from a log that was made at {row['stream_id']}, and "
            f"the log of namespace {log.namespace!r} was made at {log.stream_id}; run `aegis migrate rebuild "
            "--sql URL` to fill it from the log that is there now",
            database=shown,
            found=row["stream_id"],
            wanted=log.stream_id,
        )
    if row["fold_version"] != FOLD_VERSION:
        raise RebuildNeeded(
            f"cannot go on in {shown!r}: its rows were made by version {row['fold_version']} of the fold, "
            f"and this is version {FOLD_VERSION}; run `aegis migrate rebuild --sql URL`",
            database=shown,
        )


def advance(connection: Connection, shown: str, former: Place, batch: Batch, now_ns: int) -> Place:
    """Move the read model on, from where this projector left it. Before its rows are written: so whoever
    comes second waits here, and then learns it.

    Raises:
        CheckpointMoved: it is somewhere else by now.
    """
    moved = connection.execute(
        update(_ROW)
        .where(_MINE, _ROW.c.position == former.position, _ROW.c.rebuilt_ns == former.rebuilt_ns)
        .values(position=batch.position, position_ns=batch.position_ns, updated_ns=now_ns)
    )
    if moved.rowcount != 1:
        raise CheckpointMoved(
            f"cannot write to {shown!r} from sequence {former.position} on: another projector, or a rebuild, "
            "was there in the meantime",
            database=shown,
            position=former.position,
        )
    return Place(batch.position, batch.position_ns, former.rebuilt_ns)


def clear(connection: Connection) -> None:
    """Remove all rows but the checkpoint's."""
    for name, table in Base.metadata.tables.items():
        if name != _ROW.name:
            connection.execute(delete(table))


def replace(connection: Connection, log: LogName, level: Level, batch: Batch, now_ns: int) -> None:
    """Say that it was filled from the beginning, up to there."""
    connection.execute(delete(_ROW))
    filled = {"position": batch.position, "position_ns": batch.position_ns, "rebuilt_ns": now_ns}
    connection.execute(insert(_ROW), _fresh(log, level, now_ns) | filled)


def _fresh(log: LogName, level: Level, now_ns: int) -> dict[str, Any]:
    return {
        "id": CHECKPOINT_ID,
        "namespace": log.namespace,
        "stream_id": log.stream_id,
        "position": 0,
        "position_ns": 0,
        "fold_version": FOLD_VERSION,
        "level": level.value,
        "updated_ns": now_ns,
        "rebuilt_ns": 0,
    }


def known(connection: Connection, level: Level) -> Known:
    """Return what the rows say of open calls and the fold does not.

    Only few are looked at: those in doubt, and at level *failures* those that have rows at all.
    """
    found = Known()
    if level is Level.OFF:
        return found
    columns = (_CALLS.c.call_id, _CALLS.c.started_ns)
    unsuccessful = _CALLS.c.status != text("'succeeded'")  # in words, so that the index of these is used
    doubted = select(*columns).where(unsuccessful, _CALLS.c.status == CallState.IN_DOUBT)
    for call_id, started_ns in connection.execute(doubted):
        if started_ns is not None:
            found.started_ns[parse_call_id(call_id)] = started_ns
    if level is Level.FAILURES:
        stored = select(_CALLS.c.call_id).where(unsuccessful, _CALLS.c.concluded_seq.is_(None))
        found.stored = {parse_call_id(call_id) for call_id in connection.execute(stored).scalars()}
    return found

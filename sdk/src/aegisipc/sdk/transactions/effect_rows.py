"""The row of one call in ``aegis_effects``: how each database begins, finds, fills and commits it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import Connection, Engine, func, insert, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.exc import DBAPIError

from aegisipc.sdk.transacting import (
    Outcome,
    TransactionMisused,
    TransactionUnsupported,
    decode_outcome,
)
from aegisipc.sdk.transactions.table import TABLE_NAME, effects

_BUSY_PAUSE_S: Final = 0.01
_MAX_CONFLICTS: Final = 20
_SAVEPOINT: Final = "aegis_effect"
_SERIALIZATION_FAILURE: Final = "40001"
_UNIQUE_VIOLATION: Final = "23505"
_UNDEFINED_TABLE: Final = "42P01"


class Effect(NamedTuple):
    """Which call is to take effect, and in whose hands. ``remaining_s`` says how long it may wait for that,
    and ``pause`` waits in the manner of the handler's kind.
    """

    call_id: str
    service: str
    method: str
    instance: str
    epoch: int
    created_ns: int
    remaining_s: Callable[[], float]
    pause: Callable[[float], None]

    @property
    def row(self) -> dict[str, Any]:
        """Its columns, without an outcome."""
        return {
            "call_id": self.call_id,
            "service": self.service,
            "method": self.method,
            "instance": self.instance,
            "epoch": self.epoch,
            "created_at": datetime.fromtimestamp(self.created_ns // 1_000_000_000, UTC),
        }


class Database(Protocol):
    """How one kind of database does it. A connection is handed to one call at a time."""

    def begin(self, connection: Connection, effect: Effect) -> Outcome | None:
        """Begin a transaction that holds the call's row. Return the outcome of an earlier run instead, if
        there is one; then the transaction is for nothing.
        """
        ...

    def store(self, connection: Connection, effect: Effect, blob: bytes) -> None:
        """Put the outcome into the row.

        Raises:
            TransactionMisused: it is not the transaction any more that was begun.
        """
        ...

    def commit(self, connection: Connection, effect: Effect) -> None:
        """Commit; if that raises, whether it took place may be unknown."""
        ...

    def rollback(self, connection: Connection) -> None:
        """Roll back."""
        ...


def database_of(engine: Engine) -> Database:
    """Return what knows the engine's database.

    Raises:
        TransactionUnsupported: none does.
    """
    name, driver = engine.dialect.name, engine.dialect.driver
    if name == "sqlite" and driver in ("pysqlite", "aiosqlite"):
        if engine.url.database in (None, "", ":memory:") or "mode=memory" in str(engine.url):
            raise TransactionUnsupported(
                "cannot open a transaction in an SQLite database in memory: it is lost with the process, and "
                "its users share one connection; keep it in a file"
            )
        return _Sqlite()
    if name == "postgresql" and driver in ("asyncpg", "psycopg", "psycopg_async"):
        return _Postgresql()
    raise TransactionUnsupported(
        f"cannot open a transaction with {name}+{driver}: supported are sqlite+aiosqlite and "
        "sqlite+pysqlite, postgresql+asyncpg and postgresql+psycopg",
        dialect=name,
        driver=driver,
    )


class _Sqlite:
    """One writer at a time: whoever has begun is alone. The savepoint shows that it is still the same
    transaction at the end, whatever the handler did to the connection.
    """

    def begin(self, connection: Connection, effect: Effect) -> Outcome | None:
        connection.begin()
        # With this driver, what SQLAlchemy takes for a transaction is none yet, unless told to make one.
        self._end(connection, "ROLLBACK")
        _while_busy(effect, lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with _table_known():
            found = connection.execute(select(effects.c.outcome).where(_is(effect))).one_or_none()
        if found is not None:
            return _outcome(effect, found.outcome)
        connection.exec_driver_sql(f"SAVEPOINT {_SAVEPOINT}")
        connection.execute(insert(effects).values(effect.row))
        return None

    def store(self, connection: Connection, effect: Effect, blob: bytes) -> None:
        try:
            connection.exec_driver_sql(f"RELEASE {_SAVEPOINT}")
        except DBAPIError as error:
            if "no such savepoint" in str(error.orig):
                raise _ended_by_itself(effect) from error
            raise
        _check_stored(
            effect, connection.execute(update(effects).where(_is(effect)).values(outcome=blob)).rowcount
        )

    def commit(self, connection: Connection, effect: Effect) -> None:
        # Not left to the driver: in its autocommit mode it would do nothing.
        _while_busy(effect, lambda: self._end(connection, "COMMIT"))
        connection.commit()

    def rollback(self, connection: Connection) -> None:
        self._end(connection, "ROLLBACK")
        connection.rollback()

    @staticmethod
    def _end(connection: Connection, statement: str) -> None:
        driver: Any = connection.connection.driver_connection
        if driver.in_transaction:
            connection.exec_driver_sql(statement)


class _Postgresql:
    """Whoever inserts the row first has it; a second one waits till that transaction ends. The number of the
    transaction shows that it is still the same at the end.
    """

    def __init__(self) -> None:
        self._number: int | None = None

    def begin(self, connection: Connection, effect: Effect) -> Outcome | None:
        dbapi = connection.connection.dbapi_connection
        if dbapi is not None and connection.dialect.detect_autocommit_setting(dbapi):
            raise TransactionUnsupported(
                "cannot open a transaction on a connection that commits each statement by itself; use an "
                "engine without isolation_level='AUTOCOMMIT'"
            )
        for _ in range(_MAX_CONFLICTS):
            connection.begin()
            try:
                found = self._claim(connection, effect)
            except DBAPIError as error:
                # With a stricter isolation level than usual, somebody else's row is a conflict, not a row.
                if _sqlstate(error) not in (_SERIALIZATION_FAILURE, _UNIQUE_VIOLATION):
                    raise
            else:
                if self._number is not None or found is not None:
                    return found
            connection.rollback()
        raise TransactionMisused(
            f"cannot get hold of the row of call {effect.call_id} in {TABLE_NAME}: it comes and goes; is "
            "something else writing to that table?"
        )

    def _claim(self, connection: Connection, effect: Effect) -> Outcome | None:
        mine: Any = (
            insert_postgresql(effects)
            .values(effect.row)
            .on_conflict_do_nothing()
            .returning(literal_column("txid_current()"))
        )
        with _table_known():
            self._number = connection.execute(mine).scalar_one_or_none()
        if self._number is not None:
            return None
        found = connection.execute(select(effects.c.outcome).where(_is(effect))).one_or_none()
        return None if found is None else _outcome(effect, found.outcome)

    def store(self, connection: Connection, effect: Effect, blob: bytes) -> None:
        filled = connection.execute(
            update(effects).where(_is(effect)).values(outcome=blob).returning(func.txid_current())
        ).scalars()
        numbers = list(filled)
        if numbers and numbers != [self._number]:
            raise _ended_by_itself(effect)
        _check_stored(effect, len(numbers))

    def commit(self, connection: Connection, effect: Effect) -> None:  # noqa: ARG002
        connection.commit()

    def rollback(self, connection: Connection) -> None:
        connection.rollback()


# -- what both do -----------------------------------------------------------------------------------------


def _is(effect: Effect) -> Any:
    return effects.c.call_id == effect.call_id


def _outcome(effect: Effect, blob: bytes | None) -> Outcome:
    if blob is None:
        raise TransactionMisused(
            f"cannot run call {effect.call_id} again: its row in {TABLE_NAME} has no outcome. An earlier run "
            "committed by itself: find out what it did, correct that, and remove the row",
            call_id=effect.call_id,
        )
    return decode_outcome(bytes(blob), effect.call_id)


def _check_stored(effect: Effect, rows: int) -> None:
    if rows != 1:
        raise TransactionMisused(
            f"cannot store the outcome of call {effect.call_id}: its row in {TABLE_NAME} is gone; handlers "
            "must leave that table alone"
        )


def _ended_by_itself(effect: Effect) -> TransactionMisused:
    return TransactionMisused(
        f"cannot commit call {effect.call_id}: its transaction was ended on the way, on the driver's own "
        "connection, so a part of its effects may be committed; leave commit and rollback to AegisIPC",
        call_id=effect.call_id,
    )


def _while_busy(effect: Effect, attempt: Callable[[], object]) -> None:
    """Do it when nobody else writes; SQLite's own patience (``timeout``) may be too short for that. Until the
    call's deadline.
    """
    while True:
        try:
            attempt()
        except DBAPIError as error:
            text = str(error.orig)
            if not ("locked" in text or "busy" in text) or effect.remaining_s() <= 0:
                raise
        else:
            return
        effect.pause(_BUSY_PAUSE_S)


class _table_known:  # noqa: N801 - reads as a statement
    """Says what to do if the table is not there."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, DBAPIError):
            return
        if _sqlstate(error) == _UNDEFINED_TABLE or f"no such table: {TABLE_NAME}" in str(error.orig):
            raise TransactionUnsupported(
                f"cannot open a transaction: the database has no table {TABLE_NAME}; make it with "
                "`aegis migrate effects up --database URL`"
            ) from error


def _sqlstate(error: DBAPIError) -> str | None:
    found = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return found if isinstance(found, str) else None

"""Adding entries: in the application's transaction and in no other, whatever it is written with."""

from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import aiosqlite
import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from aegisipc.eventstore.codec import decode
from aegisipc.sdk.outbox import (
    Outbox,
    OutboxKeyConflict,
    OutboxMisused,
    Status,
)


class Order(BaseModel):
    symbol: str
    price: Decimal


def numbers(path: Path) -> list[int]:
    database = sqlite3.connect(path)
    try:
        return [number for (number,) in database.execute("SELECT number FROM orders ORDER BY number")]
    finally:
        database.close()


# -- with sqlite3 ------------------------------------------------------------------------------------------


def test_what_is_committed_is_there_with_all_that_was_said(
    outbox: Outbox, database: sqlite3.Connection
) -> None:
    order = Order(symbol="A", price=Decimal("1.50"))
    database.execute("INSERT INTO orders VALUES (1)")
    ticket = outbox.add(
        database,
        "orders.place",
        order,
        resource_id="acc_1",
        timeout=2.5,
        idempotency_key="order-1",
        priority="high",
        expires_in=60,
        dry=True,
    )
    assert outbox.entries() == []  # nobody else sees it
    database.commit()
    entry = outbox.entry(ticket)
    assert ticket == (entry.entry_id, "order-1")
    assert (entry.target, entry.resource_id, entry.priority) == ("orders.place", "acc_1", "high")
    assert (entry.timeout, entry.status, entry.attempts) == (2.5, Status.WAITING, 0)
    assert (entry.call_id, entry.trouble, entry.accepted_at, entry.finished_at) == (None,) * 4
    assert entry.expires_at is not None
    assert entry.expires_at - entry.added_at == timedelta(seconds=60)
    (body,) = database.execute("SELECT body FROM aegis_outbox").fetchone()
    assert decode(body) == [[{"symbol": "A", "price": Decimal("1.50")}], {"dry": True}]


def test_seconds_may_be_any_numbers(outbox: Outbox) -> None:
    ticket = outbox.put("orders.place", 1, timeout=Decimal("2.5"), expires_in=3)  # type: ignore[arg-type]
    assert outbox.entry(ticket).timeout == 2.5


def test_a_rollback_takes_the_entry_with_it(outbox: Outbox, database: sqlite3.Connection, path: Path) -> None:
    database.execute("INSERT INTO orders VALUES (1)")
    outbox.add(database, "orders.place", 1)
    database.rollback()
    assert outbox.entries() == []
    assert numbers(path) == []
    assert outbox.pending_count() == 0


def test_adding_never_commits_by_itself(outbox: Outbox, database: sqlite3.Connection) -> None:
    outbox.add(database, "orders.place", 1)  # the driver begins a transaction here
    assert database.in_transaction
    database.rollback()
    assert outbox.entries() == []


def test_a_connection_that_commits_by_itself_is_refused_outside_a_transaction(
    outbox: Outbox, path: Path
) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(OutboxMisused, match="BEGIN IMMEDIATE"):
        outbox.add(database, "orders.place", 1)
    assert outbox.entries() == []
    database.execute("BEGIN")
    outbox.add(database, "orders.place", 1)
    database.execute("COMMIT")
    database.close()
    assert outbox.pending_count() == 1


def test_row_factories_do_no_harm(outbox: Outbox, database: sqlite3.Connection) -> None:
    database.row_factory = lambda cursor, row: {"row": row}
    outbox.add(database, "orders.place", 1)
    database.commit()
    assert outbox.pending_count() == 1


def test_entries_of_many_threads_are_all_there(outbox: Outbox, path: Path) -> None:
    def add(first: int) -> None:
        database = sqlite3.connect(path, timeout=30)
        for number in range(first, first + 20):
            outbox.add(database, "orders.place", number, idempotency_key=f"k{number}")
            database.commit()
        database.close()

    threads = [threading.Thread(target=add, args=(20 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.key for entry in outbox.entries()) == sorted(f"k{number}" for number in range(80))


# -- with SQLAlchemy and aiosqlite -------------------------------------------------------------------------


def test_with_a_connection_of_sqlalchemy(outbox: Outbox, path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
        outbox.add(connection, "orders.place", 1)
    with engine.connect() as connection:
        outbox.add(connection, "orders.place", 2)
        connection.execute(sa.text("INSERT INTO orders VALUES (2)"))
        connection.rollback()
    engine.dispose()
    assert numbers(path) == [1]
    assert len(outbox.entries()) == 1


def test_with_a_connection_of_sqlalchemy_that_commits_by_itself(outbox: Outbox, path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(OutboxMisused, match="commits every statement"):
        outbox.add(connection, "orders.place", 1)
    engine.dispose()
    assert outbox.entries() == []


def test_with_a_session_of_sqlalchemy(outbox: Outbox, path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with Session(engine) as session, session.begin():
        session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        outbox.add(session, "orders.place", 1)
    with Session(engine) as session:
        outbox.add(session, "orders.place", 2)
        session.rollback()
    scoped = scoped_session(sessionmaker(engine))
    outbox.add(scoped, "orders.place", 3, idempotency_key="three")
    scoped.commit()
    scoped.remove()
    engine.dispose()
    assert numbers(path) == [1]
    assert [entry.key for entry in outbox.entries()][1:] == ["three"]


def test_a_session_of_no_engine_is_refused(outbox: Outbox) -> None:
    with Session() as session, pytest.raises(OutboxMisused, match="gives no connection"):
        outbox.add(session, "orders.place", 1)


async def test_with_the_asynchronous_kinds_of_sqlalchemy(outbox: Outbox, path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.begin() as connection:
        await connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
        await outbox.add_async(connection, "orders.place", 1)
    async with engine.connect() as connection:
        await outbox.add_async(connection, "orders.place", 2)
        await connection.rollback()
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(sa.text("INSERT INTO orders VALUES (3)"))
        await outbox.add_async(session, "orders.place", 3, idempotency_key="three")
    async with AsyncSession(engine) as session:
        with pytest.raises(OutboxKeyConflict):
            await outbox.add_async(session, "orders.place", 4, idempotency_key="three")
    await engine.dispose()
    assert numbers(path) == [1, 3]
    assert len(outbox.entries()) == 2


async def test_with_aiosqlite(outbox: Outbox, path: Path) -> None:
    async with aiosqlite.connect(path) as database:
        database.row_factory = sqlite3.Row
        await database.execute("INSERT INTO orders VALUES (1)")
        await outbox.add_async(database, "orders.place", 1)
        await database.commit()
        await outbox.add_async(database, "orders.place", 2)
        await database.rollback()
    async with aiosqlite.connect(path, isolation_level=None) as database:
        with pytest.raises(OutboxMisused, match="commits every statement"):
            await outbox.add_async(database, "orders.place", 3)
    assert numbers(path) == [1]
    assert len(outbox.entries()) == 1


async def test_what_is_no_usable_connection_is_refused(outbox: Outbox, path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.connect() as connection, aiosqlite.connect(path) as database:
        for wrong in (connection, database, sa.create_engine("sqlite://"), None, str(path)):
            with pytest.raises(OutboxMisused, match=r"add takes a sqlite3\.Connection"):
                outbox.add(wrong, "orders.place", 1)
    await engine.dispose()
    plain = sqlite3.connect(path)
    with pytest.raises(OutboxMisused, match="add_async takes"):
        await outbox.add_async(plain, "orders.place", 1)
    plain.close()


def test_another_dialect_is_refused(outbox: Outbox, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        monkeypatch.setattr(connection.dialect, "name", "postgresql")
        with pytest.raises(OutboxMisused, match="postgresql, not SQLite"):
            outbox.add(connection, "orders.place", 1)
    engine.dispose()

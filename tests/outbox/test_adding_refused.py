"""What an outbox refuses to take, what counts against its limit, and what keys keep apart."""

from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aegisipc.sdk.errors import InvalidName, NotEncodable, PayloadTooLarge, ServiceDefinitionError
from aegisipc.sdk.outbox import (
    Outbox,
    OutboxFull,
    OutboxKeyConflict,
    OutboxLocked,
    OutboxMisused,
    Status,
)
from tests.outbox.kit import Clock


def numbers(path: Path) -> list[int]:
    database = sqlite3.connect(path)
    try:
        return [number for (number,) in database.execute("SELECT number FROM orders ORDER BY number")]
    finally:
        database.close()


# -- what may not be ---------------------------------------------------------------------------------------


def test_a_connection_to_another_database_is_refused(outbox: Outbox, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    Outbox(other).close()  # it has the same tables
    for wrong in (str(other), ":memory:"):
        database = sqlite3.connect(wrong)
        with pytest.raises(OutboxMisused, match="one database only"):
            outbox.add(database, "orders.place", 1)
        database.close()


def test_the_same_database_by_another_path_is_fine(outbox: Outbox, path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path.parent)
    database = sqlite3.connect(link / path.name)
    outbox.add(database, "orders.place", 1)
    database.commit()
    database.close()
    assert outbox.pending_count() == 1


@pytest.mark.parametrize("level", ["OFF", "NORMAL"])
def test_a_connection_that_does_not_sync_is_refused(
    outbox: Outbox, database: sqlite3.Connection, level: str
) -> None:
    database.execute(f"PRAGMA synchronous={level}")
    with pytest.raises(OutboxMisused, match=f"synchronous={level}"):
        outbox.add(database, "orders.place", 1)
    database.execute("PRAGMA synchronous=EXTRA")
    outbox.add(database, "orders.place", 1)


BAD: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
    (InvalidName, "orders", (), {}),
    (InvalidName, "or ders.place", (), {}),
    (InvalidName, "orders._place", (), {}),
    (InvalidName, "orders.place", (), {"resource_id": ""}),
    (InvalidName, "orders.place", (), {"resource_id": "x" * 257}),
    (InvalidName, "orders.place", (), {"idempotency_key": ""}),
    (InvalidName, "orders.place", (), {"idempotency_key": "k" * 257}),
    (InvalidName, "orders.place", (), {"idempotency_key": 7}),
    (NotEncodable, "orders.place", (object(),), {}),
    (NotEncodable, "orders.place", (), {"value": threading.Lock()}),
    (PayloadTooLarge, "orders.place", (b"x" * 1025,), {}),
    (ServiceDefinitionError, "orders.place", (), {"timeout": 0}),
    (ServiceDefinitionError, "orders.place", (), {"timeout": "soon"}),
    (ServiceDefinitionError, "orders.place", (), {"timeout": True}),
    (ServiceDefinitionError, "orders.place", (), {"expires_in": -1}),
    (ServiceDefinitionError, "orders.place", (), {"expires_in": float("nan")}),
    (ServiceDefinitionError, "orders.place", (), {"expires_in": float("inf")}),
    (ServiceDefinitionError, "orders.place", (), {"priority": "urgent"}),
    (ServiceDefinitionError, "orders.place", (), {"priority": 1}),
]


@pytest.mark.parametrize(("error", "target", "args", "options"), BAD)
def test_what_could_never_be_sent_is_refused_at_once(
    path: Path,
    database: sqlite3.Connection,
    error: type[Exception],
    target: str,
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    with Outbox(path, max_arguments_bytes=1024) as outbox:
        with pytest.raises(error):
            outbox.add(database, target, *args, **options)
        assert not database.in_transaction
        with pytest.raises(error):
            outbox.put(target, *args, **options)
        assert outbox.entries() == []


def test_a_full_outbox_refuses_and_the_transaction_goes_on(path: Path, database: sqlite3.Connection) -> None:
    with Outbox(path, max_waiting=3) as outbox:
        for number in range(3):
            outbox.add(database, "orders.place", number)
        database.execute("INSERT INTO orders VALUES (7)")
        with pytest.raises(OutboxFull) as full:
            outbox.add(database, "orders.place", 3)
        assert full.value.limit == 3
        database.commit()
        with pytest.raises(OutboxFull):
            outbox.put("orders.place", 3)
        assert outbox.pending_count() == 3
        assert numbers(path) == [7]


def test_only_what_waits_counts_against_the_limit(path: Path, database: sqlite3.Connection) -> None:
    with Outbox(path, max_waiting=2) as outbox:
        for number in range(10):
            outbox.add(database, "orders.place", number)
            if number % 3:  # some in between stay
                database.execute(
                    "UPDATE aegis_outbox SET status = 'succeeded' WHERE id = (SELECT max(id) ..)".replace(
                        "..", "FROM aegis_outbox"
                    )
                )
            else:
                database.execute("UPDATE aegis_outbox SET status = 'succeeded'")
        outbox.add(database, "orders.place", 10)
        outbox.add(database, "orders.place", 11)
        with pytest.raises(OutboxFull):
            outbox.add(database, "orders.place", 12)


def test_the_same_call_with_the_same_key_is_one_entry(outbox: Outbox, database: sqlite3.Connection) -> None:
    first = outbox.add(database, "orders.place", {"a", "b"}, resource_id="r", idempotency_key="k")
    assert outbox.add(database, "orders.place", {"b", "a"}, resource_id="r", idempotency_key="k") == first
    database.commit()
    assert outbox.put("orders.place", {"a", "b"}, resource_id="r", idempotency_key="k") == first
    assert len(outbox.entries()) == 1
    other_service = outbox.put("quotes.place", 1, idempotency_key="k")
    assert other_service != first


@pytest.mark.parametrize(
    ("target", "argument", "resource"),
    [("orders.place", 2, "r"), ("orders.place", 1, None), ("orders.cancel", 1, "r")],
)
def test_another_call_with_the_same_key_is_refused(
    outbox: Outbox, target: str, argument: int, resource: str | None
) -> None:
    first = outbox.put("orders.place", 1, resource_id="r", idempotency_key="k")
    with pytest.raises(OutboxKeyConflict) as refused:
        outbox.put(target, argument, resource_id=resource, idempotency_key="k")
    assert refused.value.entry_id == first.entry_id
    assert len(outbox.entries()) == 1


def test_what_certainly_never_became_a_call_leaves_its_key(
    outbox: Outbox, database: sqlite3.Connection
) -> None:
    for ending in ("status = 'expired'", "status = 'failed'"):
        outbox.put("orders.place", 1, idempotency_key="k")
        with pytest.raises(OutboxKeyConflict):
            outbox.put("orders.place", 2, idempotency_key="k")
        database.execute(f"UPDATE aegis_outbox SET {ending}")
        database.commit()
    outbox.put("orders.place", 2, idempotency_key="k")


def test_somebody_who_holds_the_database_is_waited_for_and_then_named(
    outbox: Outbox, database: sqlite3.Connection, path: Path
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxLocked, match="roll back and try again"):
        outbox.add(database, "orders.place", 1)
    with pytest.raises(OutboxLocked):
        outbox.put("orders.place", 1)
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.1})
    with engine.connect() as connection, pytest.raises(OutboxLocked):
        outbox.add(connection, "orders.place", 1)
    engine.dispose()
    assert outbox.entries() == []  # reading is not in anybody's way
    other.execute("ROLLBACK")
    other.close()
    database.rollback()
    outbox.add(database, "orders.place", 1)


def test_put_is_durable_when_it_returns(outbox: Outbox, path: Path) -> None:
    ticket = outbox.put("orders.place", 1)
    database = sqlite3.connect(path)
    assert database.execute("SELECT id, status FROM aegis_outbox").fetchall() == [
        (ticket.entry_id, "waiting")
    ]
    database.close()


async def test_put_does_not_block_the_event_loop_where_that_is_asked(outbox: Outbox) -> None:
    ticket = await outbox.put_async("orders.place", 1, resource_id="r")
    assert outbox.entry(ticket).resource_id == "r"


def test_purging_takes_what_ended_long_ago(path: Path, database: sqlite3.Connection) -> None:
    clock = Clock()
    with Outbox(path, clock_ns=clock) as outbox:
        for number in range(2500):
            outbox.add(database, "orders.place", number)
        database.execute("UPDATE aegis_outbox SET status = 'succeeded', finished_ns = ?", (clock.ns,))
        database.execute("UPDATE aegis_outbox SET status = 'accepted', finished_ns = NULL WHERE id = 7")
        database.commit()
        clock.move(60)
        last = outbox.put("orders.place", 1)
        assert outbox.purge(timedelta(minutes=2)) == 0
        assert outbox.purge(60) == 0
        assert outbox.purge(59) == 2499
        assert [entry.entry_id for entry in outbox.entries()] == [7, last.entry_id]
        assert outbox.counts() == dict.fromkeys(Status, 0) | {Status.ACCEPTED: 1, Status.WAITING: 1}

"""The file: what is no outbox, is damaged, is another version's, or cannot be used."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from aegisipc.sdk.outbox import (
    Outbox,
    OutboxCorrupted,
    OutboxEntryUnknown,
    OutboxLocked,
    OutboxMisused,
    OutboxUnavailable,
)
from aegisipc.sdk.outbox.schema import RelayLock


def execute(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    database.close()


def test_a_new_file_is_made_durable(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with Outbox(path) as outbox:
        (level,) = outbox._store._connection.execute("PRAGMA synchronous").fetchone()
        (mode,) = outbox._store._connection.execute("PRAGMA journal_mode").fetchone()
        assert (level, mode) == (2, "wal")
        ticket = outbox.put("orders.place", 1)
    with Outbox(path) as outbox:
        assert outbox.entry(ticket).key == ticket.key


def test_the_application_s_own_tables_and_marks_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    execute(path, "PRAGMA user_version = 12", "PRAGMA application_id = 99", "CREATE TABLE t (x)")
    with Outbox(path) as outbox:
        outbox.put("orders.place", 1)
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (12,)
    assert database.execute("PRAGMA application_id").fetchone() == (99,)
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"t", "aegis_outbox", "aegis_outbox_meta", "sqlite_sequence"}
    database.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("this is not a database, it is only long enough to look like a header " * 20)
    before = path.read_bytes()
    with pytest.raises(OutboxCorrupted, match="no database at all"):
        Outbox(path)
    assert path.read_bytes() == before


def filled(path: Path) -> None:
    with Outbox(path) as outbox:
        for number in range(200):
            outbox.put("orders.place", number, b"x" * 200)
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")


def test_a_damaged_file_is_found_out_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    filled(path)
    data = bytearray(path.read_bytes())
    data[8 * 4096 : -4096] = os.urandom(len(data) - 9 * 4096)
    path.write_bytes(data)
    with pytest.raises(OutboxCorrupted, match="damaged"):
        Outbox(path)


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    filled(path)
    path.write_bytes(path.read_bytes()[: 5 * 4096])
    with pytest.raises(OutboxCorrupted):
        Outbox(path)


def test_damage_while_it_is_open_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    with Outbox(path) as outbox:
        ticket = outbox.put("orders.place", 1)
        execute(path, "PRAGMA ignore_check_constraints = 1", "UPDATE aegis_outbox SET status = 'weird'")
        for read in (
            outbox.entries,
            outbox.counts,
            lambda: outbox.entry(ticket),
            lambda: outbox.wait(ticket),
        ):
            with pytest.raises(OutboxCorrupted, match="weird"):
                read()
        execute(path, "DROP TABLE aegis_outbox")
        with pytest.raises(OutboxCorrupted, match="are gone or were changed"):
            outbox.put("orders.place", 1)


@pytest.mark.parametrize("result", [None, b"\xc1", b"\x92\x01"])
def test_an_outcome_that_cannot_be_read(tmp_path: Path, result: bytes | None) -> None:
    path = tmp_path / "desk.db"
    with Outbox(path) as outbox:
        ticket = outbox.put("orders.place", 1)
        for status, column in (("succeeded", "result"), ("failed", "error")):
            database = sqlite3.connect(path)
            database.execute(f"UPDATE aegis_outbox SET status = ?, {column} = ?", (status, result))
            database.commit()
            database.close()
            with pytest.raises(OutboxCorrupted):
                outbox.wait(ticket)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE aegis_outbox_meta SET value = '2' WHERE name = 'schema'",
        "DELETE FROM aegis_outbox_meta",
        "DROP TABLE aegis_outbox_meta",
    ],
)
def test_the_tables_of_another_version(tmp_path: Path, change: str) -> None:
    path = tmp_path / "desk.db"
    Outbox(path).close()
    execute(path, change)
    with pytest.raises(OutboxCorrupted, match="knows version 1"):
        Outbox(path)


def test_a_table_of_that_name_that_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    execute(path, "CREATE TABLE aegis_outbox (x)", "CREATE TABLE aegis_outbox_meta (x)")
    with pytest.raises(OutboxCorrupted, match="version unknown"):
        Outbox(path)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OutboxUnavailable, match="look at its directory"):
        Outbox(tmp_path / "nowhere" / "desk.db")
    with pytest.raises(OutboxUnavailable):
        Outbox(tmp_path)


@pytest.mark.parametrize("path", ["", ":memory:", "file:desk.db?mode=memory"])
def test_what_does_not_outlive_the_process_is_refused(path: str) -> None:
    with pytest.raises(OutboxMisused, match="outlive"):
        Outbox(path)


def test_a_database_that_somebody_writes_to_can_be_opened_if_it_has_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    execute(path, "PRAGMA journal_mode=WAL", "CREATE TABLE t (x)")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxLocked):
        Outbox(path, busy_s=0.05)
    other.execute("ROLLBACK")
    Outbox(path).close()
    other.execute("BEGIN IMMEDIATE")
    Outbox(path, busy_s=0.05).close()
    other.close()


def test_an_entry_that_is_not_there(tmp_path: Path) -> None:
    with Outbox(tmp_path / "desk.db") as outbox:
        outbox.put("orders.place", 1)
        for read in (outbox.entry, outbox.wait):
            for number in (0, 2):
                with pytest.raises(OutboxEntryUnknown):
                    read(number)


def test_the_relay_s_place_is_for_one(tmp_path: Path) -> None:
    one, other = RelayLock(tmp_path / "desk.db"), RelayLock(tmp_path / "desk.db")
    assert one.take()
    assert not other.take()
    one.release()
    one.release()
    assert other.take()
    other.release()


def test_a_relay_s_place_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "desk.db-relay").write_bytes(b"no database at all, but some bytes of some length" * 40)
    with pytest.raises(OutboxCorrupted):
        RelayLock(tmp_path / "desk.db").take()

"""The tables of an outbox in a SQLite database, and opening them.

They live in the application's own database, beside its tables: that is what makes an entry part of the
application's transaction. The database is kept in WAL mode, and every connection that writes entries syncs
fully, so that what is committed survives a loss of power.
"""

# ruff: noqa: S608 - what is put into SQL here are constants of this package

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from aegisipc.sdk.core.outbox import OPEN, UNSENT, Status
from aegisipc.sdk.outbox.errors import OutboxCorrupted, OutboxMisused, damaged, translated

SCHEMA_VERSION: Final = "1"


def listed(statuses: frozenset[Status]) -> str:
    """Return statuses as SQL."""
    return ", ".join(sorted(f"'{status}'" for status in statuses))


KEEPS_KEY: Final = "NOT (status = 'expired' OR (status = 'failed' AND call_id IS NULL))"
"""An entry that certainly never became a call leaves its key to another one."""

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS aegis_outbox_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"""
    CREATE TABLE IF NOT EXISTS aegis_outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,
        service TEXT NOT NULL,
        method TEXT NOT NULL,
        resource TEXT,
        priority TEXT NOT NULL,
        timeout_s REAL,
        body BLOB NOT NULL,
        added_ns INTEGER NOT NULL,
        expires_ns INTEGER,
        status TEXT NOT NULL DEFAULT 'waiting' CHECK (status IN ({listed(frozenset(Status))})),
        attempts INTEGER NOT NULL DEFAULT 0,
        tried_ns INTEGER,
        trouble TEXT,
        call_id TEXT,
        accepted_ns INTEGER,
        finished_ns INTEGER,
        result BLOB,
        error BLOB
    )
    """,
    f"CREATE UNIQUE INDEX IF NOT EXISTS aegis_outbox_key ON aegis_outbox (service, key) WHERE {KEEPS_KEY}",
    f"CREATE INDEX IF NOT EXISTS aegis_outbox_unsent ON aegis_outbox (id) WHERE status IN ({listed(UNSENT)})",
    f"""
    CREATE INDEX IF NOT EXISTS aegis_outbox_open ON aegis_outbox (status, id)
    WHERE status IN ({listed(OPEN - UNSENT)})
    """,
    """
    CREATE INDEX IF NOT EXISTS aegis_outbox_finished ON aegis_outbox (finished_ns)
    WHERE finished_ns IS NOT NULL
    """,
    f"INSERT OR IGNORE INTO aegis_outbox_meta VALUES ('schema', '{SCHEMA_VERSION}')",
)


@contextmanager
def speaking(path: Path, what: str) -> Iterator[None]:
    """Say what an error of SQLite means."""
    try:
        yield
    except sqlite3.Error as error:
        meaning = translated(error, path, what)
        if meaning is None:
            raise
        raise meaning from error


def open_database(path: Path, busy_s: float) -> sqlite3.Connection:
    """Open the database, in WAL mode and fully synced, and make the tables if there are none.

    Raises:
        OutboxCorrupted, OutboxLocked, OutboxUnavailable, OutboxMisused: as it was found.
    """
    with speaking(path, "open the outbox"):
        connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        try:
            _set_up(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise OutboxMisused(
            f"cannot open the outbox: {path} cannot be in WAL mode (it is in mode {mode!r}); put it on a "
            "local disk",
            path=str(path),
        )
    connection.execute("PRAGMA synchronous=FULL")
    _make_tables(connection, path)


def check_database(connection: sqlite3.Connection, path: Path) -> None:
    """Look through the tables of the outbox, and at what version they are of.

    Raises:
        OutboxCorrupted: they are damaged, or of another version.
    """
    with speaking(path, "open the outbox"):
        for table in ("aegis_outbox_meta", "aegis_outbox"):
            (found,) = connection.execute(f"PRAGMA quick_check({table})").fetchone()
            if found != "ok":
                raise damaged(path, "open the outbox", found)


def _version(connection: sqlite3.Connection) -> str | None:
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE name IN ('aegis_outbox', 'aegis_outbox_meta')"
    ).fetchall()
    if not tables:
        return None
    if len(tables) == 2:
        with suppress(sqlite3.OperationalError):  # a table of that name with other columns
            row = connection.execute("SELECT value FROM aegis_outbox_meta WHERE name = 'schema'").fetchone()
            return str(row[0]) if row is not None else "unknown"
    return "unknown"


def _make_tables(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection)
    if version is None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        version = _version(connection)
    if version != SCHEMA_VERSION:
        raise OutboxCorrupted(
            f"cannot open the outbox: its tables in {path} are of version {version}, and this program knows "
            f"version {SCHEMA_VERSION}; use the program that wrote them, or another file",
            path=str(path),
            version=version,
        )


class RelayLock:
    """The one place for a relay of an outbox: a database beside it, locked for as long as the relay runs.

    The operating system lets go of it when the process ends, however it ends: there is no lease to wait for.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(f"{path}-relay")
        self._connection: sqlite3.Connection | None = None

    def take(self) -> bool:
        """Take the place if it is free.

        Raises:
            OutboxCorrupted, OutboxUnavailable: it cannot be used.
        """
        with speaking(self.path, "take the relay's place"):
            connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                connection.close()
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                    return False
                raise
            except BaseException:
                connection.close()
                raise
        self._connection = connection
        return True

    def release(self) -> None:
        """Let go of it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with closing(connection), suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

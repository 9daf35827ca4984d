"""The outbox's rows: what a relay reads and writes, and what an application asks for. Everything blocks."""

# ruff: noqa: S608 - what is put into SQL here are constants of this package

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegisipc.sdk.core.outbox import CLOSED, OPEN, UNSENT, Header, Status
from aegisipc.sdk.outbox.entries import Entry, moment
from aegisipc.sdk.outbox.errors import OutboxCorrupted, OutboxEntryUnknown, OutboxError, damaged
from aegisipc.sdk.outbox.notes import Note
from aegisipc.sdk.outbox.schema import check_database, listed, open_database, speaking

_UNSENT: Final = f"status IN ({listed(UNSENT)})"
_OPEN: Final = f"status IN ({listed(OPEN)})"
_CLOSED: Final = f"status IN ({listed(CLOSED)})"
_ENTRY: Final = (
    "id, key, service, method, resource, priority, timeout_s, status, attempts, trouble, call_id, added_ns, "
    "expires_ns, accepted_ns, finished_ns"
)
_MANY: Final = 500  # host parameters in one statement; SQLite allows at least 999
_CHUNK: Final = 1000


class ToSend(NamedTuple):
    """What a relay needs of an entry to send it, or to look it up."""

    entry_id: int
    service: str
    method: str
    resource: str | None
    key: str
    priority: str
    timeout_s: float | None
    body: bytes
    call_id: str | None
    tried_ns: int
    expires_ns: int


class Known(NamedTuple):
    """A call that was accepted and has no outcome here yet."""

    entry_id: int
    call_id: str
    is_in_doubt: bool


class Ending(NamedTuple):
    """What became of an entry, as far as is known."""

    status: Status
    target: str
    call_id: str | None
    trouble: str | None
    result: bytes | None
    error: bytes | None


class Turn(NamedTuple):
    """What one turn of a relay read."""

    headers: Sequence[Header]
    to_send: dict[int, ToSend]


class Store:
    """One connection to the database of an outbox; may be used from any thread, by one at a time."""

    def __init__(self, path: Path, busy_s: float, clock_ns: Callable[[], int]) -> None:
        self.path = path
        self._clock_ns = clock_ns
        self._door = threading.Lock()
        self._connection = open_database(path, busy_s)

    def check(self) -> None:
        """Look through the tables; raises OutboxCorrupted."""
        with self._speaking("open the outbox") as connection:
            check_database(connection, self.path)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        with self._door, suppress(sqlite3.Error):
            self._connection.close()

    @contextmanager
    def _speaking(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._door, speaking(self.path, what):
            yield self._connection

    @contextmanager
    def transaction(self, what: str) -> Iterator[sqlite3.Connection]:
        """Write in a transaction of its own: all of it is durable afterwards, or none of it is there."""
        with self._speaking(what) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    # -- for a relay ------------------------------------------------------------------------------------

    def turn(
        self, notes: Sequence[Note], sending: Sequence[int], looking: Sequence[int], after_id: int
    ) -> Turn:
        """Write what was learned and what is to be sent, in one transaction, and read what is needed for
        that, and which entries are new.
        """
        if notes or sending:
            with self.transaction("note what became of the outbox's entries") as connection:
                now_ns = self._clock_ns()
                for note in notes:
                    note.write(connection, now_ns)
                for entry_id in sending:
                    connection.execute(
                        "UPDATE aegis_outbox SET status = 'sending', attempts = attempts + 1, tried_ns = ? "
                        f"WHERE id = ? AND {_UNSENT}",
                        (now_ns, entry_id),
                    )
        with self._speaking("read the outbox") as connection:
            headers = self._headers(connection, after_id)
            return Turn(headers, self._to_send(connection, [*sending, *looking]))

    def _headers(self, connection: sqlite3.Connection, after_id: int) -> list[Header]:
        rows = connection.execute(
            "SELECT id, service, resource, length(body), expires_ns, status = 'sending' FROM aegis_outbox "
            f"WHERE {_UNSENT} AND id > ? ORDER BY id",
            (after_id,),
        )
        return [
            Header(entry_id, (service, resource), size, expires_ns, bool(uncertain))
            for entry_id, service, resource, size, expires_ns, uncertain in rows
        ]

    def _to_send(self, connection: sqlite3.Connection, entry_ids: Sequence[int]) -> dict[int, ToSend]:
        found: dict[int, ToSend] = {}
        for first in range(0, len(entry_ids), _MANY):
            some = entry_ids[first : first + _MANY]
            marks = ", ".join("?" * len(some))
            rows = connection.execute(
                "SELECT id, service, method, resource, key, priority, timeout_s, body, call_id, "
                "coalesce(tried_ns, 0), coalesce(expires_ns, 0) "
                f"FROM aegis_outbox WHERE id IN ({marks}) AND {_UNSENT}",
                some,
            )
            found.update((row[0], ToSend(*row)) for row in rows)
        return found

    def known(self) -> list[Known]:
        """Return the calls that were accepted and have no outcome here."""
        with self._speaking("read the outbox") as connection:
            rows = connection.execute(
                "SELECT id, call_id, status = 'in_doubt' FROM aegis_outbox "
                f"WHERE status IN ({listed(OPEN - UNSENT)}) ORDER BY id"
            )
            return [Known(entry_id, call_id, bool(doubt)) for entry_id, call_id, doubt in rows]

    def holder(self) -> str:
        """Return who said last that it runs the relay."""
        with self._speaking("read the outbox") as connection:
            row = connection.execute("SELECT value FROM aegis_outbox_meta WHERE name = 'relay'").fetchone()
            return str(row[0]) if row else "another process"

    def set_holder(self, holder: str) -> None:
        """Say who runs the relay."""
        with self.transaction("start the outbox's relay") as connection:
            connection.execute("INSERT OR REPLACE INTO aegis_outbox_meta VALUES ('relay', ?)", (holder,))

    # -- for the application ----------------------------------------------------------------------------

    def ending(self, entry_id: int) -> Ending:
        """Return what became of an entry."""
        with self._speaking("read the outbox") as connection:
            row = connection.execute(
                "SELECT status, service || '.' || method, call_id, trouble, result, error FROM aegis_outbox "
                "WHERE id = ?",
                (entry_id,),
            ).fetchone()
        if row is None:
            raise _unknown(entry_id, self.path)
        return Ending(self._status(row[0]), *row[1:])

    def entries(self, statuses: frozenset[Status] | None, after_id: int, limit: int) -> list[Entry]:
        """Return entries, in the order of insertion."""
        chosen = "" if statuses is None else f"AND status IN ({listed(statuses)})"
        with self._speaking("read the outbox") as connection:
            rows = connection.execute(
                f"SELECT {_ENTRY} FROM aegis_outbox WHERE id > ? {chosen} ORDER BY id LIMIT ?",
                (after_id, limit),
            ).fetchall()
        return [self._entry(row) for row in rows]

    def entry(self, entry_id: int) -> Entry:
        """Return one entry."""
        found = self.entries(None, entry_id - 1, 1)
        if not found or found[0].entry_id != entry_id:
            raise _unknown(entry_id, self.path)
        return found[0]

    def counts(self) -> dict[Status, int]:
        """Return how many entries stand where."""
        with self._speaking("read the outbox") as connection:
            rows = connection.execute("SELECT status, count(*) FROM aegis_outbox GROUP BY status").fetchall()
        return dict.fromkeys(Status, 0) | {self._status(status): count for status, count in rows}

    def count_of(self, statuses: frozenset[Status]) -> int:
        """Return how many entries have one of these statuses, which are open ones."""
        total = 0
        with self._speaking("read the outbox") as connection:
            for some in (statuses & UNSENT, statuses - UNSENT):  # each has an index of its own
                if some:
                    sql = f"SELECT count(*) FROM aegis_outbox WHERE status IN ({listed(some)})"
                    total += connection.execute(sql).fetchone()[0]
        return total

    def purge(self, before_ns: int) -> int:
        """Remove entries that ended before that time; in small transactions, so that others can write."""
        total = 0
        while True:
            with self.transaction("purge the outbox") as connection:
                removed = connection.execute(
                    "DELETE FROM aegis_outbox WHERE id IN (SELECT id FROM aegis_outbox "
                    f"WHERE finished_ns IS NOT NULL AND finished_ns < ? AND {_CLOSED} LIMIT {_CHUNK})",
                    (before_ns,),
                ).rowcount
            total += removed
            if removed < _CHUNK:
                return total

    def _entry(self, row: Sequence[Any]) -> Entry:
        entry_id, key, service, method, resource, priority, timeout, status, attempts, trouble, call_id = row[
            :11
        ]
        added_at = moment(row[11])
        assert added_at is not None  # noqa: S101 - the column is NOT NULL
        return Entry(
            entry_id,
            key,
            f"{service}.{method}",
            resource,
            priority,
            timeout,
            self._status(status),
            attempts,
            trouble,
            call_id,
            added_at,
            *map(moment, row[12:15]),
        )

    def _status(self, text: str) -> Status:
        try:
            return Status(text)
        except ValueError:
            raise damaged(self.path, "read the outbox", f"an entry's status is {text!r}") from None


def _unknown(entry_id: int, path: Path) -> OutboxError:
    return OutboxEntryUnknown(
        f"cannot find entry {entry_id} in the outbox {path}: its transaction was rolled back or is not "
        "committed yet, or it was purged",
        entry_id=entry_id,
        path=str(path),
    )


__all__ = ["Ending", "Known", "OutboxCorrupted", "Store", "ToSend", "Turn"]

"""Writing an entry with somebody else's connection, inside the transaction that it is in.

The statements are the same for every kind of connection: a generator yields them and is sent their rows.
SQLAlchemy and aiosqlite are never imported here: whoever gives one of their objects has imported them.
"""

# ruff: noqa: S608 - what is put into SQL here are constants of this package

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.codec import decode
from aegisipc.sdk.canonical import canonical_bytes
from aegisipc.sdk.core.outbox import UNSENT
from aegisipc.sdk.outbox.entries import Draft, Ticket
from aegisipc.sdk.outbox.errors import OutboxFull, OutboxKeyConflict, OutboxMisused, translated
from aegisipc.sdk.outbox.schema import KEEPS_KEY, listed

type Row = Sequence[Any]
type Adding = Generator[Ask, Sequence[Row], Ticket]

WHAT: Final = "add an entry to the outbox"

_UNSENT: Final = f"status IN ({listed(UNSENT)})"
_INSERT: Final = f"""
INSERT INTO aegis_outbox (key, service, method, resource, priority, timeout_s, body, added_ns, expires_ns)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?
WHERE coalesce((SELECT max(id) FROM aegis_outbox)
               - (SELECT id FROM aegis_outbox WHERE {_UNSENT} ORDER BY id LIMIT 1) + 1, 0) < ?
   OR (SELECT count(*) FROM aegis_outbox WHERE {_UNSENT}) < ?
ON CONFLICT DO NOTHING
RETURNING id
"""
# The first condition is quick, and nearly always enough.
_FIND: Final = f"""
SELECT id, method, resource, body FROM aegis_outbox WHERE service = ? AND key = ? AND {KEEPS_KEY}
"""


class Ask(NamedTuple):
    """One statement."""

    sql: str
    parameters: tuple[Any, ...] = ()


IN_TRANSACTION: Final = Ask("")
"""Not a statement: the answer is one row, which says whether the connection is in a transaction."""


class Adder:
    """Adds entries to the outbox in one file. ``limit``: how many may wait."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._known_paths: set[str] = set()

    def add(self, connection: Any, draft: Draft) -> Ticket:
        """Add an entry with a connection of sqlite3, or a Connection or Session of SQLAlchemy.

        Raises:
            OutboxError: see :mod:`aegisipc.sdk.outbox.errors`; nothing was added.
        """
        run = self._runner(connection)
        steps = self._adding(draft)
        try:
            ask = next(steps)
            while True:
                ask = steps.send(run(ask))
        except StopIteration as end:
            ticket: Ticket = end.value
            return ticket
        except Exception as error:
            self._explain(error)
            raise

    async def add_async(self, connection: Any, draft: Draft) -> Ticket:
        """Add an entry with an AsyncConnection or AsyncSession of SQLAlchemy, or a connection of aiosqlite.

        Raises what :meth:`add` raises.
        """
        if _is_a(connection, "sqlalchemy.ext.asyncio", "AsyncConnection", "AsyncSession"):
            ticket: Ticket = await connection.run_sync(self.add, draft)
            return ticket
        if not _is_a(connection, "aiosqlite", "Connection"):
            raise _not_usable(
                connection,
                "add_async takes an AsyncConnection or AsyncSession of SQLAlchemy, or a connection of "
                "aiosqlite; use add for the blocking kinds",
            )
        steps = self._adding(draft)
        try:
            ask = next(steps)
            while True:
                if ask is IN_TRANSACTION:
                    rows: Sequence[Row] = [(connection.in_transaction,)]
                else:
                    async with connection.execute(ask.sql, ask.parameters) as cursor:
                        cursor.row_factory = None  # plain rows, whatever the application has set
                        rows = list(await cursor.fetchall())
                ask = steps.send(rows)
        except StopIteration as end:
            added: Ticket = end.value
            return added
        except Exception as error:
            self._explain(error)
            raise

    # -- the statements ---------------------------------------------------------------------------------

    def _adding(self, draft: Draft) -> Adding:
        self._check_file((yield Ask("PRAGMA database_list")))
        ((level,),) = yield Ask("PRAGMA synchronous")
        if level < 2:
            raise OutboxMisused(
                f"cannot {WHAT}: the connection is set to synchronous={('OFF', 'NORMAL')[level]}, so a "
                "commit may be lost with the power; execute PRAGMA synchronous=FULL on it when it is opened",
            )
        yield from self._check_transaction()
        # The insertion comes first: it takes the write lock, waiting for it. A transaction that reads first
        # and writes then is refused at once if somebody else has written in between.
        values = (draft.key, draft.service, draft.method, draft.resource, draft.priority, draft.timeout_s)
        times = (draft.added_ns, draft.expires_ns)
        rows = yield Ask(_INSERT, (*values, draft.body, *times, self._limit, self._limit))
        if rows:
            return Ticket(rows[0][0], draft.key)
        found = yield Ask(_FIND, (draft.service, draft.key))
        if found:
            return _same_or_refused(found[0], draft)
        raise OutboxFull(
            f"cannot {WHAT} in {self._path}: {self._limit:,} entries wait to be accepted, "
            "its limit; see why with outbox.entries(status='waiting') (is a relay running?), or raise "
            "max_waiting",
            path=str(self._path),
            limit=self._limit,
        )

    def _check_transaction(self) -> Generator[Ask, Sequence[Row], None]:
        """An entry must not be committed by itself: see that there is a transaction."""
        ((is_in,),) = yield IN_TRANSACTION
        if not is_in:
            yield Ask("DELETE FROM aegis_outbox WHERE 0")  # where the driver begins transactions, it does now
            ((is_in,),) = yield IN_TRANSACTION
        if not is_in:
            raise OutboxMisused(
                f"cannot {WHAT}: the connection commits every statement by itself, and is in no transaction; "
                "execute BEGIN IMMEDIATE first, or use outbox.put, which commits"
            )

    def _check_file(self, databases: Sequence[Row]) -> None:
        file = next((str(row[2] or "") for row in databases if row[1] == "main"), "")
        if file in self._known_paths:
            return
        with suppress(OSError):
            if file and Path(file).samefile(self._path):
                self._known_paths.add(file)
                return
        raise OutboxMisused(
            f"cannot {WHAT}: the connection's database is {file or 'in memory'}, and the outbox is in "
            f"{self._path}; a transaction covers one database only, so open the outbox with the "
            "application's own",
            path=str(self._path),
        )

    def _explain(self, error: Exception) -> None:
        meaning = translated(error, self._path, WHAT)
        if meaning is not None:
            raise meaning from error

    # -- connections ------------------------------------------------------------------------------------

    def _runner(self, connection: Any) -> Any:
        if isinstance(connection, sqlite3.Connection):
            return lambda ask: _run_plain(connection, ask)
        if _is_a(connection, "sqlalchemy.orm", "Session", "scoped_session"):
            connection = self._of_session(connection)
        if _is_a(connection, "sqlalchemy.engine", "Connection"):
            if connection.dialect.name != "sqlite":
                raise _not_usable(connection, f"its database is {connection.dialect.name}, not SQLite")
            return lambda ask: _run_sqlalchemy(connection, ask)
        raise _not_usable(
            connection,
            "add takes a sqlite3.Connection, or a Connection or Session of SQLAlchemy; use add_async for the "
            "asynchronous kinds, and put where there is no transaction",
        )

    def _of_session(self, session: Any) -> Any:
        try:
            return session.connection()
        except Exception as error:
            self._explain(error)
            raise _not_usable(
                session, f"it gives no connection ({error}); give session.connection(…) of the right engine"
            ) from error


def _run_plain(connection: sqlite3.Connection, ask: Ask) -> Sequence[Row]:
    if ask is IN_TRANSACTION:
        return [(connection.in_transaction,)]
    # A cursor of its own, and plain rows, whatever factories the application has set.
    cursor = sqlite3.Cursor(connection)
    cursor.row_factory = None
    try:
        return cursor.execute(ask.sql, ask.parameters).fetchall()
    finally:
        cursor.close()


def _run_sqlalchemy(connection: Any, ask: Ask) -> Sequence[Row]:
    if ask is IN_TRANSACTION:
        return [(connection.connection.driver_connection.in_transaction,)]
    result = connection.exec_driver_sql(ask.sql, ask.parameters)
    return list(result.fetchall()) if result.returns_rows else []


def _same_or_refused(row: Row, draft: Draft) -> Ticket:
    """The key is taken: by the same call, which is then not added again, or by another one."""
    entry_id, method, resource, body = row
    if (method, resource) == (draft.method, draft.resource) and (
        body == draft.body or canonical_bytes(decode(body)) == canonical_bytes(decode(draft.body))
    ):
        return Ticket(entry_id, draft.key)
    raise OutboxKeyConflict(
        f"cannot add a call of {draft.target} with the key {draft.key!r}: entry {entry_id} of the outbox has "
        f"it, a call of {draft.service}.{method} with another resource or other arguments; give each call a "
        "key of its own",
        key=draft.key,
        entry_id=entry_id,
    )


def _is_a(thing: object, module: str, *names: str) -> bool:
    """Whether it is an instance of one of a module's classes, which then must be imported already."""
    home = sys.modules.get(module)
    return home is not None and isinstance(thing, tuple(getattr(home, name) for name in names))


def _not_usable(connection: object, why: str) -> OutboxMisused:
    kind = type(connection)
    return OutboxMisused(f"cannot {WHAT} with a {kind.__module__}.{kind.__qualname__}: {why}")

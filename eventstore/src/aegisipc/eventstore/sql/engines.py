"""The databases of read models: SQLite in a file, or PostgreSQL, by their URLs.

Work on either is a plain function of a connection. For SQLite it runs in a thread of its own, which is the
only one that has the connection; for PostgreSQL in the event loop, on asyncpg. What goes wrong is told in our
own errors, without passwords.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, pool
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from aegisipc.eventstore.sql.errors import DatabaseUnreachable, DatabaseUnsupported
from aegisipc.eventstore.sql.failures import reported
from aegisipc.eventstore.sql.models import VERSION_TABLE
from aegisipc.eventstore.sql.urls import for_asyncpg, shown_url

DEFAULT_SQL: Final = "sqlite:///aegis.db"
SUPPORTED: Final = "supported are sqlite:///FILE and postgresql://USER:PASSWORD@HOST/DATABASE"
BUSY_S: Final = 5.0
"""How long a statement waits for a lock before the database counts as locked."""

_COMMAND_S: Final = 120.0
_CACHE_KB: Final = 65_536
_WAL_PAGES: Final = 4_000
"""Of 4 KiB each: how long SQLite's write-ahead log gets before it is moved into the file."""
_WAL_KEPT: Final = 64 << 20
"""Bytes of it that stay, for the next rows, after a rebuild made it as long as all of them."""
_WRITES: Final = "aegis_writes"
_IN_WAL: Final = "aegis_in_wal"

type Work[T] = Callable[[Connection], T]


class Transaction(ABC):
    """Work that takes effect as a whole or not at all."""

    @abstractmethod
    async def run[T](self, work: Work[T]) -> T:
        """Do a part of it; returns what `work` returned."""


class Database(ABC):
    """A database. Open it with :func:`open_database`, close it with :meth:`close`, or use it in an ``async
    with``. ``shown`` is its URL without the password.
    """

    def __init__(self, url: URL, shown: str) -> None:
        self.url = url
        self.shown = shown

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @abstractmethod
    def transaction(self, *, writes: bool = True) -> Any:
        """Return an asynchronous context manager that gives a :class:`Transaction`: committed at its end,
        rolled back if anything was raised in it.

        Raises:
            ReadModelError: one of its subclasses, by what went wrong.
        """

    async def write[T](self, work: Work[T]) -> T:
        """Do something in a transaction that may write; returns what `work` returned.

        Raises:
            ReadModelError: one of its subclasses, by what went wrong; nothing was written.
        """
        async with self.transaction() as transaction:
            done: T = await transaction.run(work)
        return done

    async def read[T](self, work: Work[T]) -> T:
        """Do something in a transaction that only reads; returns what `work` returned.

        Raises:
            ReadModelError: one of its subclasses, by what went wrong.
        """
        async with self.transaction(writes=False) as transaction:
            done: T = await transaction.run(work)
        return done

    @abstractmethod
    async def close(self) -> None:
        """Close all connections. Idempotent."""


def open_database(given: str, *, busy_s: float = BUSY_S) -> Database:
    """Return the database of that URL; connects only when it is used.

    Raises:
        DatabaseUnsupported: it is of another kind, in memory, or the URL is none.
    """
    url, shown = _parsed(given)
    with _driver(shown):
        return (_Sqlite if url.get_backend_name() == "sqlite" else _Postgresql)(url, shown, busy_s)


def _parsed(given: str) -> tuple[URL, str]:
    try:
        url = make_url(given)
    except (ArgumentError, ValueError) as error:
        raise DatabaseUnsupported(f"cannot read the URL of a database: {SUPPORTED}") from error
    shown = shown_url(url)
    kind = url.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise DatabaseUnsupported(f"cannot use {shown!r} as a read model: {SUPPORTED}", database=shown)
    if kind == "sqlite" and (url.database in (None, "", ":memory:") or url.query.get("mode") == "memory"):
        raise DatabaseUnsupported(
            f"cannot use {shown!r} as a read model: a database in memory is gone when its process ends; "
            f"{SUPPORTED}",
            database=shown,
        )
    return url.set(drivername="sqlite+pysqlite") if kind == "sqlite" else for_asyncpg(url), shown


@contextmanager
def _driver(shown: str) -> Any:
    try:
        yield
    except (ImportError, NoSuchModuleError) as error:
        raise DatabaseUnsupported(
            f"cannot use {shown!r}: {error}; install it: pip install 'aegisipc-eventstore[postgresql]'",
            database=shown,
        ) from error


@contextmanager
def _parameters(shown: str) -> Any:
    """What is behind the ``?`` in a URL goes to the driver, which may know nothing of it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise DatabaseUnsupported(
            f"cannot use {shown!r}: {error}; correct what the URL says behind the '?'", database=shown
        ) from error


# -- SQLite -----------------------------------------------------------------------------------------------


class _Sqlite(Database):
    """A file. Readers never wait (WAL); writers wait for each other."""

    def __init__(self, url: URL, shown: str, busy_s: float) -> None:
        super().__init__(url, shown)
        self._engine = _sqlite_engine(url, busy_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aegis-sqlite")
        self._alone = asyncio.Lock()
        """There is one connection: transactions take turns."""
        self._open: Connection | None = None
        self._file: tuple[int, int] | None = None
        """Device and number of the file that the connection is to."""

    async def _in_thread[T](self, work: Callable[[], T]) -> T:
        """Run it to its end, even if nobody waits for it any more: the connection must not be left midway."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            with suppress(Exception):
                await running
            raise

    @asynccontextmanager
    async def transaction(self, *, writes: bool = True) -> AsyncIterator[Transaction]:
        with reported(self.shown):
            async with self._alone:
                try:
                    connection = await self._in_thread(lambda: self._begin(writes))
                    yield _InThread(self, connection)
                    await self._in_thread(connection.commit)
                finally:  # also of one that was begun when nobody waited for it any more
                    await self._in_thread(self._end)

    def _find_file(self) -> None:
        """See that the file is there, and that it is still the one that the connection is to."""
        name = self.url.database or ""
        if name.startswith("file:"):
            return
        try:
            found = Path(name).stat()
        except FileNotFoundError:
            raise DatabaseUnreachable(
                f"cannot open {self.shown!r}: there is no such file; `aegis migrate up --sql {self.shown}` "
                "makes it",
                database=self.shown,
            ) from None
        file = (found.st_dev, found.st_ino)
        if self._file != file:  # another one took its place: what is written to the former one is lost
            self._engine.dispose()
        self._file = file

    def _begin(self, writes: bool) -> Connection:  # noqa: FBT001 - private
        self._find_file()
        connection = self._engine.connect().execution_options(**{_WRITES: writes})
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        self._open = connection
        return connection

    def _end(self) -> None:
        """Roll back what was not committed."""
        connection, self._open = self._open, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.rollback()
            connection.close()

    async def close(self) -> None:
        await self._in_thread(self._engine.dispose)
        self._thread.shutdown()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aegis-sqlite")


class _InThread(Transaction):
    def __init__(self, database: _Sqlite, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    async def run[T](self, work: Work[T]) -> T:
        return await self._database._in_thread(lambda: work(self._connection))


def _sqlite_engine(url: URL, busy_s: float) -> Engine:
    engine = create_engine(
        url, poolclass=pool.StaticPool, connect_args={"check_same_thread": False, "timeout": busy_s}
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say when transactions begin
        for pragma in (
            "synchronous=NORMAL",
            f"cache_size=-{_CACHE_KB}",
            "temp_store=MEMORY",
            f"wal_autocheckpoint={_WAL_PAGES}",
            f"journal_size_limit={_WAL_KEPT}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        if writes and not connection.info.get(_IN_WAL):
            connection.info[_IN_WAL] = _use_wal(connection.connection.dbapi_connection)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: Any) -> bool:
    """The file stays so for ever: nobody who only looks does this, and to no database but a read model."""
    with suppress(sqlite3.OperationalError):  # locked or read-only: writing will tell, if it is still so
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchone():
            connection.execute("PRAGMA journal_mode=WAL")
            return True
    return False


# -- PostgreSQL ---------------------------------------------------------------------------------------------


class _Postgresql(Database):
    def __init__(self, url: URL, shown: str, busy_s: float) -> None:
        super().__init__(url, shown)
        self._engine: AsyncEngine = create_async_engine(
            url,
            pool_size=2,
            pool_pre_ping=True,
            connect_args={
                "timeout": 10.0,
                "command_timeout": _COMMAND_S,
                "server_settings": {
                    "application_name": "aegis read model",
                    "lock_timeout": str(int(busy_s * 1000)),
                },
            },
        )

    @asynccontextmanager
    async def transaction(self, *, writes: bool = True) -> AsyncIterator[Transaction]:
        with reported(self.shown):
            async with AsyncExitStack() as stack:
                with _parameters(self.shown):
                    connection = await stack.enter_async_context(self._engine.connect())
                if not writes:
                    await connection.execution_options(postgresql_readonly=True)
                async with connection.begin():
                    yield _InLoop(connection)

    async def close(self) -> None:
        await self._engine.dispose()


class _InLoop(Transaction):
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def run[T](self, work: Work[T]) -> T:
        return await self._connection.run_sync(work)

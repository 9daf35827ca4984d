"""Connecting to the database that is to be migrated: by a plain driver or one for asyncio, alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, pool
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from aegisipc.eventstore.sql.urls import for_asyncpg, shown_url
from aegisipc.sdk.failures import shown
from migrations.errors import DatabaseUnreachable, DatabaseUnsupported, MigrationError

_SUPPORTED: Final = "supported are sqlite:///FILE and postgresql://USER:PASSWORD@HOST/DATABASE"
_MAX_SHOWN: Final = 400


class Database:
    """A database by its URL.

    Raises:
        DatabaseUnsupported: it is of another kind, or the URL is none.
    """

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self.shown = shown_url(make_url(url))

    def check_exists(self, maker: str = "aegis migrate effects up") -> None:
        """Check that a file is there, if it is to be one: connecting would make it. `maker`: what makes it.

        Raises:
            DatabaseUnreachable: it is not.
        """
        name = self._url.database or ""
        if (
            self._url.get_backend_name() == "sqlite"
            and not name.startswith("file:")
            and not Path(name).exists()
        ):
            raise DatabaseUnreachable(
                f"cannot open {self.shown!r}: there is no such file; `{maker}` makes it",
                database=self.shown,
            )

    def run[T](self, work: Callable[[Connection], T], *, writes: bool = True) -> T:
        """Do something in a transaction, and return what it returned. If it writes nothing, it does not wait
        for others that do.

        Raises:
            DatabaseUnsupported: the driver that the URL names is not installed.
            DatabaseUnreachable: nobody answers there, or we are not let in.
            MigrationError: the database refused something.
        """
        try:
            if self._url.get_dialect().is_async:
                return asyncio.run(self._run_async(work, writes=writes))
            engine = create_engine(self._url, poolclass=pool.NullPool)
            _as_a_whole(engine, writes=writes)
            with _connecting(self):
                connection = engine.connect()
            with connection, connection.begin():
                return work(connection)
        except (ImportError, NoSuchModuleError) as error:
            raise DatabaseUnsupported(
                f"cannot use {self.shown!r}: {error}; install its driver, or leave it out of the URL: "
                f"{_SUPPORTED}",
                database=self.shown,
            ) from error
        except SQLAlchemyError as error:
            raise MigrationError(
                f"cannot migrate {self.shown!r}: {_said(error)}", database=self.shown
            ) from error

    async def _run_async[T](self, work: Callable[[Connection], T], *, writes: bool) -> T:
        engine = create_async_engine(self._url, poolclass=pool.NullPool)
        _as_a_whole(engine.sync_engine, writes=writes)
        connection = engine.connect()
        with _connecting(self):
            await connection.start()
        try:
            async with connection.begin():
                return await connection.run_sync(work)
        finally:
            await connection.close()


def _as_a_whole(engine: Engine, *, writes: bool) -> None:
    """Left to itself, SQLite's driver commits whatever makes or removes a table at once."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class _connecting:  # noqa: N801 - reads as a statement
    """What fails here is the way to the database."""

    def __init__(self, database: Database) -> None:
        self._shown = database.shown

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TypeError | ValueError):
            raise DatabaseUnsupported(
                f"cannot use {self._shown!r}: {error}; correct what the URL says behind the '?'",
                database=self._shown,
            ) from error
        if isinstance(error, SQLAlchemyError | OSError) or type(error).__module__.startswith("asyncpg"):
            assert error is not None  # noqa: S101 - for the type checker
            raise DatabaseUnreachable(
                f"cannot connect to {self._shown!r}: {_said(error)}; is the database there, and may we "
                "use it?",
                database=self._shown,
            ) from error


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise DatabaseUnsupported(f"cannot read the URL of a database: {_SUPPORTED}") from error
    kind = url.get_backend_name()
    given = shown_url(url)
    if kind not in ("sqlite", "postgresql"):
        raise DatabaseUnsupported(f"cannot migrate {given!r}: {_SUPPORTED}", database=given)
    if kind == "sqlite" and url.database in (None, "", ":memory:"):
        raise DatabaseUnsupported(
            f"cannot migrate {given!r}: a database in memory is gone when this ends; {_SUPPORTED}",
            database=given,
        )
    if url.drivername == "postgresql":  # whichever SQLAlchemy takes by default: this is the one that is here
        return for_asyncpg(url)
    return url


def _said(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return shown(cause, _MAX_SHOWN).strip().replace("\n", "; ")

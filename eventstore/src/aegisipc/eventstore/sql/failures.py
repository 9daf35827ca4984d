"""From what a database driver raised to our own errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from aegisipc.eventstore.sql.errors import (
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseUnreachable,
    ReadModelError,
    WrongMigration,
)

_MAX_SHOWN: Final = 300
_FULL: Final = "make room there, or let it keep less (--keep-calls, --calls failures); nothing was written"
_READ_ONLY: Final = "give this user the right to write there, or another database"
_LOCKED: Final = "somebody else is writing to it (a rebuild, a backup, another program): try again later"
_UNREACHABLE: Final = "is the database there, and may we use it?"
_SHAPE: Final = "run `aegis migrate up --sql URL`"

_SQLITE: Final[dict[int, tuple[type[ReadModelError], str]]] = {
    sqlite3.SQLITE_BUSY: (DatabaseLocked, _LOCKED),
    sqlite3.SQLITE_LOCKED: (DatabaseLocked, _LOCKED),
    sqlite3.SQLITE_READONLY: (DatabaseReadOnly, _READ_ONLY),
    sqlite3.SQLITE_FULL: (DatabaseFull, _FULL),
    sqlite3.SQLITE_CANTOPEN: (DatabaseUnreachable, _UNREACHABLE),
}
_POSTGRESQL: Final[tuple[tuple[str, type[ReadModelError], str], ...]] = (
    ("53100", DatabaseFull, _FULL),
    ("53", DatabaseUnreachable, "the server is out of connections or memory: try again later"),
    ("25006", DatabaseReadOnly, _READ_ONLY),
    ("42501", DatabaseReadOnly, _READ_ONLY),
    ("55P03", DatabaseLocked, _LOCKED),
    ("40", DatabaseLocked, _LOCKED),
    ("42P01", WrongMigration, _SHAPE),
    ("42703", WrongMigration, _SHAPE),
    ("08", DatabaseUnreachable, _UNREACHABLE),
    ("28", DatabaseUnreachable, _UNREACHABLE),
    ("3D000", DatabaseUnreachable, _UNREACHABLE),
    ("57P", DatabaseUnreachable, _UNREACHABLE),
)
"""By the beginnings of SQLSTATE codes; the first that fits."""


@contextmanager
def reported(shown: str) -> Iterator[None]:
    """Raise what a database raises in here as one of our errors. `shown`: its URL without the password.

    Raises:
        ReadModelError: one of its subclasses, by what went wrong.
    """
    try:
        yield
    except SQLAlchemyError as error:
        raise _of(error.orig if isinstance(error, DBAPIError) and error.orig else error, shown) from error
    except (OSError, TimeoutError) as error:
        raise _of(error, shown) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("asyncpg", "sqlite3"):
            raise
        raise _of(error, shown) from error


def _of(error: BaseException, shown: str) -> ReadModelError:
    cls, hint = _kind(error)
    said = _said(error)
    return cls(f"cannot use {shown!r}: {said}; {hint}", database=shown)


def _kind(error: BaseException) -> tuple[type[ReadModelError], str]:
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        if "no such table" in str(error) or "no such column" in str(error):
            return WrongMigration, _SHAPE
        return _SQLITE.get(code & 0xFF, (ReadModelError, "look at the database"))
    state = _sqlstate(error)
    for beginning, cls, hint in _POSTGRESQL:
        if state.startswith(beginning):
            return cls, hint
    if not state and isinstance(error, OSError | TimeoutError | ConnectionError):
        return DatabaseUnreachable, _UNREACHABLE
    if not state and type(error).__name__ in ("InterfaceError", "ConnectionDoesNotExistError"):
        return DatabaseUnreachable, _UNREACHABLE
    return ReadModelError, "look at the database"


def _sqlstate(error: BaseException) -> str:
    """Drivers wrap each other's errors: the code is in one of them."""
    seen: BaseException | None = error
    while seen is not None:
        state = getattr(seen, "sqlstate", None) or getattr(seen, "pgcode", None)
        if isinstance(state, str):
            return state
        seen = seen.__cause__
    return ""


def _said(error: BaseException) -> str:
    text = str(error).strip().replace("\n", "; ") or type(error).__name__
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"

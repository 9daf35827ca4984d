"""What an outbox can say.

::

    AegisError
    └── OutboxError
        ├── OutboxCorrupted      the file is no database, is damaged, or has the tables of another version
        ├── OutboxLocked         somebody else held the file, or the relay's place, for longer than a bound
        ├── OutboxFull           as many entries wait as may
        ├── OutboxUnavailable    the file cannot be opened, read or written: path, rights, disk
        ├── OutboxMisused        the connection given cannot carry an entry safely
        ├── OutboxKeyConflict    another call in the outbox has the idempotency key
        ├── OutboxTimeout        no outcome yet; the entry goes on
        ├── OutboxEntryUnknown   there is no such entry (any more)
        └── OutboxEntryExpired   the entry was not accepted in time: it certainly never ran
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import AegisError, CodecError
from aegisipc.sdk import errors as sdk_errors
from aegisipc.sdk.errors import RemoteError


class OutboxError(AegisError):
    """Root of the errors of an outbox. Field, mostly: ``path``."""

    code = "outbox_error"


class OutboxCorrupted(OutboxError):
    """The file is not a database, is damaged, or holds the tables of another version."""

    code = "outbox_corrupted"


class OutboxLocked(OutboxError):
    """Somebody else held the file for longer than a bound, or runs the relay."""

    code = "outbox_locked"


class OutboxFull(OutboxError):
    """As many entries wait as may: nothing was added. Field: ``limit``."""

    code = "outbox_full"


class OutboxUnavailable(OutboxError):
    """The file cannot be opened, read or written."""

    code = "outbox_unavailable"


class OutboxMisused(OutboxError):
    """An entry cannot be added with the connection given: nothing was added."""

    code = "outbox_misused"


class OutboxKeyConflict(OutboxError):
    """Another call in the outbox has the idempotency key: nothing was added. Fields: ``key``,
    ``entry_id``.
    """

    code = "idempotency_conflict"


class OutboxTimeout(OutboxError):
    """No outcome in time; the entries go on. Fields, about one entry: ``entry_id``, ``status``."""

    code = "outbox_timeout"


class OutboxEntryUnknown(OutboxError):
    """There is no entry of that number: its transaction was rolled back, or it was purged. Field:
    ``entry_id``.
    """

    code = "outbox_entry_unknown"


class OutboxEntryExpired(OutboxError):
    """The entry was not accepted before its ``expires_in``: it certainly never ran. Field: ``entry_id``."""

    code = "outbox_entry_expired"


# -- of the database ---------------------------------------------------------------------------------------

_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNUSABLE: Final = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}


def translated(error: BaseException, path: Path | str, what: str) -> OutboxError | None:
    """Return what an error of SQLite, perhaps wrapped by SQLAlchemy, means; ``None`` if it is another one."""
    original = getattr(error, "orig", error)
    if not isinstance(original, sqlite3.Error):
        return None
    primary = getattr(original, "sqlite_errorcode", 0) & 0xFF  # the rest says more exactly which
    shown = str(path)
    if primary in _BUSY:
        return OutboxLocked(
            f"cannot {what}: another connection writes to {shown} ({original}); roll back and try again, "
            "begin transactions that will write with BEGIN IMMEDIATE, and keep them short",
            path=shown,
        )
    if primary in _DAMAGED:
        return damaged(path, what, str(original))
    if primary in _UNUSABLE:
        return OutboxUnavailable(
            f"cannot {what}: {shown} cannot be used ({original}); look at its directory, its rights and the "
            "room on its disk",
            path=shown,
        )
    if "no such table: aegis_outbox" in str(original) or "no such column" in str(original):
        return OutboxCorrupted(
            f"cannot {what}: the tables of the outbox in {shown} are gone or were changed ({original}); "
            "restore them from a copy, or drop the other one, too, to begin with an empty outbox",
            path=shown,
        )
    return OutboxError(f"cannot {what}: SQLite says of {shown}: {original}", path=shown)


def damaged(path: Path | str, what: str, why: str) -> OutboxCorrupted:
    """Return the error of a file that is no database, or damaged."""
    return OutboxCorrupted(
        f"cannot {what}: {path} is damaged, or no database at all ({why}); restore it from a copy, or save "
        "what can be read with the sqlite3 command '.recover'. Calls that were already submitted are in the "
        "log, and their keys keep them from running twice",
        path=str(path),
    )


# -- of entries --------------------------------------------------------------------------------------------


def pack_error(error: AegisError) -> bytes:
    """Return an error as bytes, to be kept beside its entry."""
    plain = error.to_plain()
    plain["type"] = type(error).__name__
    try:
        return encode(plain)
    except CodecError:
        return encode({**plain, "details": {key: repr(value) for key, value in error.details.items()}})


def unpack_error(packed: bytes) -> AegisError:
    """Return the error that was packed, as the class that it had if that is known here.

    Raises:
        CodecError, KeyError, TypeError: these bytes are not one.
    """
    plain = decode(packed)
    message: str = plain["message"]
    details: dict[str, Any] = plain["details"]
    if plain["type"] == RemoteError.__name__:
        return RemoteError(message, code=plain["code"], call_id=plain.get("call_id", ""), details=details)
    cls = getattr(sdk_errors, plain["type"], None)
    if isinstance(cls, type) and issubclass(cls, AegisError):
        return cls(message, **details)
    unknown = AegisError(message, **details)
    unknown.code = plain["code"]  # type: ignore[misc]  # the class is not known here, its code is
    return unknown

"""What can be wrong with a read model's database, or with the log that it is filled from."""

from __future__ import annotations

from aegisipc.eventstore.errors import AegisError


class ReadModelError(AegisError):
    """The read model cannot be read or written. Field: ``database``, its URL without the password."""

    code = "read_model_failed"


class DatabaseUnsupported(ReadModelError):
    """Neither SQLite nor PostgreSQL, no URL at all, or no driver for it is installed."""

    code = "database_unsupported"


class DatabaseUnreachable(ReadModelError):
    """Nobody answers there, there is no such file, or we are not let in."""

    code = "database_unreachable"


class DatabaseLocked(ReadModelError):
    """Somebody else holds it for longer than we wait: nothing was written."""

    code = "database_locked"


class DatabaseReadOnly(ReadModelError):
    """It may be read, and not written."""

    code = "database_read_only"


class DatabaseFull(ReadModelError):
    """There is no room left where it is: nothing was written."""

    code = "database_full"


class WrongMigration(ReadModelError):
    """Its tables are missing, or have the shape of another version. Fields: ``found`` (``None``: no tables),
    ``wanted``.
    """

    code = "wrong_migration"


class ReadModelEmpty(ReadModelError):
    """Nothing was ever written to it."""

    code = "read_model_empty"


class WrongNamespace(ReadModelError):
    """It holds the read model of another namespace. Fields: ``found``, ``wanted``."""

    code = "wrong_namespace"


class WrongLog(ReadModelError):
    """It was filled from another log of that name: the stream was made anew, or is restored from an older
    copy.
    """

    code = "wrong_log"


class RebuildNeeded(ReadModelError):
    """What is missing in it cannot be added any more: it has to be filled anew."""

    code = "rebuild_needed"


class CheckpointMoved(ReadModelError):
    """Somebody else wrote to it, or rebuilt it, in the meantime: nothing was written. Read on from where it
    is now.
    """

    code = "checkpoint_moved"

"""What can be wrong with a migration."""

from __future__ import annotations

from aegisipc.eventstore.errors import AegisError


class MigrationError(AegisError):
    """The database cannot be migrated. Field: ``database``, its URL without the password."""

    code = "migration_failed"


class DatabaseUnsupported(MigrationError):
    """Neither SQLite nor PostgreSQL, or no driver for it is installed."""

    code = "database_unsupported"


class DatabaseUnreachable(MigrationError):
    """Nobody answers there, or we are not let in."""

    code = "database_unreachable"


class RevisionUnknown(MigrationError):
    """The database was migrated by a later version than this one. Field: ``revision``."""

    code = "revision_unknown"


class OutcomesLeft(MigrationError):
    """The table holds outcomes, and is not removed. Field: ``rows``."""

    code = "outcomes_left"

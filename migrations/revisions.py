"""Where a database stands in its migrations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from migrations.databases import Database
from migrations.errors import RevisionUnknown


class Revisions(NamedTuple):
    """The revision that a database is at (``None``: none), the newest one, and those that it lacks."""

    current: str | None
    newest: str
    pending: list[str]


def config_of(connection: Connection, folder: Path) -> Config:
    """Return what Alembic has to know of the migrations in a folder, to run them on a connection."""
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def revisions_of(connection: Connection, config: Config, version_table: str, database: Database) -> Revisions:
    """Look up where a database stands.

    Raises:
        RevisionUnknown: a later version migrated it.
    """
    scripts = ScriptDirectory.from_config(config)
    known = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    current = MigrationContext.configure(
        connection, opts={"version_table": version_table}
    ).get_current_revision()
    if current is not None and current not in known:
        raise RevisionUnknown(
            f"cannot migrate {database.shown!r}: its revision is {current!r}, of which this version knows "
            "nothing; use the version of AegisIPC that migrated it, or a later one",
            database=database.shown,
            revision=current,
        )
    pending = known if current is None else known[known.index(current) + 1 :]
    return Revisions(current, known[-1], pending)

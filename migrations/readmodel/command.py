"""What ``aegis migrate up``, ``down`` and ``status`` do to a read model."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, func, inspect, select

from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.sql import checkpointing
from aegisipc.eventstore.sql.models import VERSION_TABLE, Checkpoint
from migrations.databases import Database
from migrations.errors import MigrationError
from migrations.revisions import config_of, revisions_of

_SHOWN = ("namespace", "level", "position", "position_ns", "updated_ns", "rebuilt_ns")


class State(NamedTuple):
    """How far a database is. ``checkpoint`` is ``None`` if nothing was ever written to it."""

    revision: str | None
    newest: str
    pending: list[str]
    checkpoint: dict[str, Any] | None


def perform(args: Namespace) -> int:
    """Do the step that was asked for; return the exit code."""
    database = Database(args.sql)
    step: Callable[[Connection, Database], State] = {"up": _up, "down": _down, "status": _state}[args.kind]
    if args.kind != "up":
        database.check_exists("aegis migrate up --sql URL")
    try:
        state = database.run(lambda connection: step(connection, database), writes=args.kind != "status")
    except (CommandError, RuntimeError) as error:
        raise MigrationError(
            f"cannot migrate {database.shown!r}: {error}", database=database.shown
        ) from error
    lag = _lag(args, state)
    _tell(args, database, state, lag)
    return 1 if args.kind == "status" and state.pending else 0


def _up(connection: Connection, database: Database) -> State:
    _alone(connection)
    _state(connection, database)
    command.upgrade(_config(connection), "readmodel@head")
    return _state(connection, database)


def _down(connection: Connection, database: Database) -> State:
    _alone(connection)
    _state(connection, database)
    command.downgrade(_config(connection), "readmodel@base")
    return _state(connection, database)


def _alone(connection: Connection) -> None:
    """Wait for others who migrate it now. In SQLite, whoever writes is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(VERSION_TABLE))))


def _state(connection: Connection, database: Database) -> State:
    found = revisions_of(connection, _config(connection), VERSION_TABLE, database)
    there = found.current is not None and inspect(connection).has_table(Checkpoint.__tablename__)
    return State(*found, checkpointing.read(connection) if there else None)


def _config(connection: Connection) -> Config:
    return config_of(connection, Path(__file__).parent)


def _lag(args: Namespace, state: State) -> dict[str, Any]:
    """Return how far behind the log it is, if a server is named."""
    if args.kind != "status" or not args.url or state.checkpoint is None:
        return {}
    from migrations.readmodel.filling import lag_behind  # noqa: PLC0415 - needs a server

    return lag_behind(args.url, state.checkpoint)


def _tell(args: Namespace, database: Database, state: State, lag: dict[str, Any]) -> None:
    if args.json:
        row = state.checkpoint or {}
        told = {"database": database.shown, **state._asdict(), **lag}
        print_json(told | {"checkpoint": {name: row[name] for name in _SHOWN} if row else None})
        return
    what = {
        "up": f"the read model is at the newest revision, {state.newest}",
        "down": "the read model is removed; aegis migrate up and aegis projector make it again",
        "status": _status_for_people(state, lag),
    }[args.kind]
    sys.stdout.write(f"{database.shown}: {what}\n")


def _status_for_people(state: State, lag: dict[str, Any]) -> str:
    if state.revision is None:
        return "there is no read model; run `aegis migrate up --sql URL`"
    if state.pending:
        return f"the read model is at {state.revision}, {len(state.pending)} behind {state.newest}"
    at = f"the read model is at the newest revision, {state.revision}"
    if state.checkpoint is None:
        return f"{at}; nothing was written to it yet: run `aegis projector`"
    row = state.checkpoint
    of = f"namespace {row['namespace']} up to sequence {row['position']} (calls: {row['level']})"
    behind = f", {lag['lag_records']} records ({lag['lag_s']:.1f} s) behind" if lag else ""
    return f"{at}; it holds {of}{behind}"

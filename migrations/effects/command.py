"""What ``aegis migrate effects`` does."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, func, inspect, select

from aegisipc.eventstore.cli.output import print_json
from aegisipc.sdk.transactions.table import TABLE_NAME, effects
from migrations.databases import Database
from migrations.errors import MigrationError, OutcomesLeft
from migrations.revisions import config_of, revisions_of

VERSION_TABLE: Final = "aegis_effects_version"
"""Apart from ``alembic_version``, which is the service's own."""


class State(NamedTuple):
    """How far a database is. ``outcomes`` is ``None`` if there is no table."""

    revision: str | None
    newest: str
    pending: list[str]
    outcomes: int | None


def perform(args: Namespace) -> int:
    """Do the step that was asked for; return the exit code."""
    database = Database(args.database)
    step: Callable[[Connection, Namespace, Database], State] = {"up": _up, "down": _down, "status": _status}[
        args.step
    ]
    if args.step != "up":
        database.check_exists()
    try:
        state = database.run(
            lambda connection: step(connection, args, database), writes=args.step != "status"
        )
    except (CommandError, RuntimeError) as error:
        raise MigrationError(
            f"cannot migrate {database.shown!r}: {error}", database=database.shown
        ) from error
    _tell(args, database, state)
    return 1 if args.step == "status" and state.pending else 0


def _up(connection: Connection, args: Namespace, database: Database) -> State:
    _state(connection, database)
    command.upgrade(_config(connection), "effects@head")
    return _status(connection, args, database)


def _down(connection: Connection, args: Namespace, database: Database) -> State:
    outcomes = _state(connection, database).outcomes
    if outcomes and not args.discard:
        raise OutcomesLeft(
            f"cannot remove {TABLE_NAME} from {database.shown!r}: it holds the outcomes of {outcomes} calls, "
            "which could take effect a second time without it; give --discard if that does not matter",
            database=database.shown,
            rows=outcomes,
        )
    command.downgrade(_config(connection), "effects@base")
    return _status(connection, args, database)


def _status(connection: Connection, args: Namespace, database: Database) -> State:  # noqa: ARG001 - as the others
    return _state(connection, database)


def _state(connection: Connection, database: Database) -> State:
    found = revisions_of(connection, _config(connection), VERSION_TABLE, database)
    outcomes = None
    if inspect(connection).has_table(TABLE_NAME):
        outcomes = connection.execute(select(func.count()).select_from(effects)).scalar_one()
    return State(*found, outcomes)


def _config(connection: Connection) -> Config:
    return config_of(connection, Path(__file__).parent)


def _tell(args: Namespace, database: Database, state: State) -> None:
    told: dict[str, Any] = {"database": database.shown, **state._asdict()}
    if args.json:
        print_json(told)
        return
    what = {
        "up": f"{TABLE_NAME} is at the newest revision, {state.newest}",
        "down": f"{TABLE_NAME} is removed",
        "status": _status_for_people(state),
    }[args.step]
    sys.stdout.write(f"{database.shown}: {what}\n")


def _status_for_people(state: State) -> str:
    if state.revision is None:
        there = "there" if state.outcomes is not None else "missing"
        return f"{TABLE_NAME} is {there}, and no revision is noted; run `aegis migrate effects up`"
    holds = f"it holds {state.outcomes} outcomes"
    if state.pending:
        return f"{TABLE_NAME} is at {state.revision}, {len(state.pending)} behind {state.newest}; {holds}"
    return f"{TABLE_NAME} is at the newest revision, {state.revision}; {holds}"

"""Asking a read model. Nothing is ever written to it, and where there is no database none is made.

::

    answer = await ask("sqlite:///aegis.db", lambda c: queries.promotions(c, WantedHistory(), 10))
    answer.value, answer.checkpoint["position"]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import Connection

from aegisipc.eventstore.sql.checkpointing import read, require_model
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.errors import ReadModelEmpty, WrongNamespace
from aegisipc.eventstore.sql.queries import Row

_READ_ONLY: Final = {
    "sqlite": "PRAGMA query_only = ON",  # a transaction there is of one moment anyway
    "postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
}


class Answer[T](NamedTuple):
    """What was asked for, and how far the read model was at that moment."""

    value: T
    checkpoint: Row


async def ask[T](url: str, question: Callable[[Connection], T], *, namespace: str | None = None) -> Answer[T]:
    """Ask the read model in the database of that URL; all that `question` reads is of one moment.
    `namespace`: refuse the read model of any other.

    Raises:
        DatabaseUnsupported: the URL is none, of another kind of database, or its driver is not installed.
        DatabaseUnreachable: there is no such database, or nobody answers there, or we are not let in.
        WrongMigration: it has no tables of a read model, or those of another version.
        ReadModelEmpty: nothing was ever written to it.
        WrongNamespace: it is the read model of another namespace.
        ReadModelError: the database failed.
    """
    async with open_database(url) as database:
        return await database.read(
            lambda connection: _answer(connection, question, database.shown, namespace)
        )


def _answer[T](
    connection: Connection, question: Callable[[Connection], T], shown: str, namespace: str | None
) -> Answer[T]:
    connection.exec_driver_sql(_READ_ONLY[connection.dialect.name])
    require_model(connection, shown)
    checkpoint = read(connection)
    if checkpoint is None:
        raise ReadModelEmpty(
            f"cannot ask {shown!r}: nothing was ever written to it; start aegis projector (or aegis router) "
            "with --sql and this database",
            database=shown,
        )
    if namespace not in (None, checkpoint["namespace"]):
        raise WrongNamespace(
            f"cannot ask {shown!r} about namespace {namespace!r}: it is the read model of namespace "
            f"{checkpoint['namespace']!r}; name that one, or another database",
            database=shown,
            found=checkpoint["namespace"],
            wanted=namespace,
        )
    return Answer(question(connection), checkpoint)

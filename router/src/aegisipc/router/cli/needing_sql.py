"""Verbs that use a read model need SQLAlchemy, which an installation may do without."""

from __future__ import annotations

from importlib.util import find_spec

from aegisipc.eventstore.errors import AegisError


class SqlMissing(AegisError):
    """SQLAlchemy is not installed."""

    code = "sql_missing"


def require_sql() -> None:
    """See that there is what it takes to use a database.

    Raises:
        SqlMissing: there is not.
    """
    if find_spec("sqlalchemy") is None:
        raise SqlMissing(
            "cannot use a read model: SQLAlchemy is not installed; pip install 'aegisipc-eventstore[sql]' "
            "(or [postgresql])"
        )

"""Databases with the read model's tables, each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sql.kit import Model
from tests.support.postgres import PostgresServer
from tests.transactions.conftest import postgres, postgres_database

__all__ = ["postgres", "postgres_database"]


@pytest.fixture(params=["sqlite", "postgresql"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Model]:
    """An empty read model of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "model.db"
        made = Model(f"sqlite:///{path}", f"sqlite:///{path}")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        name: str = request.getfixturevalue("postgres_database")
        made = Model(server.url(name).replace("+asyncpg", ""), server.url(name, "psycopg"))
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def sqlite_model(tmp_path: Path) -> Iterator[Model]:
    """An empty read model in a file."""
    made = Model(f"sqlite:///{tmp_path / 'model.db'}", f"sqlite:///{tmp_path / 'model.db'}")
    made.migrate()
    yield made
    made.close()

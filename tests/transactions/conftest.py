"""Databases, each test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.support.postgres import PostgresServer
from tests.transactions.kit import Place

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[str]:
    """The name of a fresh database."""
    name = f"t{next(_numbers)}"
    engine = create_engine(postgres.url(driver="psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield name
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A fresh database of each kind, with the tables."""
    if request.param == "sqlite":
        path = tmp_path / "service.db"
        found = Place(f"sqlite+aiosqlite:///{path}", f"sqlite:///{path}")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        name: str = request.getfixturevalue("postgres_database")
        found = Place(server.url(name), server.url(name, "psycopg"))
    found.make_tables()
    return found

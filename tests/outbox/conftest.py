"""Fixtures: a desk's database with an outbox, and a service and client that stand in for real ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegisipc.sdk.outbox import Outbox
from tests.outbox.kit import Clock, FakeClient, FakeLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a table of the application's own."""
    found = tmp_path / "desk.db"
    database = sqlite3.connect(found)
    database.execute("CREATE TABLE orders (number INTEGER)")
    database.close()
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(path: Path, clock: Clock) -> Iterator[Outbox]:
    with Outbox(path, busy_s=0.2, clock_ns=clock) as found:
        yield found


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """The application's connection."""
    found = sqlite3.connect(path, timeout=0.2)
    yield found
    found.close()


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
def client(log: FakeLog) -> FakeClient:
    return FakeClient(log)

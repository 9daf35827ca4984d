"""Connections that are closed when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions

type Opener = Callable[..., Awaitable[Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Opener]:
    """``await connect(url, **options)``: a connection that notices silence within about half a second."""
    opened: list[Connection] = []

    async def open_connection(url: str, **options: Any) -> Connection:
        settings = {"ping_interval_s": 0.15, "connect_timeout_s": 1.0, "reconnect_wait_s": 0.02, **options}
        connection = await Connection.open(ConnectOptions(url=url, **settings))
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        await connection.close(timeout_s=0.2)

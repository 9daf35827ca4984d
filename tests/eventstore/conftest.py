"""A log to test: the one in memory, and the one on a real server, under the same name."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import LogOptions, create_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer

_namespaces = (f"t{number}" for number in itertools.count(1))


@dataclass(frozen=True)
class Bed:
    """A fresh, empty log and the subjects of its namespace."""

    log: Log
    subjects: Subjects

    @property
    def calls(self) -> str:
        return self.subjects.call("orders", "acc", "client-1")

    @property
    def pen(self) -> str:
        return self.subjects.pen("orders", "acc", "i1")

    @property
    def fence(self) -> str:
        return self.subjects.fence("orders", "acc")


@dataclass(frozen=True)
class JetStreamBed(Bed):
    """The same on a server, with the connection that the log uses."""

    connection: Connection

    @property
    def jetstream(self) -> JetStreamLog:
        assert isinstance(self.log, JetStreamLog)
        return self.log

    async def api(self, verb: str, body: object = None) -> dict[str, Any]:
        """Ask the JetStream API of the server."""
        payload = b"" if body is None else json.dumps(body).encode()
        answer = await self.connection.request(f"$JS.API.{verb}", payload, timeout_s=5.0)
        decoded: dict[str, Any] = json.loads(answer.payload)
        return decoded

    async def consumers(self) -> list[str]:
        names: list[str] = (await self.api(f"CONSUMER.NAMES.{self.subjects.stream}"))["consumers"]
        return names


type MakeBed = Callable[[EmbeddedServer], Awaitable[JetStreamBed]]


def connect_options(url: str) -> ConnectOptions:
    return replace(ConnectOptions(), url=url, reconnect_wait_s=0.02)


@pytest.fixture
async def jetstream_bed() -> AsyncIterator[MakeBed]:
    """Makes logs on servers; their connections are closed at the end."""
    connections: list[Connection] = []

    async def make(server: EmbeddedServer) -> JetStreamBed:
        connection = await Connection.open(connect_options(server.url))
        connections.append(connection)
        subjects = subjects_of(next(_namespaces))
        return JetStreamBed(await create_log(connection, subjects), subjects, connection)

    yield make
    for connection in connections:
        await connection.close(timeout_s=0.5)


@pytest.fixture
async def live(shared_server: EmbeddedServer, jetstream_bed: MakeBed) -> JetStreamBed:
    """A log on the shared server."""
    return await jetstream_bed(shared_server)


@pytest.fixture
async def own(nats_server: EmbeddedServer, jetstream_bed: MakeBed) -> JetStreamBed:
    """A log on a server of the test's own, which it may kill."""
    return await jetstream_bed(nats_server)


@pytest.fixture(params=["memory", "jetstream"])
async def bed(request: pytest.FixtureRequest, jetstream_bed: MakeBed) -> Bed:
    """Each implementation of the log in turn."""
    if request.param == "memory":
        return Bed(MemoryLog(time.time_ns), subjects_of(next(_namespaces)))
    return await jetstream_bed(request.getfixturevalue("shared_server"))


@pytest.fixture(params=["memory", "jetstream"])
async def small_bed(request: pytest.FixtureRequest, shared_server: EmbeddedServer) -> AsyncIterator[Bed]:
    """Each implementation in turn, limited to 64 KiB in all."""
    subjects = subjects_of(next(_namespaces))
    if request.param == "memory":
        yield Bed(MemoryLog(time.time_ns, max_log_bytes=65536), subjects)
        return
    async with await Connection.open(connect_options(shared_server.url)) as connection:
        log = await create_log(connection, subjects, LogOptions(max_bytes=65536))
        yield JetStreamBed(log, subjects, connection)


@pytest.fixture
async def server_without_jetstream(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "plain", fsync=False, jetstream=False) as server:
        yield server

"""A read model and a log to fill it from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection as Nats
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.sql.checkpointing import LogName
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.lagging import log_name
from aegisipc.eventstore.sql.models import Base
from aegisipc.eventstore.sql.projecting import Level, Projection
from aegisipc.eventstore.sql.projector import Projector, ProjectorOptions
from aegisipc.eventstore.sql.writing import write_batch
from aegisipc.eventstore.streams import create_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.system import SystemState
from migrations.databases import Database as Migrated
from migrations.readmodel import command
from tests.sdk.kit import NS
from tests.sql.stories import Tables, tables_in

PATIENCE_S = 30.0
USUAL = ProjectorOptions()


class Model:
    """A database: its URL as people give it, and one for a plain driver."""

    def __init__(self, url: str, plain: str) -> None:
        self.url = url
        self.engine: Engine = create_engine(plain)
        self._plain = plain

    def migrate(self) -> None:
        database = Migrated(self._plain)
        database.run(lambda connection: command._up(connection, database))

    def tables(self) -> Tables:
        with self.engine.connect() as connection:
            return tables_in(connection)

    def checkpoint(self) -> dict[str, Any]:
        with self.engine.connect() as connection:
            return dict(connection.execute(text("SELECT * FROM aegis_checkpoint")).mappings().one())

    def checkpoint_position(self) -> int | None:
        with self.engine.connect() as connection:
            found: int | None = connection.execute(text("SELECT position FROM aegis_checkpoint")).scalar()
        return found

    def execute(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def close(self) -> None:
        self.engine.dispose()


@dataclass
class Stored:
    """A log on a server."""

    connection: Nats
    log: JetStreamLog
    subjects: Subjects
    name: LogName

    async def append(self, records: Sequence[Record]) -> int:
        """Store records of the stories' namespace here; returns the last one's sequence."""
        last = 0
        for record in records:
            subject = record.subject.replace(f"aegis.{NS.namespace}.", f"aegis.{self.subjects.namespace}.", 1)
            last = (await self.log.append(subject, record.payload)).seq
        return last

    async def records(self) -> list[Record]:
        return [record async for record in self.log.read([self.subjects.everything])]

    async def expected(self, level: Level = Level.ALL) -> Tables:
        """What the tables are to be, projected at once into an empty database in memory."""
        engine = create_engine("sqlite://")
        with engine.connect() as connection:
            Base.metadata.create_all(connection)
            projection = Projection(SystemState(self.subjects), level=level)
            for record in await self.records():
                projection.fold(record)
            write_batch(connection, projection.take())
            found = tables_in(connection)
        engine.dispose()
        return found


@asynccontextmanager
async def stored(url: str, namespace: str) -> AsyncIterator[Stored]:
    """The log of a namespace, made if it is not there."""
    subjects = subjects_of(namespace)
    async with await Nats.open(ConnectOptions(url, name="test")) as connection:
        log = await create_log(connection, subjects)
        yield Stored(connection, log, subjects, await log_name(connection, subjects))


@asynccontextmanager
async def projecting(
    here: Stored, model: Model, options: ProjectorOptions = USUAL
) -> AsyncIterator[Projector]:
    """A projector that runs; what it raised is raised here."""
    async with open_database(model.url, busy_s=0.2) as database:
        projector = Projector(here.log, here.subjects, here.name, database, options)
        task = asyncio.create_task(projector.run())
        try:
            yield projector
        finally:
            if not task.done():
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def until(true: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up_at, f"not in time: {what}"
        await asyncio.sleep(0.01)


async def reached(projector: Projector, seq: int) -> None:
    await until(lambda: projector.position >= seq, f"the read model at {seq}: {projector.status()}")


async def failed(here: Stored, model: Model, options: ProjectorOptions = USUAL) -> Any:
    """Run a projector until it fails; return the error."""
    async with open_database(model.url, busy_s=0.1) as database:
        projector = Projector(here.log, here.subjects, here.name, database, options)
        with pytest.raises(AegisError) as caught:
            async with asyncio.timeout(PATIENCE_S):
                await projector.run()
    return caught.value


def file_of(model: Model) -> Path:
    """The file of a read model in SQLite."""
    return Path(model.url.removeprefix("sqlite:///"))


def plainly(connection: Connection, statement: str) -> Any:
    """The one value that a statement gives."""
    return connection.execute(text(statement)).scalar_one()

"""A service whose methods work in a database, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.executor import Done, Executor
from aegisipc.sdk.service import Service
from aegisipc.sdk.state import SharedState
from aegisipc.sdk.transactions import create_table, effects

NOW_NS = 1_800_000_000_000_000_000
LIMIT = 100_000


class Base(DeclarativeBase):
    pass


class Entry(Base):
    """A line of a ledger: one for each time that a call took effect."""

    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str]
    amount: Mapped[int]


@dataclass(frozen=True)
class Place:
    """Where a database is, for both kinds of handlers."""

    async_url: str
    plain_url: str

    @contextmanager
    def plain(self, **options: Any) -> Iterator[Engine]:
        engine = create_engine(self.plain_url, **options)
        try:
            yield engine
        finally:
            engine.dispose()

    @asynccontextmanager
    async def engine(self, **options: Any) -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(self.async_url, **options)
        try:
            yield engine
        finally:
            await engine.dispose()

    def make_tables(self) -> None:
        with self.plain() as engine:
            create_table(engine)
            Base.metadata.create_all(engine)

    def counts(self) -> tuple[int, int]:
        """How many lines the ledger has, and how many outcomes are stored."""
        with self.plain() as engine, engine.connect() as connection:
            lines = connection.execute(select(func.count()).select_from(Entry)).scalar_one()
            stored = connection.execute(
                select(func.count()).select_from(effects).where(effects.c.outcome.is_not(None))
            ).scalar_one()
            return lines, stored


def call_id(number: int = 7) -> bytes:
    return b"\x01\xa3\x18\x5c\x50\x00\x70\x00\x80\x00\x04\x00" + number.to_bytes(4, "big")


def call(method: str, *args: Any, number: int = 7, timeout_s: float = 30.0) -> OpenCall:
    body = encode([list(args), {}])
    return OpenCall(call_id(number), "c1", method, "acc_1", 1, NOW_NS + int(timeout_s * 1e9), body)


def executor(
    service: Service,
    instance: str = "a",
    *,
    clock: Callable[[], int] = lambda: NOW_NS,
    objects: Any = None,
    limit: int = LIMIT,
) -> Executor:
    state = None if service.state.is_empty else SharedState(service)
    return Executor(service, Identity(service.name, "acc", instance, "1", 1), clock, limit, state, objects)


async def execute(service: Service, method: str, *args: Any, instance: str = "a", number: int = 7) -> Done:
    """Run a call as one instance would, in an executor of its own."""
    own = executor(service, instance)
    try:
        return await asyncio.wait_for(own.execute(call(method, *args, number=number), 1), 60)
    finally:
        own.close()


def value(done: Done) -> Any:
    """The result of a call that succeeded."""
    assert done.mark is Mark.SUCCEEDED, error(done)
    assert done.body is not None
    return decode(done.body)


def error(done: Done) -> dict[str, Any]:
    """The error of a call that did not."""
    assert done.body is not None
    found: dict[str, Any] = decode(done.body)
    return found

"""The table ``aegis_effects``: the outcomes of calls, beside the effects that they had."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, overload

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
)
from sqlalchemy.ext.asyncio import AsyncEngine

TABLE_NAME: Final = "aegis_effects"

metadata: Final = MetaData()
"""Holds that one table: add it to the ``target_metadata`` of a service's own migrations, or leave it out."""

effects: Final = Table(
    TABLE_NAME,
    metadata,
    Column("call_id", String(36), primary_key=True),
    Column("service", String(255), nullable=False),
    Column("method", String(255), nullable=False),
    Column("instance", String(255), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("outcome", LargeBinary, nullable=True),
    Index("aegis_effects_created_at", "created_at"),
)
"""``instance`` and ``epoch`` are those that the call took effect under; ``created_at`` is UTC, when that run
began; ``outcome`` is as :func:`aegisipc.sdk.transacting.encode_outcome` gives it, and null only within the
transaction.
"""


@overload
def create_table(engine: Engine) -> None: ...
@overload
def create_table(engine: AsyncEngine) -> Awaitable[None]: ...
def create_table(engine: Engine | AsyncEngine) -> Any:
    """Make the table, if it is not there: for tests, and for databases that are made by code. Databases in
    production are brought along by ``aegis migrate effects up`` or by the service's own migrations.

    With an ``AsyncEngine`` it is to be awaited.
    """
    if isinstance(engine, AsyncEngine):
        return _create(engine)
    return metadata.create_all(engine)


async def _create(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)


@overload
def purge_effects(engine: Engine, older_than: timedelta) -> int: ...
@overload
def purge_effects(engine: AsyncEngine, older_than: timedelta) -> Awaitable[int]: ...
def purge_effects(engine: Engine | AsyncEngine, older_than: timedelta) -> Any:
    """Remove the outcomes of calls that began longer ago than that; return how many.

    A call whose outcome is removed could take effect again, if it is run again. So keep them as long as the
    log keeps calls: what is no longer in the log cannot be run, nor requeued by an operator.

    With an ``AsyncEngine`` it is to be awaited.

    Raises:
        ValueError: ``older_than`` is not above zero.
    """
    if older_than <= timedelta(0):
        raise ValueError(f"cannot purge effects older than {older_than}: give a time above zero")
    before = datetime.now(UTC) - older_than
    if isinstance(engine, AsyncEngine):
        return _purge_async(engine, before)
    with engine.begin() as connection:
        return _purge(connection, before)


async def _purge_async(engine: AsyncEngine, before: datetime) -> int:
    async with engine.begin() as connection:
        return await connection.run_sync(_purge, before)


def _purge(connection: Connection, before: datetime) -> int:
    return connection.execute(delete(effects).where(effects.c.created_at < before)).rowcount

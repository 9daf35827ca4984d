"""Handlers that do with their transaction what only AegisIPC may do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from aegisipc.sdk.context import Context
from aegisipc.sdk.hooks import name_of
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.service import Service
from aegisipc.sdk.transacting import TransactionMisused
from tests.transactions.kit import Entry, Place, error, execute

type Misuse = Callable[[AsyncSession], Awaitable[None]]

MISUSES: dict[str, tuple[str, Misuse]] = {}


def misuse(expected: str) -> Callable[[Misuse], Misuse]:
    def register(function: Misuse) -> Misuse:
        MISUSES[name_of(function)] = (expected, function)
        return function

    return register


@misuse("called commit()")
async def commits(session: AsyncSession) -> None:
    await session.commit()


@misuse("called commit()")
async def commits_the_connection(session: AsyncSession) -> None:
    await (await session.connection()).commit()


@misuse("rolled back on the way")
async def rolls_back(session: AsyncSession) -> None:
    await session.rollback()


@misuse("rolled back on the way")
async def rolls_back_and_goes_on(session: AsyncSession) -> None:
    await session.rollback()
    session.add(Entry(account="second", amount=1))
    await session.flush()


@misuse("executed 'COMMIT'")
async def commits_in_sql(session: AsyncSession) -> None:
    await session.execute(text("COMMIT"))


@misuse("executed '/*'")
async def hides_a_commit_behind_a_comment(session: AsyncSession) -> None:
    await session.execute(text("/* done */ commit"))


@misuse("executed 'ROLLBACK'")
async def rolls_back_in_sql(session: AsyncSession) -> None:
    await session.execute(text("ROLLBACK"))


@misuse("called commit()")
async def commits_and_hides_it(session: AsyncSession) -> None:
    try:
        await session.commit()
    except TransactionMisused:
        return


@misuse("rolled back on the way")
async def goes_on_after_an_error(session: AsyncSession) -> None:
    session.add(Entry(id=100, account="x", amount=1))
    await session.flush()
    session.expunge_all()
    session.add(Entry(id=100, account="x", amount=1))
    with pytest.raises(IntegrityError):
        await session.flush()


@misuse("its transaction was ended on the way")
async def commits_behind_our_back(session: AsyncSession) -> None:
    raw: Any = (await (await session.connection()).get_raw_connection()).driver_connection
    await raw.execute("COMMIT")
    await raw.execute("BEGIN")


@pytest.mark.parametrize("name", MISUSES)
async def test_what_only_aegisipc_may_do_is_detected_and_nothing_is_committed(
    place: Place, name: str
) -> None:
    expected, misuse = MISUSES[name]
    service = Service("ledger")
    async with place.engine() as engine:

        @service.method(effect="idempotent", retry=Retry())
        async def handler(ctx: Context) -> None:
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="first", amount=1))
                await session.flush()
                await misuse(session)

        done = await execute(service, "handler")
    found = error(done)
    assert (found["code"], done.again) == ("transaction_misused", False)
    assert expected in found["message"]
    lines, stored = place.counts()
    assert stored == 0
    assert lines == (1 if name == "commits_behind_our_back" else 0)


async def test_a_call_whose_effects_were_committed_behind_our_back_does_not_run_again(place: Place) -> None:
    service = Service("ledger")
    async with place.engine() as engine:

        @service.method(effect="idempotent")
        async def handler(ctx: Context) -> None:
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="first", amount=1))
                await session.flush()
                await commits_behind_our_back(session)

        await execute(service, "handler")
        done = await execute(service, "handler")
    assert "its row in aegis_effects has no outcome" in error(done)["message"]
    assert place.counts() == (1, 0)


async def test_a_second_transaction_in_one_call_is_refused(place: Place) -> None:
    service = Service("ledger")
    async with place.engine() as engine:

        @service.method(effect="idempotent")
        async def handler(ctx: Context) -> None:
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="first", amount=1))
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="second", amount=1))

        done = await execute(service, "handler")
    assert "cannot open a second transaction" in error(done)["message"]
    assert place.counts() == (0, 0)


@pytest.mark.parametrize("flush", [True, False])
async def test_work_after_the_block_is_refused(place: Place, flush: bool) -> None:
    service = Service("ledger")
    async with place.engine() as engine:

        @service.method(effect="idempotent")
        async def handler(ctx: Context) -> None:
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="first", amount=1))
            session.add(Entry(account="second", amount=1))
            if flush:
                await session.flush()

        done = await execute(service, "handler")
    assert "after the block of ctx.transaction" in error(done)["message"]
    assert place.counts() == (0, 0)


async def test_a_block_that_is_still_open_when_the_handler_returns_is_rolled_back(place: Place) -> None:
    service = Service("ledger")
    tasks = []
    async with place.engine() as engine:

        @service.method(effect="idempotent")
        async def handler(ctx: Context) -> None:
            inside = asyncio.Event()

            async def work() -> None:
                async with ctx.transaction(engine) as session:
                    session.add(Entry(account="first", amount=1))
                    await session.flush()
                    inside.set()
                    await asyncio.Event().wait()

            tasks.append(asyncio.create_task(work()))
            await inside.wait()

        done = await execute(service, "handler")
        tasks[0].cancel()
        await asyncio.wait(tasks)
    assert "has not been left" in error(done)["message"]
    assert place.counts() == (0, 0)


async def test_a_session_that_is_in_a_transaction_already_is_refused(place: Place) -> None:
    service = Service("ledger")
    async with place.engine() as engine:

        @service.method(effect="idempotent")
        async def handler(ctx: Context) -> None:
            async with AsyncSession(engine) as session:
                await session.execute(insert(Entry).values(account="before", amount=1))
                async with ctx.transaction(session):
                    raise AssertionError("it must not get here")

        done = await execute(service, "handler")
    assert "the session is in one already" in error(done)["message"]
    assert place.counts() == (0, 0)


async def test_after_the_handler_has_ended_no_transaction_can_be_opened(place: Place) -> None:
    service = Service("ledger")
    contexts: list[Context] = []
    async with place.engine() as engine:

        @service.method(effect="idempotent")
        async def handler(ctx: Context) -> None:
            contexts.append(ctx)

        await execute(service, "handler")
        with pytest.raises(TransactionMisused, match="has ended"):
            contexts[0].transaction(engine)

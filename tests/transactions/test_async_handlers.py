"""Transactions of ``async`` handlers, on real databases."""

from __future__ import annotations

import asyncio
import gc

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.context import Context
from aegisipc.sdk.errors import ServiceError
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.service import Service
from tests.transactions.kit import Entry, Place, call, error, execute, executor, value


def ledger(engine: AsyncEngine) -> Service:  # noqa: C901, PLR0915 - a list of methods
    """A service with one method for each thing that a handler may do."""
    service = Service("ledger")

    @service.method(effect="idempotent")
    async def add(account: str, amount: int, ctx: Context) -> int:
        async with ctx.transaction(engine) as session:
            session.add(Entry(account=account, amount=amount))
            await session.flush()
            found = (await session.execute(select(Entry.amount))).scalars()
            return sum(found)

    @service.method(effect="idempotent")
    async def raises_within(ctx: Context) -> None:
        async with ctx.transaction(engine) as session:
            session.add(Entry(account="a", amount=1))
            await session.flush()
            raise ServiceError("no", "not today")

    @service.method(effect="idempotent", retry=Retry(on=ValueError))
    async def raises_after(ctx: Context) -> None:
        async with ctx.transaction(engine) as session:
            session.add(Entry(account="a", amount=1))
        raise ValueError("after the block")

    @service.method(effect="idempotent")
    async def returns_nonsense(ctx: Context) -> int:
        async with ctx.transaction(engine) as session:
            session.add(Entry(account="a", amount=1))
        return "not a number"  # type: ignore[return-value]

    @service.method(effect="idempotent")
    async def returns_much(ctx: Context) -> str:
        async with ctx.transaction(engine) as session:
            session.add(Entry(account="a", amount=1))
        return "x" * 200_000

    @service.method(effect="idempotent")
    async def with_session(ctx: Context) -> int:
        async with AsyncSession(engine) as session, ctx.transaction(session) as same:
            assert same is session
            session.add(Entry(account="s", amount=2))
        return 2

    @service.method(effect="idempotent")
    async def with_sessionmaker(ctx: Context) -> int:
        async with ctx.transaction(async_sessionmaker(engine)) as session:
            session.add(Entry(account="m", amount=3))
        return 3

    @service.method(effect="idempotent")
    async def swallows(ctx: Context) -> int:
        try:
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="a", amount=1))
        except BaseException:  # noqa: BLE001 - what handlers should not do
            return -1
        return 1

    @service.method(effect="idempotent")
    async def recovers(ctx: Context) -> str:
        try:
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="a", amount=1))
                await session.flush()
                raise RuntimeError  # noqa: TRY301 - here is the point
        except RuntimeError:
            return "without an effect"

    @service.method(effect="idempotent")
    async def with_savepoints(ctx: Context) -> int:
        async with ctx.transaction(engine) as session:
            session.add(Entry(account="kept", amount=1))
            await session.flush()
            nested = await session.begin_nested()
            session.add(Entry(account="dropped", amount=1))
            await session.flush()
            await nested.rollback()
            async with session.begin_nested():
                session.add(Entry(account="kept too", amount=1))
            return len((await session.execute(select(Entry))).all())

    return service


# -- what it is for ---------------------------------------------------------------------------------------


async def test_a_call_takes_effect_once_however_often_it_is_run(place: Place) -> None:
    async with place.engine() as engine:
        service = ledger(engine)
        first = await execute(service, "add", "acc_1", 5)
        again = await execute(service, "add", "acc_1", 5, instance="b")
        other = await execute(service, "add", "acc_1", 5, number=8)
    assert value(first) == 5
    assert again == first
    assert value(other) == 10
    assert place.counts() == (2, 2)


async def test_runs_at_the_same_time_take_effect_once_and_agree(place: Place) -> None:
    async with place.engine() as engine:
        service = ledger(engine)
        done = await asyncio.gather(*(execute(service, "add", "a", 1, instance=f"i{n}") for n in range(5)))
    assert {value(one) for one in done} == {1}
    assert place.counts() == (1, 1)


async def test_different_calls_at_the_same_time_all_take_effect(place: Place) -> None:
    async with place.engine() as engine:
        service = ledger(engine)
        done = await asyncio.gather(*(execute(service, "add", "a", 1, number=n) for n in range(20)))
    assert [one.mark for one in done] == [Mark.SUCCEEDED] * 20
    assert place.counts() == (20, 20)


async def test_with_strict_isolation_a_concurrent_run_is_found_too(place: Place) -> None:
    async with place.engine(isolation_level="SERIALIZABLE") as engine:
        service = ledger(engine)
        done = await asyncio.gather(*(execute(service, "add", "a", 1, instance=f"i{n}") for n in range(5)))
    assert {value(one) for one in done} == {1}
    assert place.counts() == (1, 1)


@pytest.mark.parametrize(
    ("method", "code", "again"),
    [
        ("raises_within", "no", False),
        ("raises_after", "internal_error", True),
        ("returns_nonsense", "invalid_result", False),
        ("returns_much", "result_too_large", False),
    ],
)
async def test_nothing_is_kept_of_a_handler_that_fails(
    place: Place, method: str, code: str, again: bool
) -> None:
    async with place.engine() as engine:
        done = await execute(ledger(engine), method)
    assert (done.mark, error(done)["code"], done.again) == (Mark.FAILED, code, again)
    assert place.counts() == (0, 0)


@pytest.mark.parametrize(("method", "result"), [("with_session", 2), ("with_sessionmaker", 3)])
async def test_a_session_or_a_sessionmaker_will_do(place: Place, method: str, result: int) -> None:
    async with place.engine() as engine:
        done = [await execute(ledger(engine), method) for _ in range(2)]
    assert [value(one) for one in done] == [result] * 2
    assert place.counts() == (1, 1)


async def test_the_outcome_stands_even_if_the_handler_will_not_be_unwound(place: Place) -> None:
    async with place.engine() as engine:
        service = ledger(engine)
        assert [value(await execute(service, "swallows")) for _ in range(2)] == [1, 1]
    assert place.counts() == (1, 1)


async def test_an_error_that_is_caught_outside_the_block_leaves_no_effect_and_no_outcome(
    place: Place,
) -> None:
    async with place.engine() as engine:
        assert value(await execute(ledger(engine), "recovers")) == "without an effect"
    assert place.counts() == (0, 0)


async def test_savepoints_may_be_used(place: Place) -> None:
    async with place.engine() as engine:
        assert value(await execute(ledger(engine), "with_savepoints")) == 2
    assert place.counts() == (2, 1)


# -- cancelling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_caller", [True, False])
async def test_a_handler_that_is_cancelled_in_the_block_leaves_nothing(place: Place, by_caller: bool) -> None:
    service = Service("ledger")
    inside = asyncio.Event()
    async with place.engine() as engine:

        @service.method(effect="idempotent")
        async def handler(ctx: Context) -> None:
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="first", amount=1))
                await session.flush()
                inside.set()
                await asyncio.Event().wait()

        own = executor(service)
        task = asyncio.create_task(own.execute(call("handler"), 1))
        await asyncio.wait_for(inside.wait(), 30)
        if by_caller:
            assert own.cancel(call("handler").call_id, "alice", "too late")
            assert (await task).mark is Mark.CANCELLED
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert value(await execute(ledger(engine), "add", "a", 1)) == 1  # the lock is free again
        own.close()
    assert place.counts() == (1, 1)


async def test_a_stop_amid_the_commit_leaves_an_outcome_that_the_next_run_finds(place: Place) -> None:
    async with place.engine() as engine:
        service = ledger(engine)
        gc.freeze()  # the searches for garbage below are for what is made below
        for steps in range(1, 60):  # stop it ever later: at some point it is amid the commit
            own = executor(service)
            task = asyncio.create_task(own.execute(call("add", "a", 1, number=steps), 1))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            own.close()
            del task
            gc.collect()  # cut short amid a statement, a connection to SQLite keeps its lock until then
            done = await execute(service, "add", "a", 1, number=steps, instance="b")
            assert value(done) == steps
    assert place.counts() == (59, 59)


# -- what is stored ---------------------------------------------------------------------------------------


async def test_events_of_shared_state_are_stored_with_the_outcome(place: Place) -> None:
    service = Service("ledger")
    book: list[int] = []
    async with place.engine() as engine:

        @service.on(int, name="Added")
        def added(event: int) -> None:
            book.append(event)

        @service.snapshot
        def taken() -> list[int]:
            return book

        @service.restore
        def restored(state: list[int] | None) -> None:
            book[:] = state or []

        @service.method(effect="idempotent")
        async def handler(ctx: Context) -> int:
            ctx.emit(1)
            async with ctx.transaction(engine) as session:
                session.add(Entry(account="a", amount=1))
                ctx.emit(2)
            ctx.emit(3)
            return 6

        first = await execute(service, "handler")
        again = await execute(service, "handler", instance="b")
    assert first.emitted == tuple(encode(["Added", n]) for n in (1, 2, 3))
    assert again == first

"""Transactions of handlers that are plain functions, on real databases."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session, sessionmaker

from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.context import Context
from aegisipc.sdk.service import Service
from tests.transactions.kit import Entry, Place, call, error, execute, executor, value


def ledger(engine: Engine) -> Service:
    service = Service("ledger", threads=8)

    @service.method(effect="idempotent")
    def add(account: str, amount: int, ctx: Context) -> int:
        with ctx.transaction(engine) as session:
            session.add(Entry(account=account, amount=amount))
            session.flush()
            return sum(session.execute(select(Entry.amount)).scalars())

    @service.method(effect="idempotent")
    def raises(ctx: Context) -> None:
        with ctx.transaction(engine) as session:
            session.add(Entry(account="a", amount=1))
        raise ValueError("after the block")

    @service.method(effect="idempotent")
    def commits(ctx: Context) -> None:
        with ctx.transaction(engine) as session:
            session.add(Entry(account="a", amount=1))
            session.commit()

    @service.method(effect="idempotent")
    def with_session(ctx: Context) -> int:
        with Session(engine) as session, ctx.transaction(session):
            session.add(Entry(account="s", amount=2))
        return 2

    @service.method(effect="idempotent")
    def with_sessionmaker(ctx: Context) -> int:
        with ctx.transaction(sessionmaker(engine)) as session:
            session.add(Entry(account="m", amount=3))
        return 3

    return service


async def test_a_call_takes_effect_once_however_often_it_is_run(place: Place) -> None:
    with place.plain() as engine:
        service = ledger(engine)
        first = await execute(service, "add", "acc_1", 5)
        again = await execute(service, "add", "acc_1", 5, instance="b")
    assert value(first) == 5
    assert again == first
    assert place.counts() == (1, 1)


async def test_runs_at_the_same_time_take_effect_once_and_agree(place: Place) -> None:
    with place.plain() as engine:
        service = ledger(engine)
        done = await asyncio.gather(*(execute(service, "add", "a", 1, instance=f"i{n}") for n in range(5)))
    assert {value(one) for one in done} == {1}
    assert place.counts() == (1, 1)


@pytest.mark.parametrize(
    ("method", "code"), [("raises", "internal_error"), ("commits", "transaction_misused")]
)
async def test_nothing_is_kept_of_a_handler_that_fails(place: Place, method: str, code: str) -> None:
    with place.plain() as engine:
        done = await execute(ledger(engine), method)
    assert error(done)["code"] == code
    assert place.counts() == (0, 0)


@pytest.mark.parametrize(("method", "result"), [("with_session", 2), ("with_sessionmaker", 3)])
async def test_a_session_or_a_sessionmaker_will_do(place: Place, method: str, result: int) -> None:
    with place.plain() as engine:
        done = [await execute(ledger(engine), method) for _ in range(2)]
    assert [value(one) for one in done] == [result] * 2
    assert place.counts() == (1, 1)


async def test_a_thread_that_goes_on_after_its_host_has_stopped_is_found_by_the_next_run(
    place: Place,
) -> None:
    service = Service("ledger")
    inside, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    with place.plain() as engine:

        @service.method(effect="idempotent")
        def handler(ctx: Context) -> str:
            with ctx.transaction(engine) as session:
                session.add(Entry(account=ctx.instance, amount=1))
                session.flush()
                loop.call_soon_threadsafe(inside.set)
                go_on.wait(30)
            return ctx.instance

        zombie = executor(service, "zombie")
        task = asyncio.create_task(zombie.execute(call("handler"), 1))
        await asyncio.wait_for(inside.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        heir = asyncio.create_task(execute(service, "handler", instance="heir"))
        await asyncio.sleep(0.05)  # it may be waiting for the row by now, or not yet: both must be right
        go_on.set()
        assert value(await heir) == "zombie"
        assert zombie._threads is not None
        await asyncio.to_thread(zombie._threads.shutdown)
    assert place.counts() == (1, 1)


async def test_a_plain_handler_that_sees_that_it_is_cancelled_leaves_nothing(place: Place) -> None:
    service = Service("ledger")
    inside, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    with place.plain() as engine:

        @service.method(effect="idempotent")
        def handler(ctx: Context) -> None:
            with ctx.transaction(engine) as session:
                session.add(Entry(account="a", amount=1))
                session.flush()
                loop.call_soon_threadsafe(inside.set)
                go_on.wait(30)
                ctx.raise_if_cancelled()

        own = executor(service)
        task = asyncio.create_task(own.execute(call("handler"), 1))
        await asyncio.wait_for(inside.wait(), 30)
        assert own.cancel(call("handler").call_id, "alice")
        go_on.set()
        done = await task
        own.close()
    assert done.mark is Mark.CANCELLED
    assert place.counts() == (0, 0)


async def test_engines_that_begin_transactions_themselves_will_do(place: Place) -> None:
    """The recipe for SQLite that many use."""
    with place.plain() as engine:
        if engine.dialect.name == "sqlite":

            @event.listens_for(engine, "connect")
            def connected(connection: object, record: object) -> None:
                connection.isolation_level = None  # type: ignore[attr-defined]

            @event.listens_for(engine, "begin")
            def begun(connection: object) -> None:
                connection.exec_driver_sql("BEGIN")  # type: ignore[attr-defined]

        service = ledger(engine)
        done = [await execute(service, "add", "a", 1) for _ in range(2)]
    assert [value(one) for one in done] == [1, 1]
    assert place.counts() == (1, 1)


@pytest.mark.parametrize("autocommit", [True, False])
async def test_the_modes_of_committing_of_the_driver_for_sqlite_will_do(
    tmp_path: Path, autocommit: bool
) -> None:
    place = Place("", f"sqlite:///{tmp_path / 'service.db'}")
    place.make_tables()
    with place.plain(connect_args={"autocommit": autocommit}) as engine:
        service = ledger(engine)
        done = [await execute(service, method) for method in ("raises", "with_session", "with_session")]
    assert [one.mark for one in done] == [Mark.FAILED, Mark.SUCCEEDED, Mark.SUCCEEDED]
    assert place.counts() == (1, 1)

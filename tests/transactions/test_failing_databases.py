"""Databases that fail, that are not supported, and that hold what they should not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.context import Context
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.service import Service
from aegisipc.sdk.transacting import Outcome, OutcomeUnreadable, decode_outcome, encode_outcome
from aegisipc.sdk.transactions import create_table, effects, purge_effects, work
from aegisipc.sdk.transactions.effect_rows import _Postgresql, _Sqlite
from tests.support.postgres import PostgresServer
from tests.transactions.kit import NOW_NS, Entry, Place, error, execute, value


def adding(target: Any, retry: Retry | None = None, *, is_async: bool = True) -> Service:
    service = Service("ledger")

    async def add(ctx: Context) -> int:
        async with ctx.transaction(target) as session:
            session.add(Entry(account="a", amount=1))
        return 1

    def add_plainly(ctx: Context) -> int:
        with ctx.transaction(target) as session:
            session.add(Entry(account="a", amount=1))
        return 1

    service.method(effect="idempotent", name="add", retry=retry)(add if is_async else add_plainly)
    return service


def failing_commits(monkeypatch: pytest.MonkeyPatch, *, takes_place: bool) -> None:
    """The connection breaks during the commit: before the server had it, or before its answer came."""
    for database in (_Sqlite, _Postgresql):
        real: Any = database.commit

        def commit(self: Any, connection: Any, effect: Any, real: Any = real) -> None:
            if takes_place:
                real(self, connection, effect)
            raise OperationalError("COMMIT", {}, ConnectionResetError("gone"))

        monkeypatch.setattr(database, "commit", commit)


async def test_a_commit_whose_answer_was_lost_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.engine() as engine:
        failing_commits(monkeypatch, takes_place=True)
        assert value(await execute(adding(engine), "add")) == 1
    assert place.counts() == (1, 1)


@pytest.mark.parametrize("retry", [None, Retry()])
async def test_a_commit_that_did_not_take_place_is_an_error_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, retry: Retry | None
) -> None:
    async with place.engine() as engine:
        with monkeypatch.context() as patched:
            failing_commits(patched, takes_place=False)
            done = await execute(adding(engine, retry), "add")
        assert error(done)["code"] == "internal_error"
        assert done.again == (retry is not None)
        assert place.counts() == (0, 0)
        assert value(await execute(adding(engine), "add")) == 1
    assert place.counts() == (1, 1)


@pytest.mark.parametrize("retry", [None, Retry()])
async def test_if_nobody_can_tell_whether_it_was_committed_that_is_what_the_caller_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, retry: Retry | None
) -> None:
    async with place.engine() as engine:
        with monkeypatch.context() as patched:
            failing_commits(patched, takes_place=True)
            patched.setattr(work, "LOOKUPS_S", (0.0, 0.0))
            gone = OperationalError("connect", {}, ConnectionRefusedError("gone"))
            connects = []

            def connect(*args: Any) -> Any:
                connects.append(args)
                if len(connects) > 1:
                    raise gone
                return real(*args)

            real = engine.sync_engine.connect
            patched.setattr(engine.sync_engine, "connect", connect)
            done = await execute(adding(engine, retry), "add")
        assert (error(done)["code"], done.again) == ("transaction_unknown", retry is not None)
        assert len(connects) == 4
        assert value(await execute(adding(engine), "add")) == 1  # the next run knows
    assert place.counts() == (1, 1)


async def test_without_the_table_it_says_how_to_make_it(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}")
    found = error(await execute(adding(engine), "add"))
    await engine.dispose()
    assert found["code"] == "transaction_unsupported"
    assert "aegis migrate effects up" in found["message"]


async def test_without_the_table_it_says_so_in_postgresql(place: Place) -> None:
    with place.plain() as plain, plain.begin() as connection:
        effects.drop(connection)
    async with place.engine() as engine:
        found = error(await execute(adding(engine), "add"))
    assert "the database has no table aegis_effects" in found["message"]


async def test_connections_that_commit_by_themselves_are_refused(place: Place) -> None:
    async with place.engine(isolation_level="AUTOCOMMIT") as engine:
        done = await execute(adding(engine), "add")
        again = await execute(adding(engine), "add")
    if place.async_url.startswith("sqlite"):  # there it is begun and committed by statements of our own
        assert (value(done), again) == (1, done)
        assert place.counts() == (1, 1)
    else:
        assert "commits each statement by itself" in error(done)["message"]
        assert place.counts() == (0, 0)


UNSUPPORTED: dict[str, Any] = {
    "in memory": lambda: create_async_engine("sqlite+aiosqlite://"),
    "not SQLAlchemy's": object,
    "plain engine in an async handler": lambda: create_engine("sqlite:///nothing.db"),
    "session without an engine": AsyncSession,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_what_cannot_be_used_is_refused_before_anything_runs(name: str) -> None:
    target = UNSUPPORTED[name]()
    found = error(await execute(adding(target), "add"))
    assert found["code"] == "transaction_unsupported"
    if isinstance(target, AsyncEngine):
        await target.dispose()


async def test_an_async_engine_in_a_plain_handler_is_refused() -> None:
    engine = create_async_engine("sqlite+aiosqlite:///nothing.db")
    found = error(await execute(adding(engine, is_async=False), "add"))
    assert "a handler that is a plain function gives an Engine" in found["message"]


async def test_another_database_is_refused_by_name(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    engine.dialect.name = "oracle"
    found = error(await execute(adding(engine, is_async=False), "add"))
    engine.dispose()
    assert (
        "cannot open a transaction with oracle+pysqlite: supported are sqlite+aiosqlite" in found["message"]
    )


async def test_psycopg_serves_async_handlers_too(postgres: PostgresServer, postgres_database: str) -> None:
    place = Place(postgres.url(postgres_database), postgres.url(postgres_database, "psycopg"))
    place.make_tables()
    engine = create_async_engine(place.plain_url)
    done = [await execute(adding(engine), "add") for _ in range(2)]
    await engine.dispose()
    assert [value(one) for one in done] == [1, 1]
    assert place.counts() == (1, 1)


async def test_a_busy_sqlite_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "busy.db"
    place = Place(f"sqlite+aiosqlite:///{path}", f"sqlite:///{path}")
    place.make_tables()
    with place.plain() as other, other.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        attempts = []
        async with place.engine(connect_args={"timeout": 0.01}) as engine:

            @event.listens_for(engine.sync_engine, "before_cursor_execute")
            def counted(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
                attempts.append(statement)
                if attempts.count("BEGIN IMMEDIATE") == 3 and statement == "BEGIN IMMEDIATE":
                    holder.exec_driver_sql("ROLLBACK")

            assert value(await execute(adding(engine), "add")) == 1
    assert attempts.count("BEGIN IMMEDIATE") >= 3


# -- the stored outcome -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"", "damaged"),
        (b"\xc1", "damaged"),
        (encode(7), "damaged"),
        (encode([1]), "damaged"),
        (encode([1, 99, b"", []]), "damaged"),
        (encode([1, 1, "text", []]), "damaged"),
        (encode([1, 1, b"", [1]]), "damaged"),
        (encode([1, 1, b"", None]), "damaged"),
        (encode([2, 1, b"", []]), "its version is 2"),
    ],
)
def test_an_outcome_that_cannot_be_read_is_an_error(blob: bytes, why: str) -> None:
    with pytest.raises(OutcomeUnreadable, match=why):
        decode_outcome(blob, "some call")


def test_an_outcome_is_read_as_it_was_stored() -> None:
    outcome = Outcome(Mark.SUCCEEDED, b"\x01" * 100, (b"one", b"two"))
    assert decode_outcome(encode_outcome(outcome), "some call") == outcome


def test_this_is_how_outcomes_are_stored_for_ever() -> None:
    outcome = Outcome(Mark.SUCCEEDED, b"\xc0", (b"e",))
    assert encode_outcome(outcome) == bytes.fromhex("94 01 01 c401c0 91 c40165")
    assert decode_outcome(bytes.fromhex("95 01 01 c401c0 91 c40165 a3616464"), "with an addition") == outcome


async def test_a_row_of_a_later_version_fails_the_call_and_does_not_run_it(place: Place) -> None:
    async with place.engine() as engine:
        await execute(adding(engine), "add")
        with place.plain() as plain, plain.begin() as connection:
            connection.execute(update(effects).values(outcome=encode([2, 1, b"", []])))
        done = await execute(adding(engine, Retry()), "add")
    assert (error(done)["code"], done.again) == ("outcome_unreadable", False)
    assert place.counts() == (1, 1)


# -- keeping the table small ------------------------------------------------------------------------------


async def test_old_outcomes_are_purged_and_younger_ones_stay(place: Place) -> None:
    with place.plain() as plain:
        async with place.engine() as engine:
            await execute(adding(engine), "add")
            await execute(adding(engine), "add", number=8)
            with plain.begin() as connection:
                age = text(
                    "UPDATE aegis_effects SET created_at = '2001-01-01 00:00:00' WHERE call_id LIKE '%8'"
                )
                connection.execute(age)
            assert await purge_effects(engine, timedelta(days=365)) == 1
            assert purge_effects(plain, timedelta(days=365)) == 0
            with pytest.raises(ValueError, match="above zero"):
                purge_effects(plain, timedelta(0))
    assert place.counts() == (2, 1)


async def test_the_row_says_who_did_it_and_when(place: Place) -> None:
    async with place.engine() as engine:
        await execute(adding(engine), "add", instance="b")
    with place.plain() as plain, plain.connect() as connection:
        row = connection.execute(effects.select()).one()
    assert (row.service, row.method, row.instance, row.epoch) == ("ledger", "add", "b", 1)
    assert row.created_at.timestamp() == pytest.approx(NOW_NS / 1e9, abs=86_400)


async def test_create_table_may_be_called_again(place: Place) -> None:
    async with place.engine() as engine:
        await create_table(engine)
        await create_table(engine)
    assert place.counts() == (0, 0)

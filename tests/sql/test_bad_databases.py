"""Databases that are locked, full, read-only, somebody else's, of another version, or not there."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from aegisipc.eventstore.sql import errors as no
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.failures import reported
from aegisipc.eventstore.sql.projector import Projector, ProjectorOptions
from aegisipc.eventstore.sql.rebuilding import rebuild
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from migrations import errors as migration
from migrations.databases import Database as Migrated
from tests.sql.kit import (
    PATIENCE_S,
    Model,
    failed,
    file_of,
    plainly,
    projecting,
    reached,
    stored,
    until,
)
from tests.sql.stories import Story
from tests.support.postgres import PostgresServer

IMPATIENT = ProjectorOptions(patience_s=0.0)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "cannot read the URL"),
        ("mysql://u:secret@h/d", "cannot use 'mysql://u:***@h/d'"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
    ],
)
def test_what_cannot_be_a_read_model(url: str, says: str) -> None:
    with pytest.raises(no.DatabaseUnsupported) as caught:
        open_database(url)
    assert says in caught.value.message
    assert "secret" not in str(caught.value.to_plain())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@h/d?password=secret",
        "postgresql://u@h/d?passfile=secret&sslpassword=secret",
        "postgresql+psycopg://u:secret@h/d",
    ],
)
async def test_a_url_is_shown_without_secrets(url: str) -> None:
    for shown in (open_database(url).shown, Migrated(url).shown):
        assert "secret" not in shown
        assert shown.startswith(url.partition(":")[0])


async def test_sslmode_is_told_to_the_driver_as_it_calls_it(
    postgres: PostgresServer, postgres_database: str
) -> None:
    url = postgres.url(postgres_database).replace("+asyncpg", "")
    async with open_database(f"{url}?sslmode=disable") as database:
        assert await database.read(lambda connection: plainly(connection, "SELECT 1")) == 1
    async with open_database(f"{url}?sslmode=require") as database:
        with pytest.raises(no.DatabaseUnreachable, match="SSL"):
            await database.read(lambda connection: plainly(connection, "SELECT 1"))
    made = Migrated(f"{url}?sslmode=disable")
    assert await asyncio.to_thread(made.run, lambda connection: plainly(connection, "SELECT 1")) == 1


async def test_what_the_driver_does_not_know_is_told(postgres: PostgresServer) -> None:
    url = f"{postgres.url().replace('+asyncpg', '')}?colour=red"
    async with open_database(url) as database:
        with pytest.raises(no.DatabaseUnsupported, match="colour"):
            await database.read(lambda connection: plainly(connection, "SELECT 1"))
    with pytest.raises(migration.DatabaseUnsupported, match="colour"):
        await asyncio.to_thread(Migrated(url).run, lambda connection: plainly(connection, "SELECT 1"))


async def test_a_database_of_others_stays_as_it_is(shared_server: EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "others.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        before = path.read_bytes()
        async with stored(shared_server.url, "sql-others") as here:
            error = await failed(here, Model(f"sqlite:///{path}", "sqlite://"), IMPATIENT)
        assert type(error) is no.WrongMigration
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert path.read_bytes() == before


async def test_work_that_is_given_up_leaves_no_transaction_behind(sqlite_model: Model) -> None:
    with closing(sqlite3.connect(file_of(sqlite_model))) as other:
        async with open_database(sqlite_model.url, busy_s=PATIENCE_S) as database:
            for turns in range(6):
                other.execute("BEGIN IMMEDIATE")  # so that the beginning takes its time
                given_up = asyncio.create_task(database.write(lambda _: None))
                for _ in range(turns + 1):
                    await asyncio.sleep(0)
                given_up.cancel()
                other.rollback()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
                assert await database.write(lambda connection: plainly(connection, "SELECT 1")) == 1


async def test_a_file_that_takes_the_place_of_another_is_filled(
    shared_server: EmbeddedServer, sqlite_model: Model
) -> None:
    records = Story(22).records(60)
    async with stored(shared_server.url, "sql-replaced") as here:
        last = await here.append(records[:30])
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
            sqlite_model.close()
            for path in file_of(sqlite_model).parent.glob("model.db*"):
                path.unlink()
            sqlite_model.migrate()
            last = await here.append(records[30:])
            await until(lambda: sqlite_model.checkpoint_position() == last, "the new file is filled")
        assert sqlite_model.tables() == await here.expected()


@pytest.mark.parametrize(
    "url", ["sqlite:////nonexistent/folder/x.db", "postgresql://u:secret@127.0.0.1:1/d"], ids=["file", "port"]
)
async def test_a_database_that_is_not_there(shared_server: EmbeddedServer, url: str) -> None:
    async with stored(shared_server.url, "sql-nowhere") as here:
        error = await failed(here, Model(url, "sqlite://"), IMPATIENT)
    assert type(error) is no.DatabaseUnreachable
    assert error.message.startswith("cannot ")
    assert "secret" not in str(error.to_plain())


async def test_a_file_that_is_no_database(shared_server: EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear database, " * 100, encoding="utf-8")
    async with stored(shared_server.url, "sql-letter") as here:
        error = await failed(here, Model(f"sqlite:///{path}", "sqlite://"), IMPATIENT)
    assert type(error) is no.ReadModelError
    assert "not a database" in error.message


async def test_another_migration(shared_server: EmbeddedServer, model: Model) -> None:
    async with stored(shared_server.url, f"sql-migration-{model.engine.name}") as here:
        for change, found, says in (
            ("UPDATE aegis_read_model_version SET version_num = 'r9999'", "r9999", "or a later one"),
            ("UPDATE aegis_read_model_version SET version_num = 'r0000'", "r0000", "aegis migrate up"),
            ("DROP TABLE aegis_read_model_version", None, "aegis migrate up"),
        ):
            model.execute(change)
            error = await failed(here, model)
            assert (type(error), error.found, error.wanted) == (no.WrongMigration, found, "r0001")
            assert says in error.message
            async with open_database(model.url) as database:
                with pytest.raises(no.WrongMigration):
                    await rebuild(here.log, here.subjects, here.name, database)


async def test_tables_that_go_while_it_runs(shared_server: EmbeddedServer, model: Model) -> None:
    records = Story(1).records(60)
    async with stored(shared_server.url, f"sql-dropped-{model.engine.name}") as here:
        last = await here.append(records[:30])
        async with open_database(model.url) as database:
            projector = Projector(here.log, here.subjects, here.name, database)
            running = asyncio.create_task(projector.run())
            await reached(projector, last)
            model.execute("DROP TABLE aegis_checkpoint")
            await here.append(records[30:])
            with pytest.raises(no.WrongMigration, match="aegis migrate up"):
                await running


async def test_another_namespace(shared_server: EmbeddedServer, model: Model) -> None:
    kind = model.engine.name
    async with (
        stored(shared_server.url, f"sql-mine-{kind}") as mine,
        stored(shared_server.url, f"sql-other-{kind}") as other,
    ):
        last = await mine.append(Story(1).records(30))
        async with projecting(mine, model) as projector:
            await reached(projector, last)
        before = model.tables(), model.checkpoint()
        error = await failed(other, model)
        assert (type(error), error.found, error.wanted) == (
            no.WrongNamespace,
            mine.subjects.namespace,
            other.subjects.namespace,
        )
        async with open_database(model.url) as database:
            with pytest.raises(no.WrongNamespace):
                await rebuild(other.log, other.subjects, other.name, database)
        assert (model.tables(), model.checkpoint()) == before


async def test_another_log_of_that_name_and_a_rebuild_from_it(
    shared_server: EmbeddedServer, sqlite_model: Model
) -> None:
    namespace = "sql-remade"
    async with stored(shared_server.url, namespace) as here:
        last = await here.append(Story(1).records(60))
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
        await here.connection.request(f"$JS.API.STREAM.DELETE.{here.subjects.stream}", b"", timeout_s=5)
    async with stored(shared_server.url, namespace) as here:
        last = await here.append(Story(2).records(80))
        error = await failed(here, sqlite_model)
        assert (type(error), error.wanted) == (no.WrongLog, here.name.stream_id)
        assert "aegis migrate rebuild" in error.message
        async with open_database(sqlite_model.url) as database:
            await rebuild(here.log, here.subjects, here.name, database)
        assert sqlite_model.tables() == await here.expected()
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)


async def test_an_older_copy_of_the_log_and_rows_of_another_fold(
    shared_server: EmbeddedServer, sqlite_model: Model
) -> None:
    async with stored(shared_server.url, "sql-older") as here:
        last = await here.append(Story(1).records(30))
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
        sqlite_model.execute(f"UPDATE aegis_checkpoint SET position = {last + 5}")
        assert type(await failed(here, sqlite_model)) is no.WrongLog
        sqlite_model.execute(f"UPDATE aegis_checkpoint SET position = {last}, fold_version = 99")
        error = await failed(here, sqlite_model)
        assert type(error) is no.RebuildNeeded
        assert "version 99 of the fold" in error.message


async def test_a_locked_database_is_waited_for_and_then_told(
    shared_server: EmbeddedServer, model: Model
) -> None:
    records = Story(1).records(80)
    async with stored(shared_server.url, f"sql-locked-{model.engine.name}") as here:
        last = await here.append(records[:40])
        async with projecting(here, model) as projector:
            await reached(projector, last)
            with model.engine.connect() as other:
                lock = "BEGIN IMMEDIATE" if other.dialect.name == "sqlite" else "LOCK TABLE aegis_checkpoint"
                other.exec_driver_sql(lock)
                after = await here.append(records[40:])
                await until(lambda: projector.status()["error"] is not None, "it says that it waits")
                status = projector.status()
                assert status["position"] == last
                assert status["lag_records"] == after - last
                error = await failed(here, model, IMPATIENT)
                assert type(error) is no.DatabaseLocked
                other.rollback()
            await reached(projector, after)
            assert projector.status()["error"] is None
        assert model.tables() == await here.expected()


async def test_a_read_only_file(shared_server: EmbeddedServer, sqlite_model: Model) -> None:
    """Root may write to any file, so it is opened as one that may not be written."""
    url = f"sqlite:///file:{file_of(sqlite_model)}?mode=ro&uri=true"
    async with stored(shared_server.url, "sql-read-only") as here:
        error = await failed(here, Model(url, "sqlite://"))
    assert type(error) is no.DatabaseReadOnly
    assert sqlite_model.tables()["aegis_groups"] == []


async def test_a_read_only_postgresql(
    shared_server: EmbeddedServer, request: pytest.FixtureRequest, postgres_database: str
) -> None:
    server = request.getfixturevalue("postgres")
    model = Model(server.url(postgres_database), server.url(postgres_database, "psycopg"))
    model.migrate()
    model.execute(f"ALTER DATABASE {postgres_database} SET default_transaction_read_only = on")
    model.close()
    async with stored(shared_server.url, "sql-read-only-pg") as here:
        error = await failed(here, model)
    assert type(error) is no.DatabaseReadOnly


async def test_a_full_database_is_told_and_gone_on_with_when_there_is_room(
    shared_server: EmbeddedServer, sqlite_model: Model
) -> None:
    async with stored(shared_server.url, "sql-full") as here:
        last = await here.append(Story(1).records(400))
        async with open_database(sqlite_model.url) as database:
            engine: Any = database._engine  # type: ignore[attr-defined]
            event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA max_page_count=30"))
            with pytest.raises(no.DatabaseFull, match="make room"):
                await Projector(here.log, here.subjects, here.name, database).run()
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
        assert sqlite_model.tables() == await here.expected()


def _sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("it said no")
    error.sqlite_errorcode = code
    return error


class _Driver(Exception):
    def __init__(self, state: str) -> None:
        super().__init__("it said no")
        self.sqlstate = state


@pytest.mark.parametrize(
    ("raised", "cls"),
    [
        (_sqlite_error(sqlite3.SQLITE_FULL), no.DatabaseFull),
        (_sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED), no.DatabaseReadOnly),
        (_sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), no.DatabaseLocked),
        (_sqlite_error(sqlite3.SQLITE_IOERR), no.ReadModelError),
        (_Driver("53100"), no.DatabaseFull),
        (_Driver("53300"), no.DatabaseUnreachable),
        (_Driver("40P01"), no.DatabaseLocked),
        (_Driver("42501"), no.DatabaseReadOnly),
        (_Driver("57P01"), no.DatabaseUnreachable),
        (_Driver("22003"), no.ReadModelError),
        (OSError(errno.ECONNREFUSED, "refused"), no.DatabaseUnreachable),
        (TimeoutError(), no.DatabaseUnreachable),
    ],
    ids=repr,
)
def test_what_drivers_raise_is_told_apart(raised: BaseException, cls: type[no.ReadModelError]) -> None:
    is_driver = not isinstance(raised, OSError | TimeoutError)
    with pytest.raises(no.ReadModelError) as caught, reported("the database"):
        raise OperationalError("SELECT 1", {}, raised) if is_driver else raised
    assert type(caught.value) is cls
    assert caught.value.message.startswith("cannot use 'the database': ")


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(ZeroDivisionError), reported("the database"):
        raise ZeroDivisionError

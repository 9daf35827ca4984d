"""How long rows are kept."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.sql import retention
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.projector import ProjectorOptions
from aegisipc.eventstore.sql.retention import Retention, remove_old
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.sql.kit import Model, plainly, projecting, reached, stored, until
from tests.sql.stories import Story

DAY = 86_400
NS_PER_S = 1_000_000_000
OPEN = "concluded_ns IS NULL OR status = 'dead_lettered'"


async def test_what_is_over_for_long_goes_and_what_waits_stays(
    shared_server: EmbeddedServer, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_AT_ONCE", 3)
    async with stored(shared_server.url, f"sql-keep-{model.engine.name}") as here:
        last = await here.append(Story(3).records(300))
        async with projecting(here, model) as projector:
            await reached(projector, last)
    wanted = Retention(calls_s=DAY, history_s=2 * DAY)
    async with open_database(model.url) as database:
        assert await remove_old(database, wanted) == 0
        model.execute(f"UPDATE aegis_checkpoint SET position_ns = position_ns + {(DAY + 60) * NS_PER_S}")
        with model.engine.connect() as connection:
            waiting = plainly(connection, f"SELECT count(*) FROM aegis_calls WHERE {OPEN}")
            calls = plainly(connection, "SELECT count(*) FROM aegis_calls")
        assert 0 < waiting < calls
        assert await remove_old(database, wanted) == calls - waiting
        assert model.tables()["aegis_promotions"] != []
        model.execute(f"UPDATE aegis_checkpoint SET position_ns = position_ns + {DAY * NS_PER_S}")
        assert await remove_old(database, wanted) > 0
        assert await remove_old(database, wanted) == 0
    with model.engine.connect() as connection:
        assert plainly(connection, "SELECT count(*) FROM aegis_calls") == waiting
        assert plainly(connection, "SELECT count(*) FROM aegis_instance_events") == 0
        assert plainly(connection, "SELECT count(*) FROM aegis_groups") == 2
        assert (
            plainly(connection, "SELECT count(*) FROM aegis_dead_letters WHERE state <> 'dead_lettered'") == 0
        )
        assert plainly(connection, "SELECT count(*) FROM aegis_dead_letters") > 0
        assert plainly(connection, "SELECT count(*) FROM aegis_doubts WHERE resolved_ns IS NOT NULL") == 0


async def test_the_projector_removes_them_itself(shared_server: EmbeddedServer, sqlite_model: Model) -> None:
    async with stored(shared_server.url, "sql-keeps") as here:
        last = await here.append(Story(3).records(200))
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
        sqlite_model.execute("UPDATE aegis_checkpoint SET position_ns = position_ns + 3600000000000")
        options = ProjectorOptions(retention=Retention(calls_s=60))
        async with projecting(here, sqlite_model, options):

            def left() -> int:
                with sqlite_model.engine.connect() as connection:
                    found: int = plainly(connection, f"SELECT count(*) FROM aegis_calls WHERE NOT ({OPEN})")
                return found

            await until(lambda: left() == 0, "what is over is removed")


async def test_an_empty_read_model_has_nothing_to_remove(sqlite_model: Model) -> None:
    async with open_database(sqlite_model.url) as database:
        assert await remove_old(database, Retention(calls_s=1, history_s=1)) == 0

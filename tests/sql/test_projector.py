"""The projector on real servers: it follows, goes on exactly where the database is, and shares it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.following import JetStreamFollowing
from aegisipc.eventstore.log import Start
from aegisipc.eventstore.replay.redaction import Redactor
from aegisipc.eventstore.sql import projector as shell
from aegisipc.eventstore.sql.capture import Capture
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.errors import CheckpointMoved
from aegisipc.eventstore.sql.lagging import lag_of
from aegisipc.eventstore.sql.models import Base
from aegisipc.eventstore.sql.projecting import Level
from aegisipc.eventstore.sql.projector import Projector, ProjectorOptions, state_at
from aegisipc.eventstore.sql.rebuilding import rebuild
from aegisipc.eventstore.system_snapshots import digest_of, dump_state
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.sql.kit import Model, file_of, projecting, reached, stored, until
from tests.sql.stories import Story


@pytest.mark.parametrize("level", [Level.ALL, Level.FAILURES])
async def test_it_goes_on_exactly_where_it_stopped(
    shared_server: EmbeddedServer, model: Model, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "BATCH_S", 0.0)
    options = ProjectorOptions(level=level)
    records = Story(3).records(240)
    async with stored(shared_server.url, f"sql-on-{level}-{model.engine.name}") as here:
        last = 0
        for part in (records[:60], records[60:130], [], records[130:]):
            last = await here.append(part) or last
            async with projecting(here, model, options) as projector:
                await reached(projector, last)
        assert model.tables() == await here.expected(level)
        row = model.checkpoint()
        assert (row["namespace"], row["position"], row["level"]) == (here.subjects.namespace, last, level)
        assert row["stream_id"] == here.name.stream_id


async def test_it_takes_up_the_state_from_a_snapshot(
    shared_server: EmbeddedServer, sqlite_model: Model
) -> None:
    records = Story(4).records(200)
    async with stored(shared_server.url, "sql-snapshot") as here:
        await here.append(records[:120])
        state = await state_at(here.log, here.subjects, 100)
        await checkpoints.write(here.log, here.subjects, dump_state(state), router="r", taken_ns=1)
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, 110)
        last = await here.append(records[120:])
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
        assert sqlite_model.tables() == await here.expected()
        whole = await state_at(here.log, here.subjects, last)
        cut = await state_at(here.log, here.subjects, 150)
        async for record in here.log.read([here.subjects.everything]):
            if record.seq > 150:
                cut.apply(record)
        assert digest_of(whole) == digest_of(cut)


async def test_two_projectors_do_not_count_anything_twice(
    shared_server: EmbeddedServer, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "BATCH_S", 0.01)
    records = Story(5).records(200)
    async with stored(shared_server.url, f"sql-two-{model.engine.name}") as here:
        await here.append(records[:50])
        async with projecting(here, model) as first, projecting(here, model) as second:
            last = await here.append(records[50:])
            await until(lambda: max(first.position, second.position) >= last, "both at the end")
            await until(lambda: first.reloads + second.reloads > 0, "one of them learnt of the other")
        assert model.tables() == await here.expected()


async def test_a_rebuild_while_it_runs_is_seen_as_a_whole(
    shared_server: EmbeddedServer, model: Model
) -> None:
    records = Story(6).records(300)
    async with stored(shared_server.url, f"sql-rebuild-{model.engine.name}") as here:
        last = await here.append(records[:200])
        async with projecting(here, model) as projector:
            await reached(projector, last)
            model.execute("DELETE FROM aegis_calls")
            model.execute("UPDATE aegis_groups SET holder = 'nobody'")
            adding = asyncio.create_task(here.append(records[200:]))
            async with open_database(model.url) as database:
                done = await rebuild(here.log, here.subjects, here.name, database)
            last = await adding
            await until(lambda: model.checkpoint()["position"] >= last, "the read model at the end")
        assert done.position <= last
        assert done.level is Level.ALL
        assert model.checkpoint()["rebuilt_ns"] > 0
        assert model.tables() == await here.expected()


async def test_a_rebuild_that_is_cut_short_changes_nothing(
    shared_server: EmbeddedServer, model: Model
) -> None:
    async with stored(shared_server.url, f"sql-cut-{model.engine.name}") as here:
        last = await here.append(Story(7).records(150))
        async with projecting(here, model) as projector:
            await reached(projector, last)
        before = model.tables(), model.checkpoint()

        class Broken:
            bounds, max_record_bytes = here.log.bounds, 0

            async def read(self, subjects: list[str], *, start: Start) -> object:
                async for record in here.log.read(subjects, start=start):
                    if record.seq > 100:
                        raise RuntimeError("cut short")
                    yield record

        async with open_database(model.url) as database:
            with pytest.raises(RuntimeError, match="cut short"):
                await rebuild(Broken(), here.subjects, here.name, database)  # type: ignore[arg-type]
        assert (model.tables(), model.checkpoint()) == before


async def test_how_far_it_is_behind(shared_server: EmbeddedServer, sqlite_model: Model) -> None:
    async with stored(shared_server.url, "sql-lag") as here:
        last = await here.append(Story(8).records(40))
        assert (await lag_of(here.log, here.subjects, last)) == (last, 0, 0.0)
        behind = await lag_of(here.log, here.subjects, last - 7)
        assert (behind.log_end, behind.records) == (last, 7)
        assert 0 <= behind.seconds < 60
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
            status = projector.status()
        assert (status["position"], status["lag_records"], status["lag_s"], status["error"]) == (
            last,
            0,
            0,
            None,
        )


async def test_a_level_that_changes_is_noted(shared_server: EmbeddedServer, sqlite_model: Model) -> None:
    records = Story(9).records(120)
    async with stored(shared_server.url, "sql-level") as here:
        last = await here.append(records[:60])
        async with projecting(here, sqlite_model, ProjectorOptions(level=Level.OFF)) as projector:
            await reached(projector, last)
        assert sqlite_model.tables()["aegis_calls"] == []
        assert sqlite_model.tables()["aegis_groups"] != []
        last = await here.append(records[60:])
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
        assert sqlite_model.checkpoint()["level"] == "all"
        assert sqlite_model.tables()["aegis_calls"] != []


async def test_bodies_are_stored_only_if_asked_for(
    shared_server: EmbeddedServer, sqlite_model: Model
) -> None:
    capture = Capture(arguments=True, results=True, redact=Redactor(["to", "message"]))
    async with stored(shared_server.url, "sql-capture") as here:
        last = await here.append(Story(10).records(150))
        async with projecting(here, sqlite_model, ProjectorOptions(capture=capture)) as projector:
            await reached(projector, last)
        with sqlite_model.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT * FROM aegis_calls").all()
    # The number was given by position, and nobody told the name of that parameter: it may be "to".
    assert {row.arguments for row in rows} == {'[[0],{"to":"x"}]'}
    assert {row.result for row in rows if row.status == "succeeded"} >= {'{"paid":7}'}
    assert {row.result for row in rows if row.status != "succeeded"} == {None}
    assert {row.error_message for row in rows if row.error_code is not None} == {"x" * len("bad\0 luck")}
    async with stored(shared_server.url, "sql-capture") as here:
        columns = list(Base.metadata.tables["aegis_calls"].columns.keys())
        for row in (await here.expected())["aegis_calls"]:
            told = dict(zip(columns, row, strict=True))
            assert (told["arguments"], told["result"]) == (None, None)


async def test_the_server_is_asked_to_pause_when_the_database_is_slow(
    shared_server: EmbeddedServer, sqlite_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "_MOST_WAITING", 8)
    monkeypatch.setattr(shell, "_MOST_ROWS", 4)
    monkeypatch.setattr(shell, "BATCH_ROWS", 2)
    async with stored(shared_server.url, "sql-slow") as here:
        last = await here.append(Story(11).records(300))
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
        assert sqlite_model.tables() == await here.expected()


async def test_what_arrives_is_bounded_while_the_database_hangs(
    shared_server: EmbeddedServer, sqlite_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "_MOST_ROWS", 4)
    monkeypatch.setattr(shell, "BATCH_ROWS", 2)
    held: list[bool] = []
    monkeypatch.setattr(JetStreamFollowing, "hold", lambda self: held.append(True))
    async with stored(shared_server.url, "sql-hangs") as here:
        async with projecting(here, sqlite_model) as projector:
            await projector.caught_up.wait()
            with closing(sqlite3.connect(file_of(sqlite_model), isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                last = await here.append(Story(23).records(40))
                await until(lambda: bool(held), "the server is asked to pause")
                other.execute("ROLLBACK")
            await reached(projector, last)
        assert sqlite_model.tables() == await here.expected()


async def test_who_loses_again_and_again_lets_the_other_be(
    shared_server: EmbeddedServer, sqlite_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            raise RuntimeError("enough")

    async with stored(shared_server.url, "sql-loser") as here, open_database(sqlite_model.url) as database:
        projector = Projector(here.log, here.subjects, here.name, database)

        async def lose() -> Any:
            raise CheckpointMoved("another one was there")

        monkeypatch.setattr(projector, "_take_up", lose)
        monkeypatch.setattr(asyncio, "sleep", pause)
        with pytest.raises(RuntimeError, match="enough"):
            await projector.run()
    assert pauses[:9] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


async def test_it_survives_a_lost_connection(nats_server: EmbeddedServer, sqlite_model: Model) -> None:
    records = Story(12).records(100)
    async with stored(nats_server.url, "sql-lost") as here:
        last = await here.append(records[:50])
        async with projecting(here, sqlite_model) as projector:
            await reached(projector, last)
            await nats_server.kill()
            await nats_server.start()
            await here.connection.wait_connected(10)
            last = await here.append(records[50:])
            await reached(projector, last)
        assert sqlite_model.tables() == await here.expected()

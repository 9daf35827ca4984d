"""``aegis migrate up|down|status|rebuild``, on real databases."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, inspect, text

from aegisipc.eventstore.sql.models import REVISION, Base
from aegisipc.router.cli.main import main
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from migrations.databases import Database
from migrations.readmodel import command
from tests.support.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'model.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(request.getfixturevalue("postgres_database"), "psycopg").replace("+psycopg", "")


def plain(url: str) -> Engine:
    return create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["migrate", *words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def shape(engine: Engine) -> dict[str, Any]:
    """What the tables are made of."""
    found = inspect(engine)
    return {
        name: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(name)],
            found.get_pk_constraint(name)["constrained_columns"],
            sorted(
                (
                    str(i["name"]),
                    tuple(i["column_names"]),
                    sorted((key, str(value)) for key, value in i.get("dialect_options", {}).items()),
                )
                for i in found.get_indexes(name)
            ),
        )
        for name in sorted(found.get_table_names())
        if name.startswith("aegis_") and not name.endswith("_version")
    }


def test_up_makes_exactly_the_tables_of_the_models(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = plain(url)
    Base.metadata.create_all(engine)
    modelled = shape(engine)
    Base.metadata.drop_all(engine)
    for _ in range(2):
        code, found = told(capsys, "up", "--sql", url)
        assert (code, found["revision"], found["pending"], found["checkpoint"]) == (0, REVISION, [], None)
    assert shape(engine) == modelled
    engine.dispose()


def test_up_down_up_and_what_status_says(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = plain(url)
    engine.connect().close()
    code, found = told(capsys, "status", "--sql", url)
    assert (code, found["revision"], found["pending"]) == (1, None, [REVISION])
    assert main(["migrate", "status", "--sql", url]) == 1
    assert "there is no read model; run `aegis migrate up" in capsys.readouterr().out
    assert told(capsys, "up", "--sql", url)[0] == 0
    assert main(["migrate", "status", "--sql", url]) == 0
    assert "nothing was written to it yet" in capsys.readouterr().out
    code, found = told(capsys, "down", "--sql", url)
    assert (code, found["revision"]) == (0, None)
    assert shape(engine) == {}
    assert told(capsys, "up", "--sql", url)[1]["revision"] == REVISION
    engine.dispose()


def test_up_that_is_cut_short_leaves_nothing_behind(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    def cut_short(_c: Any, _cursor: Any, statement: str, *_: object) -> None:
        if "CREATE TABLE aegis_calls" in statement:
            raise RuntimeError("the power is gone")

    engine = plain(url)
    event.listen(Engine, "before_cursor_execute", cut_short)
    try:
        assert told(capsys, "up", "--sql", url)[0] == 1
    finally:
        event.remove(Engine, "before_cursor_execute", cut_short)
    assert inspect(engine).get_table_names() == []
    assert told(capsys, "up", "--sql", url)[1]["revision"] == REVISION
    engine.dispose()


def test_two_that_migrate_at_once_do_not_get_into_each_others_way(url: str) -> None:
    together = threading.Barrier(4)

    def up() -> str | None:
        database = Database(url)
        together.wait(30)
        return database.run(lambda connection: command._up(connection, database)).revision

    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(up) for _ in range(4)]
    assert [each.result() for each in found] == [REVISION] * 4


def test_status_does_not_wait_for_who_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'model.db'}"
    assert told(capsys, "up", "--sql", url)[0] == 0
    with closing(sqlite3.connect(tmp_path / "model.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert told(capsys, "status", "--sql", url)[1]["revision"] == REVISION


def test_tables_that_are_none_of_ours_are_left_alone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = plain(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE aegis_calls (other INTEGER)"))
    code, found = told(capsys, "up", "--sql", url)
    assert (code, found["error"]["code"]) == (1, "migration_failed")
    assert "there are tables aegis_calls already" in found["error"]["message"]
    assert [column["name"] for column in inspect(engine).get_columns("aegis_calls")] == ["other"]
    engine.dispose()


def test_effects_and_read_model_may_share_a_database(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "effects", "up", "--database", url)[0] == 0
    assert told(capsys, "up", "--sql", url)[0] == 0
    assert told(capsys, "down", "--sql", url)[0] == 0
    assert told(capsys, "effects", "status", "--database", url)[0] == 0


@pytest.mark.parametrize("step", ["up", "down", "status"])
def test_a_database_of_a_later_version_is_left_alone(
    url: str, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "up", "--sql", url)
    engine = plain(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE aegis_read_model_version SET version_num = 'r9999'"))
    engine.dispose()
    code, found = told(capsys, step, "--sql", url)
    assert (code, found["error"]["code"]) == (1, "revision_unknown")


@pytest.mark.parametrize("step", ["down", "status", "rebuild"])
def test_a_file_that_is_not_there_is_not_made_by_looking(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], shared_server: EmbeddedServer
) -> None:
    where = ["--url", shared_server.url, "--namespace", "sql-no-file"] if step == "rebuild" else []
    code, found = told(capsys, step, "--sql", f"sqlite:///{tmp_path / 'none.db'}", *where)
    assert (code, found["error"]["code"]) in {(1, "database_unreachable"), (1, "log_missing")}
    assert list(tmp_path.iterdir()) == []


def test_a_rebuild_without_a_log_is_an_error(
    url: str, shared_server: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "up", "--sql", url)
    where = ("--url", shared_server.url, "--namespace", "sql-no-log")
    code, found = told(capsys, "rebuild", "--sql", url, *where)
    assert (code, found["error"]["code"]) == (1, "log_missing")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["sideways"],
        ["rebuild", "--calls", "some"],
        ["rebuild", "--capture", "everything"],
        ["rebuild", "--redact", ""],
        ["rebuild", "--capture", "results", "--calls", "off"],
    ],
)
def test_bad_usage_is_told_as_such(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["migrate", *words])
    assert ended.value.code == 2

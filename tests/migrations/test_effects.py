"""``aegis migrate effects``, on real databases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from aegisipc.router.cli.main import main
from aegisipc.sdk.transactions import create_table, effects
from tests.support.postgres import PostgresServer

ROW = (
    "INSERT INTO aegis_effects (call_id, service, method, instance, epoch, created_at) "
    "VALUES ('x', 's', 'm', 'i', 1, '2026-01-01 00:00:00')"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(request.getfixturevalue("postgres_database"), "psycopg").replace("+psycopg", "")


def plain(url: str) -> Engine:
    return create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


def aegis(*words: str) -> int:
    return main(["migrate", *words])


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = aegis("effects", *words, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_up_makes_the_table_that_handlers_use(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        code, found = told(capsys, "up", "--database", url)
        assert (code, found["revision"], found["pending"], found["outcomes"]) == (0, "e0001", [], 0)
    engine = plain(url)
    columns = {column["name"]: column["nullable"] for column in inspect(engine).get_columns("aegis_effects")}
    indexes = {index["name"] for index in inspect(engine).get_indexes("aegis_effects")}
    engine.dispose()
    assert columns == {column.name: column.nullable for column in effects.columns}
    assert indexes == {index.name for index in effects.indexes}


def test_status_says_what_is_to_be_done_by_its_exit_code(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = plain(url)
    engine.connect().close()
    assert told(capsys, "status", "--database", url)[0] == 1
    aegis("effects", "up", "--database", url)
    assert told(capsys, "status", "--database", url)[0] == 0
    assert aegis("effects", "status", "--database", url) == 0
    assert "is at the newest revision, e0001; it holds 0 outcomes" in capsys.readouterr().out
    engine.dispose()


def test_down_removes_the_table(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    aegis("effects", "up", "--database", url)
    assert told(capsys, "down", "--database", url)[0] == 0
    code, found = told(capsys, "status", "--database", url)
    assert (code, found["revision"], found["outcomes"], found["pending"]) == (1, None, None, ["e0001"])
    assert aegis("effects", "status", "--database", url) == 1
    assert "is missing" in capsys.readouterr().out


def test_down_does_not_discard_outcomes_unless_it_is_told_to(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aegis("effects", "up", "--database", url)
    engine = plain(url)
    with engine.begin() as connection:
        connection.execute(text(ROW))
    engine.dispose()
    code, found = told(capsys, "down", "--database", url)
    assert (code, found["error"]["code"], found["error"]["details"]["rows"]) == (1, "outcomes_left", 1)
    assert told(capsys, "down", "--discard", "--database", url)[0] == 0


def test_a_table_that_code_made_is_taken_over(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = plain(url)
    create_table(engine)
    with engine.begin() as connection:
        connection.execute(text(ROW))
    engine.dispose()
    code, found = told(capsys, "up", "--database", url)
    assert (code, found["revision"], found["outcomes"]) == (0, "e0001", 1)


def test_a_table_of_that_name_that_is_none_of_ours_is_left_alone(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = plain(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE aegis_effects (other INTEGER)"))
    code, found = told(capsys, "up", "--database", url)
    assert (code, found["error"]["code"]) == (1, "migration_failed")
    assert "with the columns other: it is none of ours" in found["error"]["message"]
    assert [column["name"] for column in inspect(engine).get_columns("aegis_effects")] == ["other"]
    engine.dispose()


@pytest.mark.parametrize("step", ["up", "down", "status"])
def test_a_database_of_a_later_version_is_left_alone(
    url: str, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aegis("effects", "up", "--database", url)
    engine = plain(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE aegis_effects_version SET version_num = 'e0999'"))
    engine.dispose()
    code, found = told(capsys, step, "--database", url)
    assert (code, found["error"]["code"], found["error"]["details"]["revision"]) == (
        1,
        "revision_unknown",
        "e0999",
    )


def test_the_services_own_migrations_are_not_touched(url: str) -> None:
    engine = plain(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('the service')"))
    assert aegis("effects", "up", "--database", url) == 0
    assert aegis("effects", "down", "--database", url) == 0
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [
            "the service"
        ]
    engine.dispose()


@pytest.mark.parametrize(
    ("database", "code", "says"),
    [
        ("nonsense", "database_unsupported", "cannot read the URL"),
        ("mysql://u:secret@h/d", "database_unsupported", "cannot migrate 'mysql://u:***@h/d'"),
        ("sqlite://", "database_unsupported", "in memory"),
        ("sqlite:////nonexistent/folder/x.db", "database_unreachable", "unable to open database file"),
        ("postgresql://u:secret@127.0.0.1:1/d", "database_unreachable", "cannot connect to"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/d", "database_unreachable", "cannot connect to"),
        ("postgresql+pg8000://u:secret@127.0.0.1:1/d", "database_unsupported", "install its driver"),
    ],
)
def test_databases_that_cannot_be_used_are_told_apart_without_their_passwords(
    database: str, code: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found_code, found = told(capsys, "up", "--database", database)
    assert (found_code, found["error"]["code"]) == (1, code)
    assert says in found["error"]["message"]
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize("step", ["down", "status"])
def test_a_file_that_is_not_there_is_not_made_by_looking(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = told(capsys, step, "--database", f"sqlite:///{tmp_path / 'none.db'}")
    assert (code, found["error"]["code"]) == (1, "database_unreachable")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear database, " * 100, encoding="utf-8")
    code, found = told(capsys, "up", "--database", f"sqlite:///{path}")
    assert (code, found["error"]["code"]) == (1, "migration_failed")
    assert "not a database" in found["error"]["message"]


@pytest.mark.parametrize("words", [[], ["effects"], ["effects", "up"], ["effects", "sideways"], ["calls"]])
def test_bad_usage_is_told_as_such(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        aegis(*words)
    assert ended.value.code == 2

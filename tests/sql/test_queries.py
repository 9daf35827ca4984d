"""Questions to the read model: the same answers on both databases, by the indices that they have."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, delete, insert, text

from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.sql import errors, queries
from aegisipc.eventstore.sql.models import REVISION, Promotion
from aegisipc.eventstore.sql.queries import Found, WantedCalls, WantedHistory
from aegisipc.eventstore.sql.reading import Answer, ask
from tests.sql.model_rows import (
    BEGAN_NS,
    CALLS,
    CHECKPOINT,
    DEAD,
    DOUBTED,
    EVENTS,
    PROMOTIONS,
    SECOND,
    Row,
    call_row,
    fill,
    make_tables,
    promotion_row,
)
from tests.support.postgres import PostgresServer

_numbers = itertools.count(1)
NOW_NS = BEGAN_NS + 100 * SECOND
SIMILAR = [
    call_row(100 + n, f"0199aaaa-bbb{n}-7000-8000-00000000000{n}", status="succeeded") for n in range(3)
]


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A read model of each kind, which nobody changes."""
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('sql') / 'aegis.db'}")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        engine = create_engine(server.url(driver="psycopg"))
    with engine.begin() as connection:
        fill(connection, *SIMILAR)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


class Place(NamedTuple):
    """A database of a test's own. ``plain_url`` is for whoever writes to it."""

    url: str
    plain_url: str

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def write(self, work: Callable[[Connection], object]) -> None:
        engine = create_engine(self.plain_url)
        with engine.begin() as connection:
            work(connection)
        engine.dispose()


def seqs(found: Found) -> list[int]:
    return [row["seq"] for row in found.rows]


# -- calls ----------------------------------------------------------------------------------------------


def test_calls_come_newest_first_as_many_as_asked_for(model: Connection) -> None:
    found = queries.calls(model, WantedCalls(), 7)
    newest = sorted([*CALLS, *SIMILAR], key=lambda row: row["accepted_ns"], reverse=True)
    assert found.rows == newest[:7]
    assert found.more
    everything = queries.calls(model, WantedCalls(), len(newest))
    assert everything.rows == newest
    assert not everything.more


def fits(row: Row, wanted: WantedCalls) -> bool:
    """What the statement is to find, said once more."""
    exact = {
        "service": wanted.service,
        "group_name": wanted.group,
        "method": wanted.method,
        "resource": wanted.resource,
        "client": wanted.client,
    }
    took_us = row["latency_us"]
    if took_us is None:
        took_us = (wanted.now_ns - row["accepted_ns"]) // 1000
    return (
        all(value is None or row[name] == value for name, value in exact.items())
        and (not wanted.statuses or row["status"] in wanted.statuses)
        and (wanted.since_ns is None or row["accepted_ns"] >= wanted.since_ns)
        and (wanted.until_ns is None or row["accepted_ns"] <= wanted.until_ns)
        and (wanted.slower_than_us is None or took_us >= wanted.slower_than_us)
    )


moments = st.none() | st.integers(0, 60).map(lambda n: BEGAN_NS + n * SECOND)
wanted_calls = st.builds(
    WantedCalls,
    service=st.sampled_from([None, "orders", "quotes", "nobody"]),
    group=st.sampled_from([None, None, "g1", "_pool"]),
    method=st.sampled_from([None, None, "place", "place@2", "' OR 1=1 --"]),
    statuses=st.lists(st.sampled_from(list(CallState)), max_size=3),
    since_ns=moments,
    until_ns=moments,
    slower_than_us=st.none() | st.sampled_from([0, 30_000, 70_000, 60_000_000]),
    now_ns=st.just(NOW_NS),
    resource=st.sampled_from([None, None, "acc_0", "acc_1"]),
    client=st.sampled_from([None, None, "trader-0", "trader-1"]),
)


@given(wanted_calls)
@settings(max_examples=150)
def test_every_combination_of_filters_finds_what_fits_and_nothing_else(
    model: Connection, wanted: WantedCalls
) -> None:
    fitting = [row["call_id"] for row in reversed([*CALLS, *SIMILAR]) if fits(row, wanted)]
    assert [row["call_id"] for row in queries.calls(model, wanted, 1000).rows] == fitting


def test_a_call_without_outcome_is_slow_if_it_is_open_for_long(model: Connection) -> None:
    wanted = WantedCalls(slower_than_us=60_000_000, now_ns=BEGAN_NS + 70 * SECOND)
    found = queries.calls(model, wanted, 100)
    assert [row["accepted_seq"] for row in found.rows] == [109, 104]
    assert all(row["concluded_ns"] is None for row in found.rows)


def test_a_call_is_told_with_its_doubts_and_its_dead_letter(model: Connection) -> None:
    [doubted] = queries.stories_beginning_with(model, DOUBTED["call_id"].replace("-", ""), 9)
    assert (doubted.call, doubted.dead_letter) == (DOUBTED, None)
    assert [row["seq"] for row in doubted.doubts] == [900]
    [dead] = queries.stories_beginning_with(model, DEAD["call_id"].replace("-", ""), 9)
    assert dead.doubts == []
    assert dead.dead_letter is not None
    assert dead.dead_letter["message"] == "3 attempts failed"


@pytest.mark.parametrize(
    ("digits", "numbers"),
    [
        ("0199aaaa", [0, 1, 2]),
        ("0199aaaabbb", [0, 1, 2]),
        ("0199aaaabbb1", [1]),
        ("0199aaaabbb27000", [2]),
        ("0199aaaabbb2700080000000", [2]),
        ("0199aaaabbb270008000000000000002", [2]),
        ("0199aaaabbb270008000000000000003", []),
        ("0199aaab", []),
        ("0199aaa9", []),
    ],
)
def test_the_beginning_of_an_id_finds_the_calls_that_have_it(
    model: Connection, digits: str, numbers: list[int]
) -> None:
    found = queries.stories_beginning_with(model, digits, 9)
    assert [story.call["call_id"] for story in found] == [SIMILAR[n]["call_id"] for n in numbers]
    assert len(queries.stories_beginning_with(model, digits, 2)) == min(2, len(numbers))


# -- groups and instances -------------------------------------------------------------------------------

HISTORIES: list[tuple[WantedHistory, list[int], list[int]]] = [
    (WantedHistory(), [40, 30, 20, 10], [5, 4, 3, 2, 1]),
    (WantedHistory(service="orders"), [30, 20, 10], [4, 3, 2, 1]),
    (WantedHistory(group="_pool"), [], [5]),
    (WantedHistory(instance="orders-2"), [30], [4]),
    (WantedHistory(since_ns=BEGAN_NS + 4 * SECOND), [40, 30, 20, 10], [5, 4]),
    (WantedHistory(until_ns=BEGAN_NS + 20 * SECOND), [20, 10], [5, 4, 3, 2, 1]),
    (
        WantedHistory(service="orders", since_ns=BEGAN_NS + 2 * SECOND, until_ns=BEGAN_NS + 3 * SECOND),
        [],
        [3, 2],
    ),
]


@pytest.mark.parametrize(("wanted", "promoted", "happened"), HISTORIES)
def test_histories_come_newest_first(
    model: Connection, wanted: WantedHistory, promoted: list[int], happened: list[int]
) -> None:
    assert seqs(queries.promotions(model, wanted, 9)) == promoted
    assert seqs(queries.instance_events(model, wanted, 9)) == happened


def test_histories_have_all_that_was_written(model: Connection) -> None:
    assert queries.promotions(model, WantedHistory(), 9).rows == PROMOTIONS[::-1]
    assert queries.instance_events(model, WantedHistory(), 9).rows == EVENTS[::-1]
    assert queries.promotions(model, WantedHistory(), 3).more


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        (WantedHistory(), [("orders-1", 3), ("orders-2", None), ("q-1", None)]),
        (WantedHistory(service="quotes"), [("q-1", None)]),
        (WantedHistory(group="g1"), [("orders-1", 3), ("orders-2", None)]),
        (WantedHistory(instance="orders-1"), [("orders-1", 3)]),
        (WantedHistory(since_ns=BEGAN_NS + 2 * SECOND), [("orders-2", None)]),
    ],
)
def test_instances_that_are_there_have_the_epoch_that_they_hold(
    model: Connection, wanted: WantedHistory, there: list[tuple[str, int | None]]
) -> None:
    found = queries.instances(model, wanted, 9)
    assert [(row["instance"], row["epoch"]) for row in found.rows] == there
    assert all(row["ended_ns"] is None and isinstance(row["resources"], list) for row in found.rows)


# -- how they are found ---------------------------------------------------------------------------------


def plan_of(model: Connection, statement: Any) -> str:
    sql = str(statement.limit(50).compile(model, compile_kwargs={"literal_binds": True}))
    if model.dialect.name == "sqlite":
        return "; ".join(row[-1] for row in model.execute(text(f"EXPLAIN QUERY PLAN {sql}")))
    model.execute(text("SET LOCAL enable_seqscan = off"))  # with so few rows it would read them all
    model.execute(text("SET LOCAL enable_bitmapscan = off"))
    plan = "; ".join(row[0] for row in model.exec_driver_sql(f"EXPLAIN {sql.replace('%', '%%')}"))
    model.rollback()
    return plan


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (WantedCalls(), "aegis_calls_accepted"),
        (WantedCalls(since_ns=BEGAN_NS, service="orders"), "aegis_calls_accepted"),
        (WantedCalls(slower_than_us=50_000, now_ns=NOW_NS), "aegis_calls_accepted"),
        (WantedCalls(statuses=["succeeded"]), "aegis_calls_accepted"),
        (WantedCalls(statuses=["failed"]), "aegis_calls_unsuccessful"),
        (WantedCalls(statuses=["failed"], since_ns=BEGAN_NS), "aegis_calls_unsuccessful"),
        (WantedCalls(statuses=queries.OPEN_STATES), "aegis_calls_unsuccessful"),
    ],
)
def test_calls_are_found_by_an_index(model: Connection, wanted: WantedCalls, index: str) -> None:
    plan = plan_of(model, queries.calls_statement(wanted))
    assert index in plan
    if index == "aegis_calls_accepted" and model.dialect.name == "sqlite":
        assert "TEMP B-TREE" not in plan  # it stops at the limit


def test_the_beginning_of_an_id_is_found_by_the_primary_key(model: Connection) -> None:
    plan = plan_of(model, queries.beginning_statement("0199aaaa"))
    assert "aegis_calls_pkey" in plan or "USING PRIMARY KEY" in plan


# -- asking ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database of each kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'own.db'}"
        (tmp_path / "own.db").touch()
        return Place(url, url)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"own{next(_numbers)}"
    engine = create_engine(server.url(driver="psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return Place(server.url(name).replace("+asyncpg", ""), server.url(name, "psycopg"))


async def first(url: str, **options: Any) -> Answer[Found]:
    return await ask(url, lambda connection: queries.promotions(connection, WantedHistory(), 1), **options)


async def test_an_answer_says_how_far_the_read_model_was(place: Place) -> None:
    place.write(fill)
    answer = await first(place.url, namespace="default")
    assert seqs(answer.value) == [40]
    assert answer.value.rows[0]["evidence"] == PROMOTIONS[-1]["evidence"]
    assert answer.checkpoint == CHECKPOINT


async def test_an_answer_is_of_one_moment(place: Place) -> None:
    place.write(fill)
    place.write(
        lambda connection: connection.execute(text("PRAGMA journal_mode=WAL")) if place.is_sqlite else None
    )

    def question(connection: Connection) -> list[int]:
        place.write(lambda other: other.execute(insert(Promotion), [promotion_row(50)]))
        return seqs(queries.promotions(connection, WantedHistory(), 1))

    assert (await ask(place.url, question)).value == [40]
    assert seqs((await first(place.url)).value) == [50]


async def test_a_question_cannot_change_anything(place: Place) -> None:
    place.write(fill)

    def question(connection: Connection) -> None:
        connection.execute(delete(Promotion))

    with pytest.raises(errors.DatabaseReadOnly):
        await ask(place.url, question)
    assert seqs((await first(place.url)).value) == [40]


async def test_a_database_without_a_read_model_is_told_how_to_become_one(place: Place) -> None:
    with pytest.raises(errors.WrongMigration, match="aegis migrate up"):
        await first(place.url)


@pytest.mark.parametrize(("revision", "hint"), [("r0000", "aegis migrate up"), ("r9999", "a later one")])
async def test_tables_of_another_version_are_told_so(place: Place, revision: str, hint: str) -> None:
    place.write(lambda connection: make_tables(connection, revision))
    with pytest.raises(errors.WrongMigration, match=hint) as caught:
        await first(place.url)
    assert (caught.value.found, caught.value.wanted) == (revision, REVISION)


async def test_tables_that_somebody_changed_are_told_so(place: Place) -> None:
    place.write(fill)
    place.write(
        lambda connection: connection.execute(text("ALTER TABLE aegis_promotions DROP COLUMN author"))
    )
    with pytest.raises(errors.WrongMigration, match="aegis migrate up"):
        await first(place.url)


async def test_a_read_model_that_was_never_filled_is_told_so(place: Place) -> None:
    place.write(make_tables)
    with pytest.raises(errors.ReadModelEmpty, match="aegis projector"):
        await first(place.url)


async def test_the_read_model_of_another_namespace_is_refused(place: Place) -> None:
    place.write(fill)
    with pytest.raises(errors.WrongNamespace, match="namespace 'default'") as caught:
        await first(place.url, namespace="prod")
    assert (caught.value.found, caught.value.wanted) == ("default", "prod")


async def test_where_there_is_no_database_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(errors.DatabaseUnreachable, match="there is no such file"):
        await first(f"sqlite:///{tmp_path / 'nothing.db'}")
    assert not (tmp_path / "nothing.db").exists()


async def test_a_file_that_is_no_database_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 100)
    with pytest.raises(errors.ReadModelError, match="not a database"):
        await first(f"sqlite:///{path}")
    assert path.read_text() == "not a database\n" * 100


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://ann:secret@db/aegis", "sqlite://", "sqlite:///:memory:"]
)
async def test_what_can_be_no_read_model_is_refused(url: str) -> None:
    with pytest.raises(errors.DatabaseUnsupported) as caught:
        await first(url)
    assert "sqlite:///FILE" in caught.value.message
    assert "secret" not in caught.value.message


async def test_a_database_that_does_not_answer_is_told_without_its_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens there
        url = f"postgresql://ann:secret@127.0.0.1:{taken.getsockname()[1]}/aegis"
        with pytest.raises(errors.DatabaseUnreachable) as caught:
            await first(url)
    assert "secret" not in str(caught.value.to_plain())

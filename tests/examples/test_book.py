"""The venue's book, the gateway that keeps it, and what is made of both beside the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.sdk import Context, Doubt, Executed, NotExecuted, ServiceError
from examples import orders
from examples.demo import gateway
from examples.demo.audit import audited
from examples.demo.book import DIRECTORY, Book, ShutOut, book_of
from examples.demo.faults import Failover
from examples.demo.recount import Recount
from examples.orders import Report, Status
from tests.examples.gateway import context, fresh_ledgers, order
from tests.examples.group_story import SUBJECTS, GroupStory

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for books, and a gateway that has opened none."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    with fresh_ledgers():
        yield tmp_path
        begin_anew()


def begin_anew() -> None:
    """The gateway is another process from here on: it knows nothing."""
    for book in gateway._books.values():
        book.close()
    gateway._books.clear()
    gateway._opened_in.clear()
    orders.ledgers.clear()


def report(execution_id: str, status: Status = Status.WORKING) -> Report:
    return Report(order=order(execution_id), status=status, execution_id=execution_id, at=AT)


def opened(directory: Path) -> Book:
    book = book_of(directory, "east")
    book.refresh()
    return book


# -- the book ------------------------------------------------------------------------------------------------


def test_every_reader_sees_what_was_entered_and_where_each_order_stands(tmp_path: Path) -> None:
    one, other = book_of(tmp_path, "east"), book_of(tmp_path, "east")
    one.enter(1, report("a"))
    other.enter(1, report("b"))
    one.enter(1, report("a", Status.CANCELLED))
    for book in (one, other, opened(tmp_path)):
        book.refresh()
        assert book.placed == {"a": 1, "b": 1}
        assert [entry.status for entry in book.entries] == ["working", "working", "cancelled"]
        assert book.orders["a"].status is Status.CANCELLED
        placed = book.placed_as("a")
        assert placed is not None
        assert placed.status is Status.WORKING
        assert book.placed_as("c") is None


def test_an_order_placed_twice_is_seen(tmp_path: Path) -> None:
    book = book_of(tmp_path, "east")
    book.enter(1, report("a"))
    book.enter(1, report("a"))
    assert book.placed == {"a": 2}


def test_an_entry_of_an_epoch_that_was_shut_out_is_void_for_everybody(tmp_path: Path) -> None:
    former, later = book_of(tmp_path, "east"), book_of(tmp_path, "east")
    former.enter(1, report("a"))
    later.shut(2)
    with pytest.raises(ShutOut, match="cannot execute in epoch 1: 2 has begun"):
        former.enter(1, report("b"))
    later.enter(2, report("c"))
    assert opened(tmp_path).placed == {"a": 1, "c": 1}
    assert opened(tmp_path).void == 1


def test_shutting_again_what_is_shut_writes_nothing(tmp_path: Path) -> None:
    book = book_of(tmp_path, "east")
    book.shut(3)
    size = (tmp_path / "book-east.jsonl").stat().st_size
    book.shut(2)
    opened(tmp_path).shut(3)
    assert (tmp_path / "book-east.jsonl").stat().st_size == size


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    book_of(tmp_path, "east").enter(1, report("a"))
    path = tmp_path / "book-east.jsonl"
    line = path.read_bytes()
    path.write_bytes(line + line[:10])
    book = opened(tmp_path)
    assert book.placed == {"a": 1}
    with path.open("ab") as file:
        file.write(line[10:])
    book.refresh()
    assert book.placed == {"a": 2}


# -- the gateway ---------------------------------------------------------------------------------------------


def doubt_about(placed_by: Context) -> Doubt:
    return Doubt("orders", "east", "place", placed_by.call_id, "acc_1", "me", {}, "orders-1", placed_by.epoch)


async def test_a_standby_opens_the_accounts_as_the_book_has_them(books: Path) -> None:
    await gateway.place(order("o-1"), context("acc_1"))
    await gateway.place(order("o-2", limit_price=Decimal("101.40")), context("acc_1"))
    await gateway.cancel("acc_1", "o-2", context("acc_1"))
    await gateway.place(order("o-3", limit_price=Decimal("101.40")), context("acc_1"))
    before = await gateway.position("acc_1", context("acc_1"))
    begin_anew()
    after = await gateway.position("acc_1", context("acc_1", epoch=2))
    assert after.model_copy(update={"at": before.at}) == before
    assert (before.holdings, before.working_orders) == ({"ACME": 100}, 1)
    cancelled = await gateway.cancel("acc_1", "o-3", context("acc_1", epoch=2))
    assert cancelled.status is Status.CANCELLED


async def test_cancelling_again_enters_nothing_more(books: Path) -> None:
    await gateway.place(order("o-1", limit_price=Decimal("101.40")), context("acc_1"))
    for epoch in (1, 1, 2):
        await gateway.cancel("acc_1", "o-1", context("acc_1", epoch=epoch))
    assert [entry.status for entry in opened(books).entries] == [Status.WORKING, Status.CANCELLED]


async def test_a_gateway_whose_epoch_is_over_executes_nothing_any_more(books: Path) -> None:
    await gateway.place(order("o-1"), context("acc_1"))
    opened(books).shut(2)
    with pytest.raises(ServiceError, match=r"cannot execute in epoch 1: 2 has begun") as refused:
        await gateway.place(order("o-2"), context("acc_1"))
    assert refused.value.code == "shut_out"
    assert opened(books).placed.total() == 1


async def test_asked_about_a_doubt_it_says_what_the_book_says(books: Path) -> None:
    begun, never_sent = context("acc_1"), context("acc_1")
    placed = await gateway.place(order("o-1", limit_price=Decimal("101.40")), begun)
    await gateway.cancel("acc_1", "o-1", context("acc_1"))
    begin_anew()
    assert gateway.ask_the_venue(doubt_about(begun)) == Executed(
        placed.model_copy(update={"status": Status.WORKING})
    )
    assert gateway.ask_the_venue(doubt_about(never_sent)) == NotExecuted("it is not in the venue's book")


async def test_once_it_was_said_that_an_order_was_not_executed_it_never_will_be(books: Path) -> None:
    slow = context("acc_1")
    await gateway.position("acc_1", slow)  # frozen before the venue has its order
    assert isinstance(gateway.ask_the_venue(doubt_about(slow)), NotExecuted)
    with pytest.raises(ServiceError, match=r"cannot execute in epoch 1: 2 has begun") as refused:
        await gateway.place(order("o-1"), slow)
    assert refused.value.code == "shut_out"
    assert opened(books).placed == Counter()


# -- the audit -----------------------------------------------------------------------------------------------


def failovers(count: int) -> list[Failover]:
    return [Failover("kill", f"g{n}", "one", "two", 2, 3.0) for n in range(count)]


def counted(story: GroupStory) -> Recount:
    found = Recount()
    for record in story.records:
        found.add(record, SUBJECTS)
    return found


def test_an_audit_of_doubts_says_how_each_ended_and_agrees_with_the_book() -> None:
    story = GroupStory()
    story.promote("one", 1)
    plain, ran, idle, unknown = story.call(count=4)
    story.say("one", 1, (Mark.SUCCEEDED, plain))
    story.say("one", 1, *((Mark.CLAIMED, call_id) for call_id in (ran, idle, unknown)))
    story.promote("two", 2)
    story.say("two", 2, *((Mark.IN_DOUBT, call_id) for call_id in (ran, idle, unknown)))
    story.say("two", 2, (Mark.EXECUTED, ran), (Mark.SUCCEEDED, ran), (Mark.NOT_EXECUTED, idle))
    story.say("two", 2, (Mark.CLAIMED, idle))
    story.say("two", 2, (Mark.SUCCEEDED, idle))
    recounted = counted(story)
    placed = {format_call_id(call_id): 1 for call_id in (plain, ran, idle, unknown)}
    audit = audited(failovers(2), recounted, placed)
    assert (recounted.lost, recounted.duplicates, recounted.started_twice) == ([], [], [])
    assert not any(audit.faults.values())
    assert audit.to_json()["doubts"] == {
        "calls": 3,
        "executed": 3,
        "found_executed": 1,
        "found_not_executed": 1,
        "open": 1,
    }


def test_an_audit_finds_what_the_log_and_the_book_do_not_agree_on() -> None:
    story = GroupStory()
    story.promote("one", 1)
    missing, refused, twice = story.call(count=3)
    story.say("one", 1, (Mark.SUCCEEDED, missing), (Mark.FAILED, refused), (Mark.SUCCEEDED, twice))
    strange = format_call_id(CallIds(9).next(1))
    placed = {format_call_id(refused): 1, format_call_id(twice): 2, strange: 1}
    audit = audited(failovers(1), counted(story), placed)
    assert audit.faults == {
        "failovers_missing": 1,
        "executed_twice": 1,
        "not_executed": 1,
        "unexplained": 2,
    }


def test_a_frame_of_a_former_holder_concludes_nothing() -> None:
    story = GroupStory()
    story.promote("one", 1)
    (call_id,) = story.call()
    story.promote("two", 2)
    story.say("one", 1, (Mark.SUCCEEDED, call_id))
    recounted = counted(story)
    assert (recounted.frames_fenced, recounted.lost) == (1, [call_id])

"""Whoever waits for an outcome waits through a time in which the log cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders, NotConnected
from aegisipc.eventstore.events import GroupPromoted, encode_event
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.eventstore.log import BEGINNING, Deliver, Following, Record, Start
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk.attached import Seeker
from aegisipc.sdk.errors import CallTimeout
from aegisipc.sdk.persistence import persist
from tests.support.waiting import eventually

NOW_NS = 1_800_000_000_000_000_000
NS = subjects_of("t")
CALL_ID = CallIds(7).next(NOW_NS // 1_000_000)
TROUBLES = (
    AckUnknown("the answer did not come"),
    NotConnected("there is no connection now"),
    NoResponders("there is no leader"),
)


class FlakyLog(MemoryLog):
    """Reading fails as often as there are troubles left; with ``is_down``, always."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW_NS)
        self.troubles: list[AegisError] = []
        self.is_down = False
        self.asked = 0

    def _trouble(self) -> None:
        self.asked += 1
        if self.is_down:
            raise TROUBLES[1]
        if self.troubles:
            raise self.troubles.pop()

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        """Fail, or read."""
        self._trouble()
        async for record in super().read(subjects, start=start):
            yield record

    async def follow(
        self, subjects: Sequence[str], deliver: Deliver, *, start: Start = BEGINNING
    ) -> Following:
        """Fail, or follow."""
        self._trouble()
        return await super().follow(subjects, deliver, start=start)


@pytest.fixture
async def log() -> FlakyLog:
    """A log with one call and its holder."""
    log = FlakyLog()
    promoted = GroupPromoted(epoch=1, holder="i", incarnation="r", cause="test", decided_by="router")
    await log.append(NS.fence("orders", "g"), encode_event(promoted))
    frame = CallFrame(7, 1, 0, [CallEntry(CALL_ID, "place", 1000, None)], [b"\x92\x90\x80"])
    await log.append(NS.call("orders", "g", "c"), encode_calls(frame))
    return log


async def write(log: MemoryLog, number: int, *facts: tuple[Mark, bytes | None]) -> None:
    """The holder says so of the call."""
    entries = [PenEntry(mark, CALL_ID) for mark, _ in facts]
    frame = PenFrame(9, number, 1, entries, [body for _, body in facts])
    await log.append(NS.pen("orders", "g", "i"), encode_pen(frame))


async def until_asked_again(log: FlakyLog) -> None:
    """Wait until the log was asked twice more."""
    wanted = log.asked + 2
    await eventually(lambda: log.asked >= wanted, within_s=30.0, what="it asks again")


async def test_a_call_is_found_although_the_log_cannot_be_read_at_first(log: FlakyLog) -> None:
    log.troubles = list(TROUBLES)
    found = await Seeker(log, NS).find(CALL_ID, None, 30.0)
    assert found.call_id == format_call_id(CALL_ID)
    assert log.troubles == []


async def test_a_call_that_could_not_be_looked_for_in_time_is_told_with_the_reason(log: FlakyLog) -> None:
    log.is_down = True
    with pytest.raises(CallTimeout, match=r"within 0\.2 s: there is no connection now; try again") as refused:
        await Seeker(log, NS).find(CALL_ID, None, 0.2)
    assert refused.value.details["call_id"] == format_call_id(CALL_ID)


@pytest.mark.parametrize("wait", ["result", "settled"])
async def test_an_outcome_is_waited_for_while_the_log_cannot_be_read(log: FlakyLog, wait: str) -> None:
    found = await Seeker(log, NS).find(CALL_ID, None, 30.0)
    log.is_down = True
    waiting = asyncio.create_task(found.settled() if wait == "settled" else found.result(60.0))
    await until_asked_again(log)
    await write(log, 1, (Mark.SUCCEEDED, b"\x2a"))
    log.is_down = False
    assert await asyncio.wait_for(waiting, 30) == 42


async def test_what_was_read_before_the_log_was_gone_is_not_counted_twice(log: FlakyLog) -> None:
    await write(log, 1, (Mark.CLAIMED, None), (Mark.IN_DOUBT, None))
    found = await Seeker(log, NS).find(CALL_ID, None, 30.0)
    log.troubles = list(TROUBLES)
    waiting = asyncio.create_task(found.settled())
    await until_asked_again(log)
    await write(log, 2, (Mark.EXECUTED, b""), (Mark.SUCCEEDED, b"\x2a"))
    assert await asyncio.wait_for(waiting, 30) == 42


async def test_who_has_no_more_time_is_told_that_the_log_could_not_be_read(log: FlakyLog) -> None:
    found = await Seeker(log, NS).find(CALL_ID, None, 30.0)
    log.is_down = True
    with pytest.raises(
        CallTimeout, match=r"cannot be read now: there is no connection now; attach\("
    ) as told:
        await found.settled(0.1)
    assert isinstance(told.value.__cause__, NotConnected)


async def test_who_waits_until_the_deadline_is_told_so_at_the_latest_when_that_may_have_passed(
    log: FlakyLog,
) -> None:
    found = await Seeker(log, NS).find(CALL_ID, None, 30.0)
    log.is_down = True
    with pytest.raises(CallTimeout, match="cannot be read now"):
        await asyncio.wait_for(
            found.result(), 30
        )  # the call has a second, and its deadline cannot be asked for


@pytest.mark.parametrize("wait", ["result", "settled", "cancel"])
async def test_a_client_that_was_closed_waits_for_nothing(log: FlakyLog, wait: str) -> None:
    closed = False
    found = await Seeker(log, NS, is_closed=lambda: closed).find(CALL_ID, None, 30.0)
    log.is_down = True
    asking = {"result": found.result(), "settled": found.settled(), "cancel": found.cancel()}
    waiting = asyncio.create_task(asking.pop(wait))
    for other in asking.values():
        other.close()
    await until_asked_again(log)
    closed = True
    with pytest.raises(NotConnected, match="no connection"):
        await asyncio.wait_for(waiting, 30)


async def test_cancelling_waits_until_the_log_can_be_read(log: FlakyLog) -> None:
    found = await Seeker(log, NS).find(CALL_ID, None, 30.0)
    log.troubles = list(TROUBLES)
    cancelling = asyncio.create_task(found.cancel(timeout=30.0))
    await until_asked_again(log)
    await write(log, 1, (Mark.CANCELLED, None))
    await asyncio.wait_for(cancelling, 30)


async def test_what_time_does_not_heal_is_raised_at_once() -> None:
    asked = 0

    async def attempt() -> None:
        nonlocal asked
        asked += 1
        raise CallTimeout("no outcome", call_id="")

    with pytest.raises(CallTimeout):
        await persist(attempt, lambda: False)
    assert asked == 1

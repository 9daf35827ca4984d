"""Finding calls in the log by the time in their ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.errors import LogFailed
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
from aegisipc.sdk.core.lanes import Lane, PendingCall
from aegisipc.sdk.errors import CallInDoubt, CallTimeout, CallUnknown
from aegisipc.sdk.pending import Seeker, SubmittedCall

NOW_NS = 1_800_000_000_000_000_000
NS = subjects_of("t")
IDS = CallIds(7)


def a_frame(number: int, *call_ids: bytes, session: int = 7) -> bytes:
    entries = [CallEntry(call_id, "place", 1000, None) for call_id in call_ids]
    return encode_calls(CallFrame(session, number, 0, entries, [b"\x92\x90\x80"] * len(entries)))


@pytest.fixture
async def log() -> MemoryLog:
    """A log in which ``i`` holds the pen of ``orders/g`` at epoch 1."""
    log = MemoryLog(lambda: NOW_NS)
    await promote(log, "i", 1)
    return log


async def promote(log: MemoryLog, holder: str, epoch: int) -> None:
    event = GroupPromoted(epoch=epoch, holder=holder, incarnation="r", cause="test", decided_by="router")
    await log.append(NS.fence("orders", "g"), encode_event(event))


async def write(
    log: MemoryLog, number: int, *facts: tuple[Mark, bytes, bytes | None], epoch: int = 1
) -> None:
    """``i`` writes a pen frame."""
    entries = [PenEntry(mark, call_id) for mark, call_id, _ in facts]
    frame = PenFrame(9, number, epoch, entries, [body for *_, body in facts])
    await log.append(NS.pen("orders", "g", "i"), encode_pen(frame))


@pytest.fixture
def call_id() -> bytes:
    return IDS.next(NOW_NS // 1_000_000)


async def test_a_call_is_found_by_its_id_and_its_outcome_is_read_from_the_log(
    log: MemoryLog, call_id: bytes
) -> None:
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    pen = PenFrame(9, 1, 1, [PenEntry(Mark.SUCCEEDED, call_id)], [b"\x2a"])
    await log.append(NS.pen("orders", "g", "i"), encode_pen(pen))
    found = await Seeker(log, NS).find(call_id, None, 1.0)
    assert found.call_id == format_call_id(call_id)
    assert await found.result() == 42


async def test_a_frame_that_was_stored_after_its_successor_holds_no_calls(
    log: MemoryLog, call_id: bytes
) -> None:
    other = IDS.next(NOW_NS // 1_000_000)
    await log.append(NS.call("orders", "g", "c"), a_frame(2, other))
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    assert (await Seeker(log, NS).find(other, None, 1.0)).call_id == format_call_id(other)
    with pytest.raises(CallUnknown, match="the log holds no such call"):
        await Seeker(log, NS).find(call_id, None, 1.0)


async def test_a_doubt_that_was_resolved_is_no_doubt_for_who_attaches_later(
    log: MemoryLog, call_id: bytes
) -> None:
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    for number, (mark, body) in enumerate(
        [(Mark.CLAIMED, None), (Mark.IN_DOUBT, None), (Mark.SUCCEEDED, b"\x07"), (Mark.SUCCEEDED, b"\x08")], 1
    ):
        pen = PenFrame(9, number, 1, [PenEntry(mark, call_id)], [body])
        await log.append(NS.pen("orders", "g", "i"), encode_pen(pen))
    assert await (await Seeker(log, NS).find(call_id, None, 1.0)).result() == 7


async def test_a_call_without_an_outcome_is_waited_for_until_its_deadline(
    log: MemoryLog, call_id: bytes
) -> None:
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    found = await Seeker(log, NS).find(call_id, None, 1.0)
    with pytest.raises(CallTimeout, match="has no outcome"):
        await found.result(0.05)


class BreakingLog(MemoryLog):
    """A log whose followings end by themselves at the next record."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW_NS)
        self.caught_up = asyncio.Event()

    async def follow(
        self, subjects: Sequence[str], deliver: Deliver, *, start: Start = BEGINNING
    ) -> Following:
        def fail(_: Record) -> None:
            raise RuntimeError("the log is not the one it was")

        del deliver
        following = await super().follow(subjects, fail, start=start)
        await following.caught_up(1.0)
        self.caught_up.set()
        return following


@pytest.mark.parametrize("wait", ["result", "settled"])
async def test_who_waits_for_a_call_is_told_when_following_the_log_failed(wait: str, call_id: bytes) -> None:
    log = BreakingLog()
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    found = await Seeker(log, NS).find(call_id, None, 1.0)
    waiting = asyncio.create_task(found.settled() if wait == "settled" else found.result(60.0))
    await log.caught_up.wait()
    pen = PenFrame(9, 1, 1, [PenEntry(Mark.SUCCEEDED, call_id)], [b"\x2a"])
    await log.append(NS.pen("orders", "g", "i"), encode_pen(pen))
    with pytest.raises(LogFailed, match="following failed"):
        async with asyncio.timeout(5):
            await waiting


async def test_a_frame_forged_past_the_fence_is_no_outcome(log: MemoryLog, call_id: bytes) -> None:
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    await write(log, 1, (Mark.SUCCEEDED, call_id, b"\x01"), epoch=2)
    await promote(log, "other", 2)
    await write(log, 2, (Mark.SUCCEEDED, call_id, b"\x02"), epoch=1)
    await promote(log, "i", 3)
    await write(log, 3, (Mark.SUCCEEDED, call_id, b"\x03"), epoch=3)
    found = await Seeker(log, NS).find(call_id, None, 1.0)
    assert await found.result() == 3


async def test_a_call_that_was_found_not_to_have_run_has_no_outcome_until_it_has_run(
    log: MemoryLog, call_id: bytes
) -> None:
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    await write(log, 1, (Mark.CLAIMED, call_id, None), (Mark.IN_DOUBT, call_id, None))
    found = await Seeker(log, NS).find(call_id, None, 1.0)
    with pytest.raises(CallInDoubt):
        await found.result()
    await write(log, 2, (Mark.NOT_EXECUTED, call_id, None))
    with pytest.raises(CallTimeout):
        await (await Seeker(log, NS).find(call_id, None, 1.0)).result(timeout=0.01)
    settling = asyncio.ensure_future(found.settled(10.0))
    await write(log, 3, (Mark.CLAIMED, call_id, None), (Mark.SUCCEEDED, call_id, b"\x2a"))
    assert await settling == 42


async def test_a_doubt_that_ended_with_an_execution_gives_its_result(log: MemoryLog, call_id: bytes) -> None:
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    await write(log, 1, (Mark.CLAIMED, call_id, None), (Mark.IN_DOUBT, call_id, None))
    await write(log, 2, (Mark.EXECUTED, call_id, b""), (Mark.SUCCEEDED, call_id, b"\x2a"))
    assert await (await Seeker(log, NS).find(call_id, None, 1.0)).result() == 42


async def test_a_result_is_waited_for_when_a_doubt_ended_with_another_run(
    log: MemoryLog, call_id: bytes
) -> None:
    await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    await write(log, 1, (Mark.CLAIMED, call_id, None))
    await write(log, 2, (Mark.IN_DOUBT, call_id, None))
    await write(log, 3, (Mark.NOT_EXECUTED, call_id, None))
    found = await Seeker(log, NS).find(call_id, None, 1.0)
    waiting = asyncio.create_task(found.result(20.0))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    await write(log, 4, (Mark.CLAIMED, call_id, None), (Mark.SUCCEEDED, call_id, b"\x2a"))
    assert await asyncio.wait_for(waiting, 20) == 42


async def submitted(log: MemoryLog, call_id: bytes) -> SubmittedCall:
    """A call whose outcome came, and whose acknowledgement did not."""
    lane = Lane("orders", "g", NS.call("orders", "g", "c"))
    pending = PendingCall(call_id, lane, "place", b"", 1000, None, time.monotonic_ns() + 1_000_000_000)
    pending.outcome = Outcome(call_id, Mark.SUCCEEDED, b"\x2a")
    found = SubmittedCall(pending, "orders.place", None, Seeker(log, NS), lambda _: False)
    await found.accepted()
    return found


async def test_an_outcome_without_an_acknowledgement_gets_its_receipt_from_the_log(
    log: MemoryLog, call_id: bytes
) -> None:
    appended = await log.append(NS.call("orders", "g", "c"), a_frame(1, call_id))
    found = await submitted(log, call_id)
    assert found.receipt.seq == appended.seq
    assert await found.result() == 42


async def test_what_the_log_does_not_tell_a_receipt_does_not_claim(log: MemoryLog, call_id: bytes) -> None:
    found = await submitted(log, call_id)
    assert found.receipt.seq == 0
    assert await found.result() == 42

"""What somebody hostile wrote is left out, and what others answered him."""

from __future__ import annotations

from aegisipc.chaos.log_facts import read_log_facts
from aegisipc.chaos.nemeses.hostile import MALLORY
from aegisipc.chaos.real.leaving_out import leave_out
from aegisipc.eventstore.codec import encode
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
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of

S = subjects_of("t")
NOW_MS = 1_763_000_000_000


async def _log_of(*frames: tuple[str, int]) -> tuple[MemoryLog, list[bytes]]:
    """A log in which clients call a pool, in frames of these numbers, and a worker refuses everything."""
    log, ids = MemoryLog(lambda: NOW_MS * 1_000_000), CallIds(1)
    made = []
    for written, (client, number) in enumerate(frames, 1):
        call_id = ids.next(NOW_MS)
        made.append(call_id)
        entry = CallEntry(call_id, "no_such_thing", 1000, None)
        frame = CallFrame(7, number, 1, [entry], [encode([[1], {}])])
        await log.append(S.call("desk", POOL_GROUP, client), encode_calls(frame))
        said = PenFrame(9, written, 0, [PenEntry(Mark.FAILED, call_id)], [encode({"code": "no_such_method"})])
        await log.append(S.pen("desk", POOL_GROUP, "w1"), encode_pen(said))
    return log, made


async def test_frames_of_his_that_count_and_others_are_left_out() -> None:
    log, (first, late) = await _log_of((MALLORY, 5), (MALLORY, 4))
    facts = await read_log_facts(log, S)
    assert list(facts.calls) == [format_call_id(first)]
    assert [call_id for call_id, _ in facts.orphans] == [format_call_id(late)]
    await leave_out(facts, MALLORY, log, S)
    assert (facts.calls, facts.orphans) == ({}, [])


async def test_what_others_wrote_stays() -> None:
    log, (first, late) = await _log_of(("c1", 5), ("c1", 4))
    facts = await read_log_facts(log, S)
    await leave_out(facts, MALLORY, log, S)
    assert list(facts.calls) == [format_call_id(first)]
    assert [call_id for call_id, _ in facts.orphans] == [format_call_id(late)]

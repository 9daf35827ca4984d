"""A log in memory with snapshots: what the tests of checkpoints share."""

from __future__ import annotations

from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.checkpoints import SkippedSnapshot, Snapshot, newest
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.snapshot_records import INDEX_TYPE
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import digest_of, dump_state
from tests.eventstore.system_histories import S, a_history, folded

SMALL: Final = 3000
"""Bytes of a record, so that a snapshot has several parts."""


def a_log(*, max_record_bytes: int = SMALL) -> MemoryLog:
    now = iter(range(1, 1 << 40))
    return MemoryLog(lambda: next(now), max_record_bytes=max_record_bytes)


def state_of(log: MemoryLog, until: int | None = None) -> SystemState:
    """What the log gives, folded from its first record."""
    records = log.records_from(1)
    return folded(list(records if until is None else records[:until]))


async def grow(log: MemoryLog, seed: int, count: int = 150) -> None:
    for record in a_history(seed, count):
        await log.append(record.subject, record.payload)


async def snap(log: MemoryLog, router: str = "r1") -> Snapshot:
    return await checkpoints.write(log, S, dump_state(state_of(log)), router=router, taken_ns=5)


async def three_snapshots() -> MemoryLog:
    log = a_log()
    for seed in range(3):
        await grow(log, seed)
        await snap(log)
    await grow(log, 3, 20)
    return log


async def taken(log: MemoryLog, **options: Any) -> tuple[SystemState, list[SkippedSnapshot]]:
    """The state to begin with, and which snapshots were skipped."""
    skipped: list[SkippedSnapshot] = []
    state = await newest(log, S, on_skip=skipped.append, **options)
    for record in log.records_from(state.position + 1):
        state.apply(record)
    assert digest_of(state) == digest_of(state_of(log)), "whatever is wrong, the state is the same in the end"
    skipped_at = [skip.seq for skip in skipped]
    assert skipped_at == sorted(skipped_at, reverse=True)
    return await newest(log, S, **options), skipped


def change(log: MemoryLog, seq: int, payload: bytes) -> None:
    log._records[seq - 1] = log._records[seq - 1]._replace(payload=payload)


def with_index(log: MemoryLog, entry: Snapshot, **changes: Any) -> None:
    """The index says something else."""
    assert entry.index is not None
    data = entry.index.model_dump() | changes
    change(log, entry.seq, msgpack.packb([INDEX_TYPE, data]))

"""What the tests of the log and of its folds share: waiting on conditions, records, collected deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from aegisipc.eventstore.errors import AegisError, LogFailed
from aegisipc.eventstore.log import Appended, Expect, Log, Record

PATIENCE_S: Final = 10.0


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Return once `condition` holds; fail after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.002)


@dataclass
class Collected:
    """Takes records as they are delivered."""

    records: list[Record] = field(default_factory=list)

    def __call__(self, record: Record) -> None:
        self.records.append(record)

    @property
    def seqs(self) -> list[int]:
        return [record.seq for record in self.records]

    @property
    def payloads(self) -> list[bytes]:
        return [record.payload for record in self.records]


async def append_all(log: Log, subject: str, payloads: Sequence[bytes]) -> list[int]:
    """Append one after another; return the sequences."""
    return [(await log.append(subject, payload)).seq for payload in payloads]


async def append_surely(log: Log, subject: str, payload: bytes, *, expect: Expect | None = None) -> Appended:
    """Append whatever it takes: again after every error that may pass, under one record id."""
    record_id = f"sure-{subject}-{payload!r}"
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await log.append(subject, payload, record_id=record_id, expect=expect, timeout_s=1.0)
            except LogFailed:
                raise
            except AegisError:
                await asyncio.sleep(0.02)

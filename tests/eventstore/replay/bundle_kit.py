"""An incident to export: a holder that claimed a call falls silent, another takes over, and doubts it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import BEGINNING, Record, Start
from aegisipc.eventstore.replay import Source, Summary, export
from aegisipc.eventstore.replay.bundle_files import BundleReader, Entry
from aegisipc.eventstore.system import SystemState
from tests.eventstore.replay.told_history import IN_DOUBT, RecordedLog, tale_of
from tests.sdk.kit import NS


class Incident:
    """The tale, and the calls that it is about."""

    def __init__(self) -> None:
        self.tale = tale_of("a", "b")
        self.done = self._call()
        self.doubtful, self.waiting = self._call(), self._call()
        self.tale.pen("a", (Mark.CLAIMED, self.done, None), (Mark.CLAIMED, self.doubtful, None))
        self.tale.pen("a", (Mark.SUCCEEDED, self.done, encode({"account": "DE-4711", "paid": 5})))
        self.before_seq = len(self.tale.log.records)
        self.tale.silence(1500, "b")
        self.tale.settle()
        self.promoted_seq = self.tale.group().fence_seq
        self.tale.pen("b", (Mark.IN_DOUBT, self.doubtful, IN_DOUBT))
        self.tale.pulse("b", after_ms=250)
        self.tale.pen("b", (Mark.CLAIMED, self.waiting, None))

    def _call(self) -> CallId:
        self.tale.later(10)
        return self.tale.call()

    @property
    def records(self) -> list[Record]:
        return self.tale.log.records

    @property
    def last_seq(self) -> int:
        return len(self.records)

    @property
    def source(self) -> Source:
        return self.tale.source()

    def state(self, until_seq: int | None = None) -> SystemState:
        return SystemState(NS).replay(self.records[:until_seq])


async def exported(
    source: Source,
    path: Path,
    from_seq: int = 1,
    until_seq: int | None = None,
    *,
    redact: Sequence[str] = (),
    force: bool = False,
) -> Summary:
    """Export to the end unless something else is said."""
    until_seq = until_seq or (await source.log.bounds()).last_seq
    return await export(source, path, from_seq=from_seq, until_seq=until_seq, redact=redact, force=force)


def source_of(records: Sequence[Record], like: Source) -> Source:
    """The same source, with other records."""
    return replace(like, log=RecordedLog(records))


async def all_of(source: Source) -> list[Record]:
    """All records of a source."""
    return [record async for record in source.log.read([source.subjects.everything])]


async def pulses_of(source: Source) -> list[Record]:
    """All heartbeats of a source."""
    assert source.pulses is not None
    return [record async for record in source.pulses.read([f"{source.subjects.pulse_root}.>"])]


def entries_of(path: Path) -> list[Entry]:
    """All entries of a sound bundle."""
    with path.open("rb") as file:
        return list(BundleReader(file, path))


def content_of(path: Path) -> bytes:
    """What is in a file."""
    return path.read_bytes()


def write(path: Path, content: bytes | bytearray) -> None:
    """Put that into a file."""
    path.write_bytes(content)


class HoledLog(RecordedLog):
    """A log that lost a record."""

    def __init__(self, records: Sequence[Record], missing: int) -> None:
        super().__init__(records)
        self._missing = missing

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        async for record in super().read(subjects, start=start):
            if record.seq != self._missing:
                yield record

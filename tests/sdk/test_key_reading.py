"""Reading segments of keys for the holder of a pen, and large parts of the index in files."""

from __future__ import annotations

import asyncio
from array import array
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aegisipc.eventstore.errors import NotConnected
from aegisipc.eventstore.keys import Elsewhere, KeyIndex, KeyOwner, Segment, encode_segment, key_hash
from aegisipc.eventstore.log import Record
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.hosts import key_reading
from aegisipc.sdk.hosts.base import Site
from aegisipc.sdk.hosts.key_reading import MAX_SEGMENTS_KEPT, KeyReader, spill
from tests.sdk.kit import NS
from tests.support.waiting import eventually

OWNER = KeyOwner(b"c" * 16, b"d" * 16)


class Reading:
    """A reader, and the log that it reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records: dict[int, bytes] = {}
        self.reads: list[int] = []
        self.failures: list[Exception] = []
        self.found: list[tuple[Lookup, KeyOwner | None]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        monkeypatch.setattr(key_reading, "record_at", self._record_at)
        site = cast("Site", SimpleNamespace(connection=None, subjects=NS))
        self.reader = KeyReader(
            site,
            lambda work: self.tasks.append(asyncio.get_running_loop().create_task(work)),
            lambda lookup, owner: self.found.append((lookup, owner)),
        )

    async def _record_at(self, _connection: object, stream: str, seq: int) -> Record | None:
        assert stream == NS.stream
        self.reads.append(seq)
        if self.failures:
            raise self.failures.pop()
        payload = self.records.get(seq)
        return None if payload is None else Record(seq, "s", payload, 0)

    def segment(self, seq: int, *entries: tuple[str, KeyOwner | None]) -> None:
        sorted_entries = sorted((key_hash(key), owner) for key, owner in entries)
        self.records[seq] = encode_segment(Segment(1, 1, 0, seq, sorted_entries))

    async def find(self, key: str, *segments: int) -> KeyOwner | None:
        return await self.reader.find(key_hash(key), segments)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    return Reading(monkeypatch)


async def test_the_first_segment_that_tells_of_a_key_is_right(reading: Reading) -> None:
    other = KeyOwner(b"o" * 16, b"d" * 16)
    reading.segment(1, ("k", other), ("l", OWNER))
    reading.segment(2, ("k", None))
    reading.segment(3, ("m", other))
    assert await reading.find("k", 3, 2, 1) is None
    assert await reading.find("l", 3, 2, 1) == OWNER
    assert await reading.find("k", 1) == other
    assert await reading.find("nobody's", 3, 2, 1) is None
    assert await reading.reader.owner(key_hash("l"), Elsewhere([1])) == OWNER
    assert await reading.reader.owner(key_hash("l"), other) == other
    assert await reading.reader.owner(key_hash("l"), None) is None


async def test_a_few_segments_are_kept(reading: Reading) -> None:
    for seq in range(1, MAX_SEGMENTS_KEPT + 2):
        reading.segment(seq, ("k", OWNER))
        assert await reading.find("k", seq) == OWNER
    reads = len(reading.reads)
    assert await reading.find("k", MAX_SEGMENTS_KEPT + 1) == OWNER
    assert len(reading.reads) == reads
    assert await reading.find("k", 1) == OWNER
    assert len(reading.reads) == reads + 1


async def test_segments_that_are_gone_or_cannot_be_read_tell_of_no_key(reading: Reading) -> None:
    reading.records[2] = b"nonsense"
    reading.segment(1, ("k", OWNER))
    assert await reading.find("k", 3, 2, 1) == OWNER
    assert await reading.find("k", 3, 2) is None


async def test_while_the_log_cannot_be_read_it_tries_again(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_reading, "_PAUSE_S", 0.001)
    reading.segment(1, ("k", OWNER))
    reading.failures += [NotConnected("cannot ask: no server"), NotConnected("cannot ask: no server")]
    lookups = [Lookup(key_hash("k"), (1,)), Lookup(key_hash("l"), (1,))]
    reading.reader.add([])
    assert reading.tasks == []
    reading.reader.add(lookups[:1])
    reading.reader.add(lookups[1:])
    await eventually(lambda: len(reading.found) == 2, within_s=5, what="two answers")
    assert reading.found == [(lookups[0], OWNER), (lookups[1], None)]
    assert len(reading.tasks) == 1
    await reading.tasks[0]
    reading.reader.add(lookups[:1])
    await eventually(lambda: len(reading.found) == 3, within_s=5, what="another answer")


def test_an_index_in_a_file_answers_as_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegisipc.eventstore.keys._MAX_TIER", 8)
    spilled: list[object] = []

    def noted(tier: array[int]) -> Any:
        spilled.append(spill(tier))
        return spilled[-1]

    on_disk, in_memory = KeyIndex(noted), KeyIndex()
    keys = [key_hash(f"k{number}") for number in range(64)]
    for number in range(0, 64, 4):
        entries = sorted((key, OWNER) for key in keys[number : number + 4])
        for index in (on_disk, in_memory):
            index.on_segment(number + 1, Segment(1, 1, index.covered, number + 1, entries))
    assert any(isinstance(tier, memoryview) for tier in spilled)
    assert len(on_disk) == len(in_memory) == 64
    for key in [*keys, key_hash("nobody's")]:
        assert on_disk.find(key) == in_memory.find(key)


def test_where_no_file_can_be_made_the_index_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> object:
        raise OSError("no space left")

    monkeypatch.setattr(key_reading, "TemporaryFile", refuse)
    tier = array("Q", [1, 2, 3])
    assert spill(tier) is tier

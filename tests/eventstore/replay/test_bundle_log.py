"""The records of a bundle as a log: it keeps the contract of logs, as far as reading goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore.errors import LogFailed
from aegisipc.eventstore.log import BEGINNING, Bounds, Following, Record, Start
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.replay import (
    BundleDamaged,
    Manifest,
    ReadOnly,
    Source,
    open_bundle,
)
from aegisipc.eventstore.replay.bundle_files import Ending
from aegisipc.eventstore.replay.bundle_log import BLOCK_RECORDS
from aegisipc.eventstore.subjects import subjects_of
from tests.eventstore import test_log_contract as contract
from tests.eventstore.conftest import Bed
from tests.eventstore.kit import Collected, append_all
from tests.eventstore.replay.bundle_kit import (
    Incident,
    content_of,
    exported,
    source_of,
    write,
)
from tests.sdk.kit import EPOCH_NS, NS


@pytest.fixture
def incident() -> Incident:
    return Incident()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "incident.aegis"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with everything that there can be, which no test changes."""
    path = tmp_path_factory.mktemp("bundle") / "good.aegis"
    incident = Incident()
    asyncio.run(exported(incident.source, path, incident.before_seq))
    return path


# -- the bundle as a log -----------------------------------------------------------------------------------


class BundledLog(MemoryLog):
    """Takes appends as a log in memory; whatever is read, is read from an export of it."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.clock = EPOCH_NS
        super().__init__(self._tick)
        self._folder, self._subjects = folder, subjects_of(namespace)

    def _tick(self) -> int:
        self.clock += 1000
        return self.clock

    async def _bundle(self) -> Source:
        end = len(self._records)
        path = self._folder / f"{end}.aegis"
        if not path.exists():
            plain = MemoryLog(lambda: self.clock)
            plain._records, plain._last_on = list(self._records), dict(self._last_on)
            await exported(Source(plain, self._subjects, "a test"), path)
        return open_bundle(path)

    async def last(self, subject: str) -> Record | None:
        return await (await self._bundle()).log.last(subject)

    async def bounds(self) -> Bounds:
        return await (await self._bundle()).log.bounds() if self._records else await super().bounds()

    async def read(self, subjects: Any, *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        async for record in (await self._bundle()).log.read(subjects, start=start):
            yield record

    async def follow(self, subjects: Any, deliver: Any, *, start: Start = BEGINNING) -> Following:
        return await (await self._bundle()).log.follow(subjects, deliver, start=start)


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(BundledLog(tmp_path, "bundled"), subjects_of("bundled"))


test_written = contract.test_a_record_is_read_back_as_it_was_written
test_last = contract.test_last_returns_the_latest_record_of_a_subject_or_of_a_wildcard
test_filters = contract.test_reading_keeps_to_its_filters
test_filters_in_each_other = contract.test_filters_that_include_each_other_deliver_each_record_once
test_start_at_a_sequence = contract.test_reading_starts_at_a_sequence
test_start_at_a_time = contract.test_reading_starts_at_the_first_record_not_older_than_a_time
test_end = contract.test_reading_ends_at_what_was_there_when_it_began
test_waiting = contract.test_waiting_for_a_record_that_does_not_come_ends_with_ack_unknown
test_broken_deliver = contract.test_a_deliver_that_raises_stops_its_own_following_loudly


async def _many(folder: Path, count: int, times: Callable[[int], int]) -> tuple[list[Record], Source]:
    """Records of two clients, mostly of one, over many blocks."""
    subjects = subjects_of("many")
    names = [subjects.call("orders", "acc", "rare" if n % 1000 == 999 else "often") for n in range(count)]
    records = [Record(n + 1, names[n], b"%d" % n, times(n)) for n in range(count)]
    path = folder / "many.aegis"
    await exported(source_of(records, Source(MemoryLog(lambda: 0), subjects, "a test")), path)
    return records, open_bundle(path)


async def test_following_delivers_everything_and_ends(tmp_path: Path) -> None:
    records, source = await _many(tmp_path, 3 * BLOCK_RECORDS + 5, lambda n: EPOCH_NS + n)
    got = Collected()
    following = await source.log.follow([source.subjects.everything], got, start=Start(7))
    await following.caught_up(5.0)
    assert got.records == records[6:]
    assert following.position == len(records)
    await following.reached(len(records), 1.0)
    await following.stop()
    await following.stop()


async def test_what_was_not_asked_for_is_passed_over(tmp_path: Path) -> None:
    records, source = await _many(tmp_path, 5 * BLOCK_RECORDS, lambda n: EPOCH_NS + n)
    rare = source.subjects.call("orders", "acc", "rare")
    assert [r async for r in source.log.read([rare])] == [r for r in records if r.subject == rare]
    assert await source.log.last(rare) == [r for r in records if r.subject == rare][-1]
    assert await source.log.last(source.subjects.term) is None
    for seq in (1, BLOCK_RECORDS, BLOCK_RECORDS + 1, 2 * BLOCK_RECORDS + 17, 5 * BLOCK_RECORDS, 9999):
        found = [r async for r in source.log.read([source.subjects.everything], start=Start(seq))]
        assert found == records[seq - 1 :], seq


async def test_a_time_is_found_even_if_the_clock_went_back(tmp_path: Path) -> None:
    def times(n: int) -> int:
        return EPOCH_NS + (n if n < 600 else n - 500)

    records, source = await _many(tmp_path, 1400, times)
    for wanted in (0, 1, 255, 256, 300, 599, 600, 700, 899, 900):
        at_ns = EPOCH_NS + wanted
        first = next((n for n, r in enumerate(records) if r.timestamp_ns >= at_ns), len(records))
        found = [r async for r in source.log.read([source.subjects.everything], start=Start(time_ns=at_ns))]
        assert found == records[first:], wanted


async def test_nothing_can_be_appended(good: Path) -> None:
    log = open_bundle(good).log
    with pytest.raises(ReadOnly, match="aegis log import"):
        await append_all(log, NS.term, [b"x"])
    assert log.max_record_bytes == 0


async def test_a_follower_of_a_changed_file_fails_loudly(
    incident: Incident, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await exported(incident.source, path)
    source = open_bundle(path)
    write(path, content_of(path)[:-2000])
    following = await source.log.follow([NS.everything], Collected())
    with pytest.raises(LogFailed):
        await following.caught_up(5.0)
    assert isinstance(following.failure, BundleDamaged)
    assert "follow_failed" in "".join(capfd.readouterr())
    await following.stop()


def test_a_manifest_of_plain_data_is_the_same_one() -> None:
    manifest = Manifest("ns", "about", "1", 1, 5, 1, 2, 3, 4, has_base=False, redacted=("a",))
    plain = {**vars(manifest), "redacted": ["a"], "a later field": 1}
    assert Manifest.from_plain(plain) == manifest
    assert Ending(1, 2, 3, "d") == (1, 2, 3, "d")

"""Snapshots in the log: which one is used, and that none that is damaged ever is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aegisipc.eventstore import checkpoints, snapshot_records
from aegisipc.eventstore.checkpoints import SkippedSnapshot, Snapshot, SnapshotUnusable, listed, load, newest
from aegisipc.eventstore.errors import AckUnknown, LimitExceeded, WrongSequence
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Appended, Record
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import create_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of, dump_state
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.eventstore.snapshot_kit import (
    SMALL,
    a_log,
    grow,
    snap,
    state_of,
    taken,
    three_snapshots,
    with_index,
)
from tests.eventstore.system_histories import S, a_history

# -- the newest ---------------------------------------------------------------------------------------------


async def test_a_log_without_snapshots_is_read_from_its_beginning() -> None:
    log = a_log()
    assert (await newest(log, S)).position == 0
    await grow(log, 1)
    state, skipped = await taken(log)
    assert (state.position, skipped, await listed(log, S)) == (0, [], [])


async def test_a_snapshot_is_in_parts_that_fit_and_holds_the_state_up_to_its_last_record() -> None:
    log = await three_snapshots()
    entries = await listed(log, S)
    assert [entry.covers for entry in entries] == sorted(entry.covers for entry in entries)
    for entry in entries:
        assert entry.index is not None
        assert len(entry.index.parts) > 1
        assert entry.covers < entry.index.parts[0] < entry.index.parts[-1] < entry.seq
        state = state_of(log, entry.covers)
        assert entry.index.digest == digest_of(state) == digest_of(await load(log, S, entry))
        assert (entry.index.covers_ns, entry.index.fold_version) == (state.position_ns, FOLD_VERSION)
        assert (entry.index.router, entry.index.taken_ns) == ("r1", 5)
    assert all(len(record.payload) <= SMALL for record in log.records_from(1))
    state, skipped = await taken(log)
    assert (state.position, skipped) == (entries[-1].covers, [])


@pytest.mark.parametrize("window", [1, 10, 1000])
async def test_of_any_moment_the_newest_before_it_is_found(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_FIRST_WINDOW", window)
    log = await three_snapshots()
    covers = [entry.covers for entry in await listed(log, S)]
    last = len(log.records_from(1))
    for until in {0, 1, last, last + 99, *covers, *(seq - 1 for seq in covers), *(seq + 1 for seq in covers)}:
        state = await newest(log, S, until_seq=until)
        expected = max((seq for seq in covers if seq <= until), default=0)
        assert state.position == expected
        assert digest_of(state) == digest_of(state_of(log, expected))


async def test_the_snapshots_from_a_sequence_on_are_listed() -> None:
    log = await three_snapshots()
    first, second, third = await listed(log, S)
    assert await listed(log, S, from_seq=first.seq + 1) == [second, third]
    assert await listed(log, S, from_seq=third.seq + 1) == []


# -- a base -------------------------------------------------------------------------------------------------


async def test_where_no_snapshot_helps_the_base_does() -> None:
    log = await three_snapshots()
    first = (await listed(log, S))[0]
    base = state_of(log, 40)
    assert (await newest(log, S, until_seq=60, base=lambda: base)) is base
    assert (await newest(log, S, until_seq=39, base=lambda: base)).position == 0
    assert (await newest(log, S, until_seq=first.covers, base=lambda: base)).position == first.covers


async def test_a_snapshot_from_which_the_log_cannot_go_on_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = await three_snapshots()
    (_, second, third) = await listed(log, S)
    bounds = (await log.bounds())._replace(first_seq=third.covers + 2)

    async def fewer() -> Any:
        return bounds

    monkeypatch.setattr(log, "bounds", fewer)
    base = state_of(log, third.covers + 1)
    skipped: list[SkippedSnapshot] = []
    assert await newest(log, S, base=lambda: base, on_skip=skipped.append) is base
    assert [(skip.seq, skip.reason) for skip in skipped] == [(third.seq, "out_of_reach")]
    with pytest.raises(SnapshotUnusable, match=f"it covers {second.covers}, and the log has"):
        await load(log, S, second)


async def test_a_snapshot_of_what_was_not_there_yet_is_not_used() -> None:
    """Acknowledged records were lost; a router that had folded them wrote a snapshot before it found out."""
    log = a_log()
    await grow(log, 1)
    await snap(log)
    sound = (await listed(log, S))[0]
    ahead = state_of(log)
    ahead.position += 20
    await checkpoints.write(log, S, dump_state(ahead), router="r1", taken_ns=5)
    await grow(log, 2)
    state, skipped = await taken(log)
    assert state.position == sound.covers
    assert [(skip.covers, skip.reason) for skip in skipped] == [(ahead.position, "damaged")]
    assert "not there yet" in skipped[0].why


# -- writing ------------------------------------------------------------------------------------------------


class FailingLog(MemoryLog):
    """Takes so many more records; then nobody knows."""

    left = 1 << 40

    async def append(self, *args: Any, **options: Any) -> Appended:
        self.left -= 1
        if self.left < 0:
            raise AckUnknown("cannot say")
        return await super().append(*args, **options)


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_a_crash_before_the_index_is_written_leaves_nothing_that_is_read(left: int) -> None:
    now = iter(range(1, 1 << 40))
    log = FailingLog(lambda: next(now), max_record_bytes=SMALL)
    await grow(log, 1)
    former = await snap(log)
    await grow(log, 2)
    log.left = left
    with pytest.raises(AckUnknown):
        await snap(log)
    log.left = 1 << 40
    assert [entry.seq for entry in await listed(log, S)] == [former.seq]
    state, skipped = await taken(log)
    assert (state.position, skipped) == (former.covers, [])
    written = await snap(log)
    assert (await taken(log))[0].position == written.covers


class InterruptedLog(MemoryLog):
    """Somebody else writes before the second part."""

    between: Callable[[], Any] | None = None
    _parts = 0

    async def append(self, subject: str, payload: bytes, **options: Any) -> Appended:
        if subject == S.snapshot_part and self.between is not None:
            self._parts += 1
            if self._parts == 2:
                between, self.between = self.between, None
                await between()
        return await super().append(subject, payload, **options)


async def test_of_two_who_write_at_once_one_wins_and_their_parts_do_not_mix() -> None:
    now = iter(range(1, 1 << 40))
    log = InterruptedLog(lambda: next(now), max_record_bytes=SMALL)
    await grow(log, 1)
    await grow(log, 2)
    won: list[Snapshot] = []

    async def other() -> None:
        await grow(log, 3, 10)
        won.append(await snap(log, "other"))

    log.between = other
    with pytest.raises(WrongSequence):
        await snap(log, "slow")
    (entry,) = await listed(log, S)
    assert entry.seq == won[0].seq
    assert entry.index is not None
    assert entry.index.router == "other"
    state, skipped = await taken(log)
    assert (state.position, skipped) == (entry.covers, [])


async def test_a_snapshot_that_is_no_news_is_not_written() -> None:
    log = a_log()
    await grow(log, 1)
    plain = dump_state(state_of(log))
    await checkpoints.write(log, S, plain, router="r1", taken_ns=5)
    before = len(log.records_from(1))
    with pytest.raises(WrongSequence, match="there is no need for another"):
        await checkpoints.write(log, S, plain, router="r2", taken_ns=6)
    assert len(log.records_from(1)) == before


async def test_behind_one_of_another_version_of_the_fold_a_snapshot_is_news() -> None:
    log = a_log()
    await grow(log, 1)
    plain = dump_state(state_of(log))
    entry = await checkpoints.write(log, S, plain, router="r1", taken_ns=5)
    with_index(log, entry, fold_version=FOLD_VERSION + 1)
    again = await checkpoints.write(log, S, plain, router="r2", taken_ns=6)
    assert (await newest(log, S)).position == again.covers == entry.covers


async def test_a_state_too_large_for_a_snapshot_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = a_log()
    await grow(log, 1)
    before = len(log.records_from(1))
    monkeypatch.setattr(snapshot_records, "MAX_SNAPSHOT_BYTES", 100)
    with pytest.raises(LimitExceeded, match="cannot write a snapshot of the system: its state takes"):
        await snap(log)
    monkeypatch.undo()
    monkeypatch.setattr(snapshot_records, "MAX_PARTS", 1)
    with pytest.raises(LimitExceeded, match="parts: the limit is 1"):
        await snap(log)
    assert len(log.records_from(1)) == before


# -- on a server --------------------------------------------------------------------------------------------


@pytest.fixture
async def stream(
    shared_server: EmbeddedServer, request: pytest.FixtureRequest
) -> AsyncIterator[JetStreamLog]:
    namespace = "cp_" + "".join(c for c in request.node.name if c.isalnum())[:50]
    async with await Connection.open(ConnectOptions(shared_server.url)) as connection:
        yield await create_log(connection, subjects_of(namespace))


async def test_on_a_server_it_is_the_same(stream: JetStreamLog) -> None:
    namespace = stream._stream.removeprefix("AEGIS_")
    subjects = subjects_of(namespace)
    state = SystemState(subjects)
    written: list[Snapshot] = []
    for seed in range(3):
        for record in a_history(seed, 40):
            subject = record.subject.replace("aegis.test.", f"aegis.{namespace}.")
            if subject.startswith(subjects.log_root):
                await stream.append(subject, record.payload)
        async for record in stream.read([subjects.everything]):
            if record.seq > state.position:
                state.apply(record)
        plain = dump_state(state)
        written.append(await checkpoints.write(stream, subjects, plain, router="r1", taken_ns=5))
    assert [entry.index for entry in await listed(stream, subjects)] == [entry.index for entry in written]
    for until, expected in (
        (None, written[2].covers),
        (written[2].covers - 1, written[1].covers),
        (written[0].covers - 1, 0),
    ):
        found = await newest(stream, subjects, until_seq=until)
        assert found.position == expected
    found = await newest(stream, subjects)
    tail: list[Record] = [record async for record in stream.read([subjects.everything])]
    whole = SystemState(subjects).replay(tail)
    assert digest_of(found.replay(tail[found.position :])) == digest_of(whole)

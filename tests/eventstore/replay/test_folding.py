"""The state at a point, however one gets there."""

from __future__ import annotations

import random

import pytest

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.checkpoints import SkippedSnapshot
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.replay import Extent, Point, Source, board_at, fold_on, resolve, state_at
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.system import Effect, SystemState
from aegisipc.eventstore.system_snapshots import digest_of, dump_state
from tests.eventstore.replay.kit import History, stored
from tests.eventstore.test_fold_determinism import S, random_records
from tests.sdk.kit import EPOCH_NS, GROUP, NS, SERVICE, ms


def point_at(seq: int, at_ns: int = 0) -> Point:
    return Point(seq, at_ns, str(seq), Extent(1, seq, 0, 0, at_ns))


async def a_source(seed: int) -> tuple[list[Record], Source]:
    records = random_records(seed, 120)
    return records, Source(await stored(records, records[-1].timestamp_ns), S, "a test")


def digest_after(records: list[Record], seq: int) -> str:
    return digest_of(SystemState(S).replay(records[:seq]))


@pytest.mark.parametrize("seed", range(4))
async def test_the_state_at_a_point_is_that_after_its_record(seed: int) -> None:
    records, source = await a_source(seed)
    for seq in (0, 1, 2, 59, 119, 120):
        assert digest_of(await state_at(source, point_at(seq))) == digest_after(records, seq), seq


@pytest.mark.parametrize("seed", range(4))
async def test_it_is_the_same_from_the_beginning_and_from_any_snapshot(seed: int) -> None:
    records, source = await a_source(seed)
    draw = random.Random(seed)
    for covers in sorted(draw.sample(range(1, 120), 3)):
        plain = dump_state(SystemState(S).replay(records[:covers]))
        await checkpoints.write(source.log, S, plain, router="r", taken_ns=1)
    for seq in (1, 60, 90, 120):
        begun = await state_at(source, point_at(seq), from_beginning=True)
        assert (
            digest_of(begun) == digest_of(await state_at(source, point_at(seq))) == digest_after(records, seq)
        )


async def test_only_what_a_snapshot_does_not_cover_is_read() -> None:
    records, source = await a_source(1)
    await checkpoints.write(
        source.log, S, dump_state(SystemState(S).replay(records[:100])), router="r", taken_ns=1
    )
    read: list[int] = []

    def watch(state: SystemState, record: Record, effect: Effect) -> None:
        assert state.position == record.seq
        assert effect.place is None or effect.place.kind
        read.append(record.seq)

    await state_at(source, point_at(105), watch=watch)
    assert read == [101, 102, 103, 104, 105]
    read.clear()
    await state_at(source, point_at(105), watch=watch, from_beginning=True)
    assert read == list(range(1, 106))


async def test_a_damaged_snapshot_is_skipped_and_told_of() -> None:
    records, source = await a_source(2)
    await source.log.append(S.snapshot_index, b"\xc1")
    skipped: list[SkippedSnapshot] = []
    state = await state_at(source, point_at(120), on_skip=skipped.append)
    assert digest_of(state) == digest_after(records, 120)
    assert [each.seq for each in skipped] == [121]


async def test_a_history_that_begins_later_is_folded_from_its_base() -> None:
    records, source = await a_source(3)
    base = Source(source.log, S, "a bundle", base=lambda: SystemState(S).replay(records[:50]))
    for from_beginning in (False, True):
        state = await state_at(base, point_at(80), from_beginning=from_beginning)
        assert digest_of(state) == digest_after(records, 80)
        assert digest_of(await state_at(base, point_at(50))) == digest_after(records, 50)


async def test_a_state_is_folded_on_and_never_back() -> None:
    records, source = await a_source(3)
    state = await state_at(source, point_at(40))
    assert await fold_on(source, state, 70) is state
    assert digest_of(state) == digest_after(records, 70)
    await fold_on(source, state, 10)
    assert digest_of(state) == digest_after(records, 70)


# -- heartbeats -----------------------------------------------------------------------------------------


async def test_heartbeats_count_up_to_the_point() -> None:
    history = History()
    history.log.promote("a", 1)
    for _ in range(8):
        history.wait(250)
        history.pulse("a")
    source = await history.source()
    board = await board_at(source, point_at(1, EPOCH_NS + ms(1000)))
    assert board.now_ns == EPOCH_NS + ms(1000)
    assert board.instances[SERVICE, GROUP, "a"].at_ns == EPOCH_NS + ms(1000)
    board = await board_at(source, point_at(1, EPOCH_NS + ms(1999)), window_s=0.5)
    assert board.floor_ns == EPOCH_NS + ms(1500)
    assert board.now_ns == EPOCH_NS + ms(1750)


async def test_without_heartbeats_the_board_is_empty() -> None:
    history = History()
    history.log.promote("a", 1)
    history.pulse("a")
    for source in (
        await history.source(with_pulses=False),
        await (await_nothing := History()).source(),
    ):
        board = await board_at(source, point_at(1, EPOCH_NS + ms(1)))
        assert (board.now_ns, len(board.instances)) == (0, 0)
    assert not await_nothing.pulses


async def test_the_end_of_a_history_is_what_a_follower_believes() -> None:
    history = History()
    history.log.join("a")
    history.log.promote("a", 1)
    source = await history.source()
    state = await state_at(source, await resolve(source, "end"))
    assert digest_of(state) == digest_of(SystemState(NS).replay(history.log.records))
    assert subjects_of("t") == NS

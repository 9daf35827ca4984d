"""Walking through a history: every place is what a fold up to there gives, however one came to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.log import BEGINNING, Bounds, Record, Start
from aegisipc.eventstore.replay import (
    Filters,
    Jump,
    Point,
    Source,
    Stepper,
    extent_of,
    resolve,
    state_at,
    stepping,
)
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import digest_of, dump_state
from tests.eventstore.replay.told_history import IN_DOUBT, RecordedLog, Tale, tale_of
from tests.sdk.kit import GROUP, NS, SERVICE


class CountingLog(RecordedLog):
    """Counts the records that are read."""

    reads = 0

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        async for record in super().read(subjects, start=start):
            self.reads += 1
            yield record


class TailLog(RecordedLog):
    """A log that begins in the middle, as a bundle does."""

    def __init__(self, records: Sequence[Record], first_seq: int) -> None:
        super().__init__(records)
        self._first_seq = first_seq

    async def bounds(self) -> Bounds:
        return (await super().bounds())._replace(first_seq=self._first_seq)

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        async for record in super().read(subjects, start=start):
            if record.seq >= self._first_seq:
                yield record


def eventful() -> Tale:
    """Two failovers, a doubt, failures, an expiry, a word too late, and a promotion that is written again."""
    tale = tale_of("i1", "i2", "i3")
    first, second, third = tale.call(), tale.call("put"), tale.call("get")
    tale.pen("i1", (Mark.CLAIMED, first, None))
    tale.pen("i1", (Mark.FAILED, second, None))
    tale.silence(1250, "i2", "i3")
    tale.settle()
    tale.pen("i1", (Mark.FAILED, third, None), epoch=1)
    tale.pen("i2", (Mark.IN_DOUBT, first, IN_DOUBT))
    fence = tale.log.last(NS.fence(SERVICE, GROUP))
    assert fence is not None
    tale.log.append(fence.subject, fence.payload)
    tale.pen("i2", (Mark.SUCCEEDED, third, b"\x01"))
    tale.leave("i2")
    tale.settle()
    tale.pen("i3", (Mark.EXPIRED, tale.call("get"), None))
    return tale


RECORDS = eventful().log.records
SOURCE = Source(RecordedLog(RECORDS), NS, "a test", RecordedLog(eventful().pulses))
LAST = len(RECORDS)


def digests() -> list[str]:
    state = SystemState(NS)
    found = [digest_of(state)]
    for record in RECORDS:
        state.fold(record)
        found.append(digest_of(state))
    return found


DIGESTS = digests()

steps = st.one_of(
    st.tuples(st.just("forward"), st.integers(0, LAST + 2)),
    st.tuples(st.just("back"), st.integers(0, LAST + 2)),
    st.tuples(st.just("goto"), st.integers(1, LAST)),
    st.tuples(st.sampled_from(["next", "previous"]), st.sampled_from(list(Jump))),
)


def agrees(stepper: Stepper) -> None:
    """The state is that of its place, and the record the one there."""
    assert digest_of(stepper.state) == DIGESTS[stepper.position]
    expected = RECORDS[stepper.position - 1] if stepper.position else None
    assert stepper.record == expected
    assert (stepper.effect is None) == (expected is None)


async def take(stepper: Stepper, step: tuple[str, object]) -> None:
    what, value = step
    if isinstance(value, Jump):
        before = stepper.position
        found = await (stepper.next_where(value) if what == "next" else stepper.previous_where(value))
        moved = stepper.position - before
        assert (moved > 0 if what == "next" else moved < 0) if found else moved == 0
        return
    assert isinstance(value, int)
    if what == "goto":
        await stepper.goto(await resolve(SOURCE, str(value)))
        assert stepper.position == value
        return
    before = stepper.position
    moved = await (stepper.forward(value) if what == "forward" else stepper.back(value))
    assert abs(stepper.position - before) == moved
    assert moved == min(value, LAST - before if what == "forward" else before)


@settings(max_examples=40)
@given(walk=st.lists(steps, max_size=8))
async def test_every_place_is_what_a_fold_up_to_there_gives(walk: list[tuple[str, object]]) -> None:
    stepper = await Stepper.open(SOURCE)
    agrees(stepper)
    for step in walk:
        await take(stepper, step)
        agrees(stepper)


async def test_the_state_is_that_of_state_at() -> None:
    stepper = await Stepper.open(SOURCE, await resolve(SOURCE, "start"))
    while not stepper.is_at_end:
        point = stepper.point
        assert stepper.state.to_plain() == (await state_at(SOURCE, point)).to_plain()
        assert point.at_ns == RECORDS[point.seq - 1].timestamp_ns
        await stepper.forward()


async def found(stepper: Stepper, kind: Jump) -> tuple[list[int], list[int]]:
    """Where the things of a kind are: from the beginning on, and from the end back."""
    forward, back = [], []
    await stepper.back(LAST + 1)
    while await stepper.next_where(kind):
        forward.append(stepper.position)
    await stepper.forward(LAST + 1)
    if forward and forward[-1] == LAST:
        back.append(LAST)
    while await stepper.previous_where(kind):
        back.append(stepper.position)
    return forward, back


@pytest.mark.parametrize(
    ("kind", "count"), [(Jump.PROMOTION, 3), (Jump.DOUBT, 1), (Jump.FAILURE, 2), (Jump.SUSPICION, 1)]
)
async def test_jumps_find_what_counts_and_nothing_else(kind: Jump, count: int) -> None:
    stepper = await Stepper.open(SOURCE)
    forward, back = await found(stepper, kind)
    assert len(forward) == count
    assert back == forward[::-1]
    agrees(stepper)


async def test_jumps_keep_to_the_filters() -> None:
    of_nothing = await Stepper.open(SOURCE, None, Filters(resource="acc_9"))
    for kind in Jump:
        assert not await of_nothing.previous_where(kind)
    of_acc_1 = await Stepper.open(SOURCE, None, Filters(resource="acc_1"))
    for kind in Jump:
        await of_acc_1.forward(LAST)
        assert await of_acc_1.previous_where(kind)
    elsewhere = await Stepper.open(SOURCE, await resolve(SOURCE, "start"), Filters(service="other"))
    for kind in Jump:
        assert not await elsewhere.next_where(kind)
        assert elsewhere.position == 1


async def test_a_step_tells_what_its_record_changed() -> None:
    stepper = await Stepper.open(SOURCE, await resolve(SOURCE, "in_doubt"))
    changed = {change.path for change in stepper.changes()}
    assert ("groups", f"{SERVICE}/{GROUP}", "calls", "in_doubt") in changed
    assert not any(path[0] == "leader" for path in changed)
    await stepper.forward()  # the promotion that is written again
    assert {path[-1] for path in (change.path for change in stepper.changes())} <= {"fence_seq"}
    await stepper.back(LAST)
    assert stepper.changes() == []
    assert stepper.view()["groups"] == {}


async def test_heartbeats_are_those_up_to_the_place() -> None:
    stepper = await Stepper.open(SOURCE, await resolve(SOURCE, "before:in_doubt"))
    board = await stepper.board()
    assert 0 < board.now_ns <= stepper.at_ns
    view = stepper.view(board)
    assert view["heartbeats"]["instances"][f"{SERVICE}/{GROUP}/i2"] is not None


async def test_a_log_may_grow_while_one_walks() -> None:
    tale = tale_of("i1")
    source = tale.source()
    stepper = await Stepper.open(source)
    assert stepper.is_at_end
    assert await stepper.forward() == 0
    tale.leave("i1")
    await source.log.append(tale.log.records[-1].subject, tale.log.records[-1].payload)
    assert await stepper.forward() == 1
    assert stepper.record is not None
    assert stepper.record.subject == NS.instance(SERVICE, GROUP, "i1")


async def test_a_history_that_begins_in_the_middle() -> None:
    first_seq = 8

    def base() -> SystemState:
        return SystemState(NS).replay(RECORDS[: first_seq - 1])

    source = Source(TailLog(RECORDS, first_seq), NS, "the rest", base=base)
    stepper = await Stepper.open(source)
    assert await stepper.back(LAST + 1) == LAST - first_seq + 1
    assert (stepper.position, stepper.record) == (first_seq - 1, None)
    assert digest_of(stepper.state) == DIGESTS[first_seq - 1]
    assert await stepper.forward(3) == 3
    agrees(stepper)


async def test_a_suspicion_of_another_run_is_none() -> None:
    tale = tale_of("i1", "i2")
    tale.silence(1250, "i2")
    tale.settle()
    (real,) = [r.seq for r in tale.log.records if r.subject == NS.watch(SERVICE, GROUP)][-1:]
    for incarnation in ("nobody", "1"):  # of no run of it, and once more
        tale.log.say(
            NS.watch(SERVICE, GROUP),
            ev.InstanceSuspected(
                instance="i1",
                incarnation=incarnation,
                last_pulse_ns=0,
                silence_ms=1,
                source="silence",
                decided_by="r1",
            ),
        )
    stepper = await Stepper.open(tale.source())
    assert await stepper.previous_where(Jump.SUSPICION)
    assert stepper.position == real
    assert not await stepper.next_where(Jump.SUSPICION)


# -- long histories ------------------------------------------------------------------------------------------


def long_log(count: int) -> CountingLog:
    tale = tale_of("i1")
    calls = [tale.call("put") for _ in range(8)]
    for number in range(count):
        tale.pen("i1", (Mark.ATTEMPTED, calls[number % 8], None))
    return CountingLog(tale.log.records)


async def place(source: Source, seq: int) -> Point:
    return Point(seq, 0, str(seq), await extent_of(source))


async def test_steps_back_in_a_long_log_read_little() -> None:
    log = long_log(6000)
    source = Source(log, NS, "long")
    stepper = await Stepper.open(source, await place(source, 5900))
    await stepper.back()  # from here on, states are kept behind it
    before = log.reads
    for _ in range(200):
        await stepper.back()
    assert stepper.position == 5699
    assert (log.reads - before) / 200 < 100
    assert digest_of(stepper.state) == digest_of(SystemState(NS).replay(log.records_from(1)[:5699]))


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    log = long_log(3000)
    source = Source(log, NS, "long")
    for name, value in (("KEEP_EVERY", 50), ("_KEEP_EVERY_OPEN", 1)):
        monkeypatch.setattr(stepping, name, value)
    stepper = await Stepper.open(source)
    assert len(stepper._kept) == stepping.MAX_KEPT
    monkeypatch.setattr(stepping, "MAX_KEPT_BYTES", 1)
    for seq in (2000, 1500, 900):
        await stepper.goto(await place(source, seq))
        assert stepper.position == seq
    assert stepper._kept_bytes == sum(map(len, stepper._kept.values()))
    assert digest_of(stepper.state) == digest_of(SystemState(NS).replay(log.records_from(1)[:900]))


async def test_a_snapshot_in_the_log_saves_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    log = long_log(2000)
    state = SystemState(NS).replay(log.records_from(1))
    await checkpoints.write(log, NS, dump_state(state), router="r1", taken_ns=1)
    source = Source(log, NS, "long")
    monkeypatch.setattr(stepping, "_FAR", 100)
    stepper = await Stepper.open(source)
    assert log.reads < 200
    assert stepper.position == (await log.bounds()).last_seq
    log.reads = 0
    await stepper.back()
    assert log.reads < 200

"""The contract of a log, held by every implementation."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from aegisipc.eventstore.errors import AckUnknown, LogFailed, LogFull, PayloadTooLarge, WrongSequence
from aegisipc.eventstore.log import Expect, Record, Start
from tests.eventstore.conftest import Bed
from tests.eventstore.kit import Collected, append_all, until

WAIT_S = 5.0


async def read_all(bed: Bed, subjects: list[str], start: Start | None = None) -> list[Record]:
    reading = bed.log.read(subjects) if start is None else bed.log.read(subjects, start=start)
    return [record async for record in reading]


# -- append -----------------------------------------------------------------------------------------------


async def test_an_empty_log_begins_behind_its_end(bed: Bed) -> None:
    bounds = await bed.log.bounds()
    assert (bounds.first_seq, bounds.last_seq) == (1, 0)
    assert await bed.log.last(bed.subjects.everything) is None
    assert await read_all(bed, [bed.subjects.everything]) == []


async def test_records_are_numbered_from_one_in_the_order_of_their_appends(bed: Bed) -> None:
    seqs = await append_all(bed.log, bed.calls, [b"a", b"b", b"c"])
    assert seqs == [1, 2, 3]
    bounds = await bed.log.bounds()
    assert (bounds.first_seq, bounds.last_seq) == (1, 3)


async def test_a_record_is_read_back_as_it_was_written(bed: Bed) -> None:
    payload = bytes(range(256))
    before_ns = (await bed.log.bounds()).now_ns
    await bed.log.append(bed.calls, payload)
    await bed.log.append(bed.pen, b"")
    first, second = await read_all(bed, [bed.subjects.everything])
    assert (first.seq, first.subject, first.payload) == (1, bed.calls, payload)
    assert (second.seq, second.subject, second.payload) == (2, bed.pen, b"")
    assert type(first.payload) is bytes
    after_ns = (await bed.log.bounds()).now_ns
    assert before_ns <= first.timestamp_ns <= second.timestamp_ns <= after_ns
    assert await bed.log.last(bed.calls) == first


async def test_appends_made_at_once_are_all_stored_once(bed: Bed) -> None:
    answers = await asyncio.gather(*(bed.log.append(bed.calls, b"%d" % i) for i in range(50)))
    assert sorted(answer.seq for answer in answers) == list(range(1, 51))
    stored = await read_all(bed, [bed.calls])
    assert sorted(record.payload for record in stored) == sorted(b"%d" % i for i in range(50))


async def test_an_expectation_of_nothing_holds_only_on_a_fresh_subject(bed: Bed) -> None:
    assert (await bed.log.append(bed.fence, b"one", expect=Expect(0))).seq == 1
    with pytest.raises(WrongSequence) as refused:
        await bed.log.append(bed.fence, b"two", expect=Expect(0))
    assert (refused.value.subject, refused.value.expected) == (bed.fence, 0)
    assert (await bed.log.bounds()).last_seq == 1


async def test_an_expectation_names_the_last_sequence_of_the_subject_not_of_the_log(bed: Bed) -> None:
    await append_all(bed.log, bed.fence, [b"one"])
    await append_all(bed.log, bed.calls, [b"x", b"y"])
    with pytest.raises(WrongSequence):
        await bed.log.append(bed.fence, b"two", expect=Expect(3))
    assert (await bed.log.append(bed.fence, b"two", expect=Expect(1))).seq == 4


async def test_only_one_of_many_with_the_same_expectation_is_stored(bed: Bed) -> None:
    answers = await asyncio.gather(
        *(bed.log.append(bed.fence, b"%d" % i, expect=Expect(0)) for i in range(10)), return_exceptions=True
    )
    assert sum(isinstance(answer, WrongSequence) for answer in answers) == 9
    assert (await bed.log.bounds()).last_seq == 1


async def test_a_fence_on_another_subject_refuses_writes_after_it_moved(bed: Bed) -> None:
    fence_seq = (await bed.log.append(bed.fence, b"epoch 1")).seq
    fence = Expect(fence_seq, bed.fence)
    for payload in (b"p1", b"p2"):
        await bed.log.append(bed.pen, payload, expect=fence)
    moved_seq = (await bed.log.append(bed.fence, b"epoch 2", expect=Expect(fence_seq))).seq
    with pytest.raises(WrongSequence) as refused:
        await bed.log.append(bed.pen, b"zombie", expect=fence)
    assert (refused.value.subject, refused.value.expected) == (bed.fence, fence_seq)
    await bed.log.append(bed.pen, b"p3", expect=Expect(moved_seq, bed.fence))
    assert [record.payload for record in await read_all(bed, [bed.pen])] == [b"p1", b"p2", b"p3"]


async def test_a_record_id_is_stored_once(bed: Bed) -> None:
    first = await bed.log.append(bed.calls, b"x", record_id="r1")
    again = await bed.log.append(bed.calls, b"x", record_id="r1")
    assert (first.seq, first.duplicate) == (1, False)
    assert (again.seq, again.duplicate) == (1, True)
    assert (await bed.log.append(bed.calls, b"x", record_id="r2")).seq == 2
    assert (await bed.log.bounds()).last_seq == 2


async def test_a_retry_under_an_unmoved_fence_is_a_duplicate(bed: Bed) -> None:
    fence = Expect((await bed.log.append(bed.fence, b"epoch 1")).seq, bed.fence)
    first = await bed.log.append(bed.pen, b"x", record_id="r1", expect=fence)
    again = await bed.log.append(bed.pen, b"x", record_id="r1", expect=fence)
    assert (again.seq, again.duplicate) == (first.seq, True)


async def test_a_retry_whose_expectation_its_first_attempt_used_up_is_refused_but_found(bed: Bed) -> None:
    await bed.log.append(bed.fence, b"x", record_id="r1", expect=Expect(0))
    with pytest.raises(WrongSequence):
        await bed.log.append(bed.fence, b"x", record_id="r1", expect=Expect(0))
    last = await bed.log.last(bed.fence)
    assert last is not None
    assert last.payload == b"x"


async def test_a_record_at_the_limit_is_stored_and_one_byte_more_is_not(bed: Bed) -> None:
    limit = bed.log.max_record_bytes
    assert (await bed.log.append(bed.calls, b"x" * limit, record_id="big", expect=Expect(0))).seq == 1
    with pytest.raises(PayloadTooLarge) as refused:
        await bed.log.append(bed.calls, b"x" * (limit + 1))
    assert (refused.value.size_bytes, refused.value.limit_bytes) == (limit + 1, limit)
    assert (await bed.log.bounds()).last_seq == 1
    assert (await bed.log.append(bed.calls, b"small")).seq == 2


async def test_a_full_log_refuses_appends_and_keeps_what_it_has(small_bed: Bed) -> None:
    bed = small_bed

    async def fill() -> None:
        for _ in range(100):
            await bed.log.append(bed.calls, b"x" * 4096)

    with pytest.raises(LogFull, match="raise its size limit"):
        await fill()
    kept = (await bed.log.bounds()).last_seq
    assert 10 <= kept <= 16
    assert len(await read_all(bed, [bed.calls])) == kept


# -- read and last ----------------------------------------------------------------------------------------


async def test_last_returns_the_latest_record_of_a_subject_or_of_a_wildcard(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"c1", b"c2"])
    await append_all(bed.log, bed.pen, [b"p1"])
    found = [
        await bed.log.last(subject)
        for subject in (bed.calls, bed.pen, bed.fence, bed.subjects.group("orders", "acc"))
    ]
    assert [record and record.payload for record in found] == [b"c2", b"p1", None, b"p1"]
    assert await bed.log.last(bed.subjects.group("orders", "other")) is None


async def test_reading_keeps_to_its_filters(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"c1"])
    await append_all(bed.log, bed.pen, [b"p1"])
    await append_all(bed.log, bed.fence, [b"f1"])
    await append_all(bed.log, bed.calls, [b"c2"])
    elsewhere = bed.subjects.call("orders", "other", "client-1")
    await append_all(bed.log, elsewhere, [b"e1"])

    async def payloads(*subjects: str) -> list[bytes]:
        return [record.payload for record in await read_all(bed, list(subjects))]

    assert await payloads(bed.calls) == [b"c1", b"c2"]
    assert await payloads(bed.calls, bed.fence) == [b"c1", b"f1", b"c2"]
    assert await payloads(bed.subjects.of_kind("orders", "acc", "call")) == [b"c1", b"c2"]
    assert await payloads(bed.subjects.group("orders", "acc")) == [b"c1", b"p1", b"f1", b"c2"]
    assert await payloads(bed.subjects.topology) == [b"f1"]
    assert await payloads(bed.subjects.group("orders", "nobody")) == []


async def test_filters_that_include_each_other_deliver_each_record_once(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"c1", b"c2"])
    found = await read_all(bed, [bed.calls, bed.subjects.everything, bed.calls])
    assert [record.payload for record in found] == [b"c1", b"c2"]


async def test_reading_starts_at_a_sequence(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"1", b"2", b"3"])
    await append_all(bed.log, bed.pen, [b"4"])
    for seq, expected in ((0, [1, 2, 3]), (2, [2, 3]), (4, []), (9, [])):
        assert [r.seq for r in await read_all(bed, [bed.calls], Start(seq))] == expected


async def test_reading_starts_at_the_first_record_not_older_than_a_time(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"%d" % i for i in range(5)])
    records = await read_all(bed, [bed.calls])
    assert all(a.timestamp_ns < b.timestamp_ns for a, b in pairwise(records))
    for index, record in enumerate(records):
        exactly = await read_all(bed, [bed.calls], Start(time_ns=record.timestamp_ns))
        assert exactly == records[index:]
        just_after = await read_all(bed, [bed.calls], Start(time_ns=record.timestamp_ns + 1))
        assert just_after == records[index + 1 :]


async def test_reading_ends_at_what_was_there_when_it_began(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"1", b"2"])
    seen = []
    async for record in bed.log.read([bed.calls]):
        seen.append(record.seq)
        await bed.log.append(bed.calls, b"later")
    assert seen == [1, 2]


# -- follow -----------------------------------------------------------------------------------------------


async def test_following_delivers_the_past_and_then_what_is_appended(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"1", b"2"])
    got = Collected()
    following = await bed.log.follow([bed.calls], got)
    await following.caught_up(WAIT_S)
    assert got.seqs == [1, 2]
    await append_all(bed.log, bed.calls, [b"3"])
    await following.reached(3, WAIT_S)
    assert got.payloads == [b"1", b"2", b"3"]
    assert following.position == 3
    assert got.records == await read_all(bed, [bed.calls])
    await following.stop()


async def test_following_an_empty_log_is_caught_up_at_once(bed: Bed) -> None:
    following = await bed.log.follow([bed.calls], Collected())
    await following.caught_up(WAIT_S)
    assert following.position == 0
    await following.stop()


@pytest.mark.parametrize("first", [1, 30])
async def test_each_record_arrives_once_and_in_order_while_others_append(bed: Bed, first: int) -> None:
    await asyncio.gather(*(bed.log.append(bed.calls, b"past") for _ in range(50)))
    got = Collected()

    async def write(subject: str) -> None:
        for i in range(100):
            await bed.log.append(subject, b"%d" % i)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write(bed.calls))
        tasks.create_task(write(bed.pen))
        tasks.create_task(write(bed.subjects.call("orders", "other", "c")))  # filtered out
        following = await bed.log.follow([bed.calls, bed.pen], got, start=Start(first))
    end = await bed.log.append(bed.calls, b"end")
    await following.reached(end.seq, WAIT_S)
    await following.stop()
    assert got.records == await read_all(bed, [bed.calls, bed.pen], Start(first))
    assert len(got.records) == 50 - first + 1 + 200 + 1


async def test_following_from_a_time_delivers_what_is_not_older(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"1", b"2", b"3"])
    second = (await read_all(bed, [bed.calls]))[1]
    got = Collected()
    following = await bed.log.follow([bed.calls], got, start=Start(time_ns=second.timestamp_ns))
    await append_all(bed.log, bed.calls, [b"4"])
    await following.reached(4, WAIT_S)
    await following.stop()
    assert got.seqs == [2, 3, 4]


async def test_following_from_beyond_the_end_delivers_nothing_before_that_sequence(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"1"])
    got = Collected()
    following = await bed.log.follow([bed.calls], got, start=Start(4))
    await append_all(bed.log, bed.calls, [b"2", b"3", b"4", b"5"])
    await following.reached(5, WAIT_S)
    await following.stop()
    assert got.seqs == [4, 5]


async def test_nothing_is_delivered_after_stop(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"1"])
    got, witness = Collected(), Collected()
    stopped = await bed.log.follow([bed.calls], got)
    other = await bed.log.follow([bed.calls], witness)
    await stopped.caught_up(WAIT_S)
    await stopped.stop()
    await stopped.stop()
    await append_all(bed.log, bed.calls, [b"2"])
    await other.reached(2, WAIT_S)
    await other.stop()
    assert got.seqs == [1]
    assert stopped.failure is None


async def test_waiting_for_a_record_that_does_not_come_ends_with_ack_unknown(bed: Bed) -> None:
    await append_all(bed.log, bed.calls, [b"1"])
    following = await bed.log.follow([bed.calls], Collected())
    await following.caught_up(WAIT_S)
    with pytest.raises(AckUnknown):
        await following.reached(2, 0.05)
    await following.stop()


async def test_a_deliver_that_raises_stops_its_own_following_loudly(
    bed: Bed, capfd: pytest.CaptureFixture[str]
) -> None:
    await append_all(bed.log, bed.calls, [b"good", b"bad", b"never"])
    got, witness = Collected(), Collected()
    broken = ValueError("a fold with a defect")

    def deliver(record: Record) -> None:
        if record.payload == b"bad":
            raise broken
        got(record)

    following = await bed.log.follow([bed.calls], deliver)
    healthy = await bed.log.follow([bed.calls], witness)
    with pytest.raises(LogFailed) as failed:
        await following.reached(3, WAIT_S)
    assert failed.value.__cause__ is broken
    assert following.failure is broken
    with pytest.raises(LogFailed):
        await following.caught_up(WAIT_S)
    await healthy.reached(3, WAIT_S)
    assert (got.payloads, following.position) == ([b"good"], 1)
    assert witness.seqs == [1, 2, 3]
    assert "follow_failed" in "".join(capfd.readouterr())
    await following.stop()
    await healthy.stop()


async def test_a_follower_catches_up_under_load_that_never_pauses(bed: Bed) -> None:
    await asyncio.gather(*(bed.log.append(bed.calls, b"x" * 100) for _ in range(200)))
    is_over = False

    async def load() -> None:
        while not is_over:
            await asyncio.gather(*(bed.log.append(bed.calls, b"x") for _ in range(20)))
            await asyncio.sleep(0)

    loads = [asyncio.create_task(load()) for _ in range(3)]
    got = Collected()
    following = await bed.log.follow([bed.calls], got)
    await following.caught_up(WAIT_S)
    assert len(got.records) >= 200
    is_over = True
    await asyncio.gather(*loads)
    await until(lambda: len(got.records) == following.position)
    await following.stop()

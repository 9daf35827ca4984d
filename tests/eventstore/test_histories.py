"""The history of one call: what the log says of it, what of that counts, and how it is found by its id."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import UnknownCall
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.histories import MAX_STEPS, CallHistory
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.seeking import MAX_ACCEPT_DELAY_S, SEEK_MARGIN_S, find_call, read_history
from aegisipc.eventstore.subjects import HA, subjects_of
from aegisipc.eventstore.topology import Topology

S = subjects_of("test")
NOW_MS = 1_763_000_000_000
_ids = CallIds(1)
A, B = (_ids.next(NOW_MS) for _ in range(2))
WHY = encode(ev.ErrorInfo(code="in_doubt", message="i1 is gone"))
BY_ANN = encode(ev.Resolution(source="operator", author="ann@box", reason="the venue has it"))

type Fact = tuple[Mark, bytes, bytes | None]


class World:
    """A log on a clock of its own, and what parts of the system would write to it."""

    def __init__(self, group: str = "g1") -> None:
        self.group = group
        self.now_ns = NOW_MS * 1_000_000
        self.log = MemoryLog(lambda: self.now_ns)
        self._numbers = itertools.count(1)

    async def accept(self, *ids: bytes, number: int | None = None) -> int:
        entries = [CallEntry(call_id, "place", 1000, "acc_1") for call_id in ids]
        bodies = [encode([[5], {"side": "buy"}]) for _ in ids]
        frame = CallFrame(7, number or next(self._numbers), 1, entries, bodies)
        return (await self.log.append(S.call("orders", self.group, "c1"), encode_calls(frame))).seq

    async def promote(self, holder: str, epoch: int, **fields: str) -> int:
        cause = fields.pop("cause", "first")
        event = ev.GroupPromoted(
            epoch=epoch, holder=holder, incarnation=f"{holder}-1", cause=cause, decided_by="r1"
        )
        return (await self.log.append(S.fence("orders", self.group), ev.encode_event(event))).seq

    async def pen(
        self, writer: str, epoch: int, *facts: Fact, number: int | None = None, kind: str = "pen"
    ) -> int:
        frame = PenFrame(
            1,
            number or next(self._numbers),
            epoch,
            [PenEntry(mark, call_id) for mark, call_id, _ in facts],
            [body for *_, body in facts],
        )
        subject = f"{S.log_root}.orders.{self.group}.{kind}.{writer}"
        return (await self.log.append(subject, encode_pen(frame))).seq

    async def history(self, call_id: bytes = A) -> CallHistory:
        return await read_history(self.log, S, call_id)

    async def records(self) -> Sequence[Record]:
        return [record async for record in self.log.read([S.everything])]

    async def doubt(self) -> None:
        """``i1`` claims A and dies; ``i2`` takes over and finds it in doubt."""
        await self.promote("i1", 1)
        await self.accept(A, B)
        await self.pen("i1", 1, (Mark.CLAIMED, A, None))
        await self.promote("i2", 2, cause="i1 is suspected")
        await self.pen("i2", 2, (Mark.IN_DOUBT, A, WHY))


@pytest.fixture
def world() -> World:
    return World()


def told(history: CallHistory) -> list[str]:
    """What came after the call was accepted; in parentheses what did not count."""
    first, *steps = history.steps
    assert (first.what, first.seq) == ("accepted", history.call.seq)
    return [step.what if step.counts else f"({step.what})" for step in steps]


def says(history: CallHistory, index: int) -> Any:
    """The body of a step."""
    body = history.steps[index].body
    assert body is not None
    return decode(body)


# -- finding -----------------------------------------------------------------------------------------------


async def test_a_call_is_found_by_its_id_with_its_arguments(world: World) -> None:
    await world.accept(B)
    seq = await world.accept(A)
    call = await find_call(world.log, S, A)
    assert (call.service, call.group, call.client, call.method) == ("orders", "g1", "c1", "place")
    assert (call.resource, call.seq) == ("acc_1", seq)
    assert call.deadline_ns - call.at_ns == 1_000_000_000
    assert decode(call.body) == [[5], {"side": "buy"}]
    assert CallHistory(S, call).state is CallState.ACCEPTED


async def test_a_call_that_was_never_accepted_is_not_found(world: World) -> None:
    await world.accept(B)
    for looked_for in (find_call, read_history):
        with pytest.raises(UnknownCall, match="the log holds no such call") as raised:
            await looked_for(world.log, S, A)
        assert raised.value.call_id == format_call_id(A)


@pytest.mark.parametrize("seconds", [MAX_ACCEPT_DELAY_S + 1, -SEEK_MARGIN_S - 1])
async def test_a_call_accepted_far_from_the_time_in_its_id_is_not_looked_for(
    seconds: int, world: World
) -> None:
    world.now_ns += seconds * 1_000_000_000
    await world.accept(A)
    with pytest.raises(UnknownCall):
        await find_call(world.log, S, A)


@pytest.mark.parametrize("ahead_s", [1e9, 7e10, None])
async def test_nothing_is_read_for_an_id_of_a_time_that_has_not_come(
    ahead_s: float | None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.accept(A)
    monkeypatch.setattr(world.log, "read", None)  # nor is a server asked about a time after the year 9999
    born_ms = 2**48 - 1 if ahead_s is None else world.now_ns // 1_000_000 + int(ahead_s * 1000)
    with pytest.raises(UnknownCall, match=r"its id names .*, and it is 20\d\d-.*Z now"):
        await find_call(world.log, S, born_ms.to_bytes(6) + A[6:])


async def test_a_call_is_found_on_a_host_whose_clock_is_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = await world.accept(A)
    monkeypatch.setattr(time, "time_ns", lambda: world.now_ns - 30 * 86_400 * 1_000_000_000)
    assert (await find_call(world.log, S, A)).seq == seq


@pytest.mark.parametrize("seconds", [MAX_ACCEPT_DELAY_S, -SEEK_MARGIN_S])
async def test_a_call_accepted_near_the_time_in_its_id_is_found(seconds: int, world: World) -> None:
    world.now_ns += seconds * 1_000_000_000
    seq = await world.accept(A)
    assert (await find_call(world.log, S, A)).seq == seq


async def test_a_frame_that_was_stored_after_a_later_one_accepts_nothing(world: World) -> None:
    await world.accept(B, number=5)
    await world.accept(A, number=4)
    with pytest.raises(UnknownCall):
        await find_call(world.log, S, A)


async def test_frames_that_nobody_can_read_are_passed_over(world: World) -> None:
    await world.log.append(S.call("orders", "g1", "c1"), b"\xff")
    await world.promote("i1", 1)
    await world.accept(A)
    await world.log.append(S.pen("orders", "g1", "i1"), b"\xff")
    await world.pen("i1", 1, (Mark.SUCCEEDED, A, encode(7)))
    assert (await world.history()).state is CallState.SUCCEEDED


# -- folding -----------------------------------------------------------------------------------------------


async def test_a_call_that_just_runs_has_a_short_history(world: World) -> None:
    await world.promote("i1", 1)
    await world.accept(A, B)
    claimed = await world.pen("i1", 1, (Mark.CLAIMED, A, None), (Mark.CLAIMED, B, None))
    await world.pen("i1", 1, (Mark.EMITTED, A, b"x"), (Mark.EMITTED, A, b"y"), (Mark.SUCCEEDED, A, encode(7)))
    history = await world.history()
    assert told(history) == ["claimed", "succeeded"]
    assert history.steps[1].seq == claimed
    assert [step.emitted for step in history.steps] == [(), (), (b"x", b"y")]
    assert history.outcome == (A, Mark.SUCCEEDED, encode(7))


async def test_a_doubt_is_told_with_the_change_of_the_holder_before_it(world: World) -> None:
    await world.doubt()
    history = await world.history()
    assert told(history) == ["claimed", "promoted", "in_doubt"]
    assert history.state is CallState.IN_DOUBT
    assert history.claim is not None
    assert (history.claim.writer, history.claim.epoch) == ("i1", 1)
    event = history.steps[2].event
    assert isinstance(event, ev.GroupPromoted)
    assert event.cause == "i1 is suspected"
    assert history.doubt is history.steps[3]
    assert says(history, 3)["message"] == "i1 is gone"
    assert history.holder == ("i2", 2)


async def test_a_doubt_that_an_operator_ends_is_told_with_who_and_why(world: World) -> None:
    await world.doubt()
    await world.pen("i2", 2, (Mark.EXECUTED, A, BY_ANN), (Mark.SUCCEEDED, A, encode(7)))
    history = await world.history()
    assert told(history)[2:] == ["in_doubt", "executed", "succeeded"]
    assert history.is_final
    assert history.resolution is history.steps[4]
    assert says(history, 4)["author"] == "ann@box"


async def test_a_call_that_ran_is_in_doubt_until_its_outcome_is_there(world: World) -> None:
    await world.doubt()
    await world.pen("i2", 2, (Mark.EXECUTED, A, BY_ANN))
    assert (await world.history()).state is CallState.IN_DOUBT


async def test_a_call_that_was_not_executed_is_as_if_it_had_never_been_claimed(world: World) -> None:
    await world.doubt()
    await world.pen("i2", 2, (Mark.NOT_EXECUTED, A, BY_ANN))
    history = await world.history()
    assert (history.state, history.outcome, history.claim) == (CallState.ACCEPTED, None, None)
    await world.pen("i2", 2, (Mark.CLAIMED, A, None))
    assert (await world.history()).state is CallState.STARTED


async def test_the_evidence_of_whoever_claimed_the_call_is_of_use_once(world: World) -> None:
    await world.doubt()
    await world.pen("i3", 0, (Mark.SUCCEEDED, A, encode(1)), kind="evidence")
    await world.pen("i1", 0, (Mark.EMITTED, A, b"x"), (Mark.SUCCEEDED, A, encode(7)), kind="evidence")
    await world.pen("i1", 0, (Mark.FAILED, A, None), kind="evidence")
    history = await world.history()
    assert told(history)[3:] == ["(evidence)", "evidence", "(evidence)"]
    assert history.evidence is not None
    assert (history.evidence.mark, history.evidence.emitted) == (Mark.SUCCEEDED, (b"x",))
    assert history.state is CallState.IN_DOUBT


async def test_what_is_not_of_the_holder_or_comes_late_does_not_count(world: World) -> None:
    await world.doubt()
    await world.pen("i1", 1, (Mark.SUCCEEDED, A, encode(1)))
    await world.pen("i2", 1, (Mark.SUCCEEDED, A, encode(2)))
    await world.pen("i2", 2, (Mark.CLAIMED, A, None))
    history = await world.history()
    assert told(history)[3:] == ["(succeeded)", "(succeeded)", "(claimed)"]
    assert history.state is CallState.IN_DOUBT


async def test_a_frame_that_was_stored_twice_counts_once(world: World) -> None:
    await world.promote("i1", 1)
    await world.accept(A)
    for _ in range(2):
        await world.pen("i1", 1, (Mark.ATTEMPTED, A, encode(1)), number=50)
    history = await world.history()
    assert told(history) == ["attempted", "(attempted)"]
    assert history.attempts == 1


async def test_what_comes_after_the_outcome_is_told_if_it_is_about_the_call_and_counts_for_nothing(
    world: World,
) -> None:
    await world.doubt()
    await world.pen("i2", 2, (Mark.EXECUTED, A, BY_ANN), (Mark.SUCCEEDED, A, encode(7)))
    await world.promote("i3", 3)
    await world.pen("i1", 0, (Mark.SUCCEEDED, A, encode(8)), kind="evidence")
    await world.pen("i3", 3, (Mark.IN_DOUBT, A, WHY), (Mark.ATTEMPTED, A, None))
    history = await world.history()
    assert told(history)[4:] == ["succeeded", "(evidence)", "(in_doubt)", "(attempted)"]
    assert history.outcome == (A, Mark.SUCCEEDED, encode(7))
    assert history.state is CallState.SUCCEEDED


async def test_who_wants_no_more_than_the_outcome_reads_up_to_that(world: World) -> None:
    await world.promote("i1", 1)
    await world.accept(A)
    await world.pen("i1", 1, (Mark.FAILED, A, encode(ev.ErrorInfo(code="no", message="no"))))
    await world.promote("i2", 2)
    assert (await read_history(world.log, S, A, until_final=True)).holder == ("i1", 1)
    assert (await world.history()).holder == ("i2", 2)


async def test_a_promotion_that_is_written_again_is_no_step(world: World) -> None:
    await world.promote("i1", 1)
    await world.accept(A)
    await world.promote("i1", 1)
    assert told(await world.history()) == []


async def test_a_handover_is_part_of_the_history(world: World) -> None:
    await world.promote("i1", 1)
    await world.accept(A)
    started = ev.GroupHandoverStarted(
        epoch=1, holder="i1", to="i2", to_incarnation="i2-1", cause="new version", decided_by="r1"
    )
    cancelled = ev.GroupHandoverCancelled(epoch=1, cause="i2 is gone", decided_by="r1")
    vacated = ev.GroupVacated(epoch=1, cause="i1 left", decided_by="r1")
    for event in (started, cancelled, vacated):
        await world.log.append(S.fence("orders", "g1"), ev.encode_event(event))
    history = await world.history()
    assert told(history) == ["handover_started", "handover_cancelled", "vacated"]
    assert history.holder == (None, 1)


async def test_a_history_without_end_is_cut_in_its_middle(world: World) -> None:
    await world.promote("i1", 1)
    await world.accept(A)
    for _ in range(MAX_STEPS + 5):
        await world.pen("i1", 1, (Mark.ATTEMPTED, A, None))
    last = await world.pen("i1", 1, (Mark.SUCCEEDED, A, None))
    history = await world.history()
    assert (len(history.steps), history.omitted, history.steps[-1].seq) == (MAX_STEPS, 7, last)


async def test_records_of_other_groups_change_nothing(world: World) -> None:
    await world.promote("i1", 1)
    await world.accept(A)
    history = await world.history()
    world.group = "g2"
    await world.promote("i2", 2)
    await world.pen("i2", 2, (Mark.SUCCEEDED, A, None))
    for record in await world.records():
        history.apply(record)
    assert (told(history), history.holder) == ([], ("i1", 1))


# -- pools -------------------------------------------------------------------------------------------------


async def test_in_a_pool_the_first_outcome_counts_whoever_wrote_it() -> None:
    world = World(POOL_GROUP)
    await world.accept(A)
    await world.pen("w1", 0, (Mark.CLAIMED, A, None))
    await world.pen("w2", 0, (Mark.CLAIMED, A, None))
    await world.pen("w1", 0, (Mark.SUCCEEDED, A, encode(7)))
    history = await world.history()
    assert told(history) == ["claimed", "(claimed)", "succeeded"]
    assert history.claim is not None
    assert history.claim.writer == "w1"


async def test_in_a_pool_a_doubt_about_another_claim_and_a_late_resolution_do_not_count() -> None:
    world = World(POOL_GROUP)
    await world.accept(A)

    def doubt(claim: int) -> bytes:
        return encode(ev.ErrorInfo(code="in_doubt", message="gone", details={"claimed_seq": claim}))

    def not_executed(doubt_seq: int) -> bytes:
        return encode(ev.Resolution(source="operator", author="ann", doubt_seq=doubt_seq))

    first = await world.pen("w1", 0, (Mark.CLAIMED, A, None))
    doubted = await world.pen("w2", 0, (Mark.IN_DOUBT, A, doubt(first)))
    await world.pen("w2", 0, (Mark.NOT_EXECUTED, A, not_executed(doubted)))
    second = await world.pen("w2", 0, (Mark.CLAIMED, A, None))
    await world.pen("w3", 0, (Mark.IN_DOUBT, A, doubt(first)))
    assert (await world.history()).state is CallState.STARTED
    await world.pen("w3", 0, (Mark.IN_DOUBT, A, doubt(second)))
    await world.pen("w3", 0, (Mark.NOT_EXECUTED, A, not_executed(doubted)))
    history = await world.history()
    assert told(history)[3:] == ["claimed", "(in_doubt)", "in_doubt", "(not_executed)"]
    assert history.state is CallState.IN_DOUBT


async def test_in_a_pool_attempts_count_in_the_order_of_their_numbers() -> None:
    world = World(POOL_GROUP)
    await world.accept(A)
    for writer, number in (("w1", 1), ("w2", 1), ("w2", 2), ("w3", 4)):
        await world.pen(writer, 0, (Mark.ATTEMPTED, A, encode(number)))
    history = await world.history()
    assert told(history) == ["attempted", "(attempted)", "attempted", "(attempted)"]
    assert history.attempts == 2


# -- the same rules as everybody's -------------------------------------------------------------------------


async def test_a_history_ends_where_the_fold_of_the_group_does(world: World) -> None:
    await world.doubt()
    await world.pen("i1", 1, (Mark.SUCCEEDED, A, encode(1)))
    await world.pen("i2", 2, (Mark.NOT_EXECUTED, A, BY_ANN), (Mark.CLAIMED, B, None))
    await world.pen("i2", 2, (Mark.CLAIMED, A, None), (Mark.EXPIRED, A, None))
    await world.promote("i3", 3)
    await world.pen("i3", 3, (Mark.IN_DOUBT, A, WHY), (Mark.IN_DOUBT, B, WHY))
    records = await world.records()
    topology = Topology(S)
    calls = GroupCalls(keep_bodies=True, is_fenced=True)
    for record in records:
        place = S.parse(record.subject)
        if place.kind == HA:
            topology.apply(record)
            group = topology.group("orders", "g1")
            assert group is not None
            calls.hold(group.holder, group.epoch)
        else:
            calls.apply(record, place)
    for call_id in (A, B):
        history = await world.history(call_id)
        assert history.claim is not None
        assert history.state is calls.open[call_id].state is CallState.IN_DOUBT
        assert history.claim.writer == calls.open[call_id].claimed_by == "i2"

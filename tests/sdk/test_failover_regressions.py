"""Moments at which a member loses the pen, and what must not be lost with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.sdk.hosts.base import Site
from aegisipc.sdk.hosts.resolving import Reconciliation
from aegisipc.sdk.hosts.restoring import _remember
from aegisipc.sdk.reconciling import Finding, Reconciler
from tests.sdk.kit import GROUP, NS, SERVICE, FakeClient, ListLog, a_call, pen_frame
from tests.sdk.member_kit import ListState, MemberRig, active_member, said_by, standby_member
from tests.support.waiting import eventually


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


def suspect(log: ListLog, instance: str) -> None:
    """The router takes an instance for dead, perhaps."""
    event = ev.InstanceSuspected(
        instance=instance, incarnation="1", last_pulse_ns=0, silence_ms=1, decided_by="r"
    )
    log.say(NS.watch(SERVICE, GROUP), event)


# -- a refusal that comes before the record that explains it -------------------------------------------


def refused_before_it_knows(log: ListLog, client: FakeClient) -> MemberRig:
    """`a` runs two calls; `b` is promoted, and the server's refusal comes before that record."""
    member = active_member(log)
    client.send(a_call("put", resource="x"), a_call("put", resource="y"))
    member.read()
    member.finish_start(member.running[0], b"\x01")
    suspect(log, "a")
    log.promote("b", 2)
    assert member.refuse(member.next_frame()) is None
    return member


def test_who_lost_the_pen_does_not_take_it_up_again_under_the_epoch_that_it_lost(
    log: ListLog, client: FakeClient
) -> None:
    member = refused_before_it_knows(log, client)
    running = list(member.running)
    member.read(1)
    assert not member.core.is_active
    assert member.running == running


def test_what_ran_when_the_pen_was_lost_is_too_late_until_the_next_epoch(
    log: ListLog, client: FakeClient
) -> None:
    member = refused_before_it_knows(log, client)
    member.read(1)
    assert not member.finish_start(member.running[0], b"\x02")
    log.promote("a", 3, kind="planned")
    member.read()
    assert member.core.is_active
    assert member.core.running == 2


def test_a_pen_that_was_given_up_is_not_taken_up_again_with_the_next_routing_record(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    client.send(a_call("pay"))
    member.read()
    member.write()
    member.core.retire()
    suspect(log, "a")
    member.read()
    assert not member.core.is_active


# -- outcomes that were not written when the pen went elsewhere ----------------------------------------


@pytest.mark.parametrize("is_in_flight", [True, False])
def test_the_outcome_of_a_once_call_that_the_fence_refused_is_evidence(
    log: ListLog, client: FakeClient, *, is_in_flight: bool
) -> None:
    member, state = active_member(log, state=ListState()), ListState()
    (paid,) = client.send(a_call("pay"))
    member.read()
    member.write_all()
    heir = standby_member(log, state=state)
    member.read()
    member.finish(paid, b"\x07", emitted=[b"e"])
    if is_in_flight:
        member.next_frame()
    log.promote("b", 2)
    member.read()
    (unwritten,) = member.core.take_unwritten()
    assert (unwritten.call.call_id, unwritten.mark, unwritten.body) == (paid, Mark.SUCCEEDED, b"\x07")
    assert member.core.take_unwritten() == []
    heir.read()
    member.testify(paid, unwritten.body, unwritten.mark, unwritten.emitted)
    heir.read()
    said = [mark for mark, call_id in heir.write_all() if call_id == paid]
    assert said == [Mark.IN_DOUBT, Mark.EXECUTED, Mark.EMITTED, Mark.SUCCEEDED]
    assert state.events == [b"e"]


def test_what_is_in_the_log_is_no_evidence_though_its_acknowledgement_was_lost(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (paid,) = client.send(a_call("pay"))
    member.read()
    member.write_all()
    member.finish(paid)
    member.store(member.next_frame())
    log.promote("b", 2)
    member.read()
    assert member.core.take_unwritten() == []


def test_what_may_run_again_and_what_was_said_of_doubts_is_no_evidence(
    log: ListLog, client: FakeClient
) -> None:
    first = active_member(log)
    doubtful, harmless = client.send(a_call("pay"), a_call("put"))
    first.read()
    first.write_all()
    heir = standby_member(log)
    log.promote("b", 2)
    heir.read()
    heir.write_all()
    first.testify(doubtful)
    heir.read()
    heir.finish(harmless)
    assert heir.core.calls.open[doubtful].state is CallState.IN_DOUBT
    log.promote("a", 3)
    heir.read()
    assert heir.core.take_unwritten() == []


# -- outcomes that a member reads which starts from a snapshot -----------------------------------------


def told_by_one_who_read(
    log: ListLog, *facts: tuple[Mark, CallId, bytes | None]
) -> list[tuple[CallId, int, bytes | None]]:
    """What a member answers that read these facts, one frame each, as outcomes from before its snapshot."""
    rig = MemberRig(log, "b")
    for number, fact in enumerate(facts, 1):
        payload = pen_frame(9, number, fact)
        seq = log.append(NS.pen(SERVICE, GROUP, "a"), payload)
        site = cast("Site", SimpleNamespace(subjects=NS))
        _remember(log.records[seq - 1], ("a", 0), site, rig.core)
    return rig.core.answer([fact[1] for fact in facts[:1]])


def test_a_member_from_a_snapshot_does_not_answer_with_a_doubt_that_is_over(
    log: ListLog, client: FakeClient
) -> None:
    (paid,) = client.send(a_call("pay"))
    assert told_by_one_who_read(log, (Mark.IN_DOUBT, paid, None)) == [(paid, Mark.IN_DOUBT, None)]
    assert told_by_one_who_read(log, (Mark.IN_DOUBT, paid, None), (Mark.NOT_EXECUTED, paid, None)) == []


def test_a_member_from_a_snapshot_answers_with_the_first_outcome(log: ListLog, client: FakeClient) -> None:
    (paid,) = client.send(a_call("pay"))
    assert told_by_one_who_read(log, (Mark.SUCCEEDED, paid, b"\x01"), (Mark.FAILED, paid, b"\x02")) == [
        (paid, Mark.SUCCEEDED, b"\x01")
    ]
    assert told_by_one_who_read(log, (Mark.IN_DOUBT, paid, None), (Mark.SUCCEEDED, paid, b"\x01")) == [
        (paid, Mark.SUCCEEDED, b"\x01")
    ]


# -- asking the service --------------------------------------------------------------------------------


class Oracle:
    """Stands for the service's hook: is asked, and answers when the test says so."""

    is_defined = True

    def __init__(self) -> None:
        self.asked: list[CallId] = []
        self.answers: asyncio.Queue[Finding | None] = asyncio.Queue()

    async def ask(self, call: OpenCall) -> Finding | None:
        self.asked.append(call.call_id)
        return await self.answers.get()


@asynccontextmanager
async def asking(rig: MemberRig, oracle: Oracle) -> AsyncIterator[Reconciliation]:
    """A holder's doubts are asked about."""
    tasks: list[asyncio.Task[None]] = []
    yield Reconciliation(
        rig.core,
        cast("Reconciler", oracle),
        spawn=lambda work: tasks.append(asyncio.create_task(work)),
        wake=lambda: None,
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def doubting(log: ListLog, client: FakeClient, calls: int = 1) -> tuple[MemberRig, list[CallId]]:
    """`b` took over, and finds what `a` had claimed in doubt."""
    first = active_member(log)
    claimed = client.send(*[a_call("pay")] * calls)
    first.read()
    first.write_all()
    heir = standby_member(log)
    log.promote("b", 2)
    heir.read()
    heir.write_all()
    return heir, claimed


async def test_a_finding_about_an_earlier_run_says_nothing_of_a_later_one(
    log: ListLog, client: FakeClient
) -> None:
    heir, (paid,) = doubting(log, client)
    oracle = Oracle()
    async with asking(heir, oracle) as reconciliation:
        reconciliation.add(heir.doubts)
        await eventually(lambda: oracle.asked == [paid], within_s=5)
        other = MemberRig(log, "a", incarnation="2")  # has the pen for a while, and runs it
        log.join("a", "2")
        log.promote("a", 3, "2")
        other.read()
        assert other.core.doubts.not_executed(paid, said_by("operator"))
        other.write_all()
        other.write_all()
        assert other.started() == [paid]
        log.promote("b", 4)
        heir.read()
        heir.write_all()
        oracle.answers.put_nowait(Finding(False, b"", (), "the venue has no such order"))
        await eventually(oracle.answers.empty, within_s=5)
        await asyncio.sleep(0)
        assert paid in heir.core.doubts
        assert heir.write() is None


async def test_a_new_doubt_is_asked_about_at_once_though_an_old_one_waits(
    log: ListLog, client: FakeClient
) -> None:
    heir, (old, new) = doubting(log, client, 2)
    oracle = Oracle()
    async with asking(heir, oracle) as reconciliation:
        reconciliation.add([call for call in heir.doubts if call.call_id == old])
        oracle.answers.put_nowait(None)
        await eventually(lambda: oracle.asked == [old], within_s=5)
        reconciliation._asking[old] = reconciliation._asking[old]._replace(due=1e12)
        reconciliation.add([call for call in heir.doubts if call.call_id == new])
        await eventually(lambda: oracle.asked == [old, new], within_s=5)

"""Operators' commands over a real server: the leader answers when it is durable, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import AckUnknown, WrongSequence
from aegisipc.eventstore.ids import format_call_id
from aegisipc.router.application import commands as module
from aegisipc.router.application.commands import MAX_AT_ONCE
from aegisipc.router.domain.decide import Decision, leads
from aegisipc.router.domain.requests import Promote
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.router.application.control import (
    ALICE,
    PLACE,
    Answers,
    Control,
    Freezable,
    ask,
    commands_of,
    group_of,
    received,
    recorded,
    refusal,
    rehost,
)
from tests.sdk.kit import GROUP, SERVICE
from tests.support.waiting import eventually


@pytest.fixture
async def control(shared_server: EmbeddedServer) -> AsyncIterator[Control]:
    async with AsyncExitStack() as stack:
        yield Control(shared_server, stack)


# -- what they do --------------------------------------------------------------------------------------


async def test_a_promotion_is_answered_when_it_is_durable_and_folded(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a", "b")
    told = await ask(router, "promote", {**PLACE, "instance": "b", **ALICE})
    group = group_of(router)
    assert told == {
        "ok": True,
        "seq": group.fence_seq,
        "event": "group.handover_started.v1",
        **PLACE,
        "instance": "b",
        "epoch": 2,
    }
    again = await ask(router, "promote", {**PLACE, "instance": "b", **ALICE})
    assert (again["ok"], again["already"], again["seq"]) == (True, True, group.fence_seq)
    await control.say(router, "a", ev.InstanceYielded(incarnation="1", epoch=1, cause="t"))
    await eventually(lambda: (group_of(router).holder, group_of(router).epoch) == ("b", 2), within_s=5)
    (event,) = [e for e in await recorded(router, ev.GroupPromoted) if e.epoch == 2]
    assert (event.kind, event.author, event.decided_by) == ("planned", "alice", "one")


async def test_an_instance_is_drained_and_the_last_one_by_force_only(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a", "b")
    told = await ask(router, "drain", {"instance": "b", **ALICE})
    assert (told["ok"], told["event"], told["group"]) == (True, "instance.drain_requested.v1", GROUP)
    assert told["seq"] == group_of(router).watch_seq
    assert group_of(router).instances["b"].drain_requested
    assert await refusal(router, "drain", {"instance": "a", **ALICE}) == "last_instance"
    assert (await ask(router, "drain", {"instance": "a", "force": True, **ALICE}))["ok"]


async def test_a_service_is_paused_and_resumed_with_all_its_groups(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a")
    await control.join(router, "z", group="g2", resource="y")
    told = await ask(router, "pause", {"service": SERVICE, **ALICE})
    assert (told["ok"], told["groups"], told["event"]) == (True, [GROUP, "g2"], "group.paused.v1")
    assert (group_of(router).paused, group_of(router, "g2").paused) == (True, True)
    assert told["seq"] == group_of(router, "g2").pause_seq
    again = await ask(router, "pause", {"service": SERVICE, **ALICE})
    assert (again["already"], again["seq"]) == (True, told["seq"])
    await control.join(router, "later", group="g3", resource="w")
    assert group_of(router, "g3").paused_by == "alice: r"
    assert (await ask(router, "resume", {"service": SERVICE, **ALICE}))["groups"] == [GROUP, "g2", "g3"]
    assert not any(group_of(router, name).paused for name in (GROUP, "g2", "g3"))


async def test_refusals_are_told_with_their_codes(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a", "b")
    assert await refusal(router, "promote", b"{") == "invalid_request"
    assert await refusal(router, "promote", {**PLACE, "instance": "a", **ALICE}) == "already_active"
    assert await refusal(router, "promote", {**PLACE, "instance": "c", **ALICE}) == "unknown_instance"
    assert await refusal(router, "pause", {"service": "none", **ALICE}) == "unknown_service"
    assert await refusal(router, "resume", {"service": SERVICE, "group": "none", **ALICE}) == "unknown_group"
    assert await refusal(router, "doubts", {"limit": 0}) == "invalid_request"


# -- who answers ---------------------------------------------------------------------------------------


async def test_the_leader_answers_and_a_follower_is_silent(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await control.leader()
    follower = await control.follower()
    await control.join(leader, "a", "b")
    answers = Answers(follower, monkeypatch)
    told = await ask(leader, "promote", {**PLACE, "instance": "b", **ALICE})
    assert told["ok"]
    await eventually(lambda: received(follower, "promote") == 1, within_s=5)
    assert (answers.of_router, commands_of(follower)._tasks) == ([], set())
    assert [e.decided_by for e in await recorded(leader, ev.GroupHandoverStarted)] == ["one"]


async def depose(former: Freezable, successor: Freezable) -> None:
    """The former leader is frozen, and the other takes the lead."""
    former.freeze()
    lead = successor.state.topology.leadership
    event = ev.RouterElected(
        term=lead.term + 1, router=successor.me.id, incarnation=successor.me.incarnation, cause="t"
    )
    await successor._append(Decision(successor.subjects.term, event, lead.seq))
    await eventually(lambda: leads(successor.state, successor.me), within_s=5, what="the other leads")
    assert leads(former.state, former.me)  # as it believes


class Thawing:
    """The following of a frozen router: it thaws when it has to read on."""

    def __init__(self, router: Freezable) -> None:
        self._router, self._following = router, router._following[1]

    async def reached(self, seq: int, timeout_s: float) -> None:
        await self._following.reached(seq, timeout_s)
        self._router.thaw()


async def test_a_leader_that_was_frozen_and_thaws_decides_nothing_and_is_silent(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = await control.leader()
    successor = await control.follower()
    await control.join(former, "a", "b")
    await eventually(lambda: successor.state.position == former.state.position, within_s=5)
    await depose(former, successor)
    # The former leader comes last: what it judges by is not true any more.
    appending = asyncio.Event()

    async def late(decision: Decision) -> int:
        await appending.wait()
        return await former._append(decision)

    rehost(former, append=late, following=Thawing(former))
    answers = Answers(former, monkeypatch)
    told = await ask(successor, "pause", {**PLACE, **ALICE})
    assert told["ok"]
    await eventually(lambda: received(former, "pause") == 1, within_s=5)
    assert len(commands_of(former)._tasks) == 1
    appending.set()
    await eventually(lambda: not commands_of(former)._tasks, within_s=5)
    assert former.held is None
    assert not leads(former.state, former.me)
    assert answers.of_router == []
    assert [e.decided_by for e in await recorded(successor, ev.GroupPaused)] == ["two"]


async def test_a_promotion_by_a_leader_that_was_frozen_is_refused(control: Control) -> None:
    former = await control.leader()
    successor = await control.follower()
    await control.join(former, "a", "b", "c")
    await eventually(lambda: successor.state.position == former.state.position, within_s=5)
    await depose(former, successor)
    stale = former._desk().plan(Promote(**PLACE, instance="c", author="bob"))
    assert (await ask(successor, "promote", {**PLACE, "instance": "b", **ALICE}))["ok"]
    with pytest.raises(WrongSequence):
        await former._append(stale.decisions[0])
    former.thaw()
    handover = group_of(former).handover
    assert handover is not None
    assert handover.to == "b"


# -- trouble -------------------------------------------------------------------------------------------


async def test_a_command_that_comes_too_late_is_judged_again_on_what_is_known_then(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a", "b", "c")
    sound, first = router._append, True

    async def overtaken(decision: Decision) -> int:
        """Another's handover is written just before."""
        nonlocal first
        if first:
            first = False
            plan = router._desk().plan(Promote(**PLACE, instance="c", author="bob"))
            await sound(plan.decisions[0])
        return await sound(decision)

    rehost(router, append=overtaken)
    assert await refusal(router, "promote", {**PLACE, "instance": "b", **ALICE}) == "handover_running"


def raising(error: Exception) -> Callable[[Decision], Any]:
    async def append(decision: Decision) -> int:
        raise error

    return append


async def test_a_command_that_always_comes_too_late_cannot_be_decided(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a")
    lost = WrongSequence("lost", subject=router.subjects.watch(SERVICE, GROUP), expected=1)
    rehost(router, append=raising(lost))
    assert await refusal(router, "pause", {**PLACE, **ALICE}) == "cannot_decide"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(AckUnknown("cannot say"), "ack_unknown"), (ZeroDivisionError("a defect"), "defect")],
)
async def test_a_command_whose_fate_is_unknown_says_so_and_the_router_goes_on(
    control: Control, error: Exception, reason: str
) -> None:
    router = await control.leader()
    await control.join(router, "a")
    sound = commands_of(router)._host.append
    rehost(router, append=raising(error))
    told = (await ask(router, "pause", {**PLACE, **ALICE}))["error"]
    assert (told["code"], told["details"]) == ("cannot_decide", {"reason": reason})
    rehost(router, append=sound)
    assert (await ask(router, "pause", {**PLACE, **ALICE}))["ok"]


async def test_a_command_that_takes_too_long_is_given_up(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await control.leader()
    await control.join(router, "a")

    async def never(decision: Decision) -> int:
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    rehost(router, append=never)
    told = (await ask(router, "pause", {**PLACE, **ALICE}))["error"]
    assert (told["code"], told["details"]) == ("cannot_decide", {"reason": "timeout"})


async def test_only_so_many_commands_are_worked_on_at_once(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a")
    sound, go_on = commands_of(router)._host.append, asyncio.Event()

    async def late(decision: Decision) -> int:
        await go_on.wait()
        return await sound(decision)

    rehost(router, append=late)
    waiting = [asyncio.create_task(ask(router, "pause", {**PLACE, **ALICE})) for _ in range(MAX_AT_ONCE)]
    await eventually(lambda: len(commands_of(router)._tasks) == MAX_AT_ONCE, within_s=5)
    assert await refusal(router, "pause", {**PLACE, **ALICE}) == "overloaded"
    go_on.set()
    told = await asyncio.gather(*waiting)
    assert len([answer for answer in told if answer.get("ok")]) == MAX_AT_ONCE
    assert len(await recorded(router, ev.GroupPaused)) == 1


async def test_a_router_that_stops_leaves_no_command_behind(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a")

    async def never(decision: Decision) -> int:
        await asyncio.Event().wait()
        return 0

    rehost(router, append=never)
    asking = asyncio.create_task(ask(router, "pause", {**PLACE, **ALICE}))
    await eventually(lambda: commands_of(router)._tasks, within_s=5)
    asking.cancel()
    await router.stop()
    assert commands_of(router)._tasks == set()


# -- doubts and status ---------------------------------------------------------------------------------


async def test_doubts_are_listed_by_any_router_oldest_first(control: Control) -> None:
    leader = await control.leader()
    await control.join(leader, "a")
    calls = await control.doubts(leader, 3, "x")
    follower = await control.follower()
    await eventually(lambda: follower.state.position >= leader.state.position, within_s=5)
    for _ in range(6):  # whichever of the two it goes to
        told = await ask(leader, "doubts", {"service": SERVICE, "limit": 2})
        assert [doubt["call_id"] for doubt in told["doubts"]] == [format_call_id(c) for c in calls[:2]]
        assert (told["ok"], told["more"]) == (True, 1)


async def test_a_message_without_an_address_is_not_answered(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await control.leader()
    answers = Answers(router, monkeypatch)
    assert router._connection is not None
    for verb in ("doubts", "pause"):
        router._connection.publish_nowait(router.subjects.api(verb), b"")
        await eventually(lambda verb=verb: received(router, verb) == 1, within_s=5)  # type: ignore[misc]
    assert answers.of_router == []


async def test_a_list_of_doubts_is_cut_to_what_fits_into_a_message(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a")
    await control.doubts(router, 1000, "\x01" * 256)
    told = await ask(router, "doubts", {"limit": 1000})
    assert 0 < len(told["doubts"]) < 1000
    assert len(told["doubts"]) + told["more"] == 1000


async def test_status_tells_doubts_and_claims_beside_open_calls(control: Control) -> None:
    router = await control.leader()
    await control.join(router, "a")
    await control.doubts(router, 2, "x")
    assert {key: router.status()[key] for key in ("open_calls", "claimed", "doubts")} == {
        "open_calls": {f"{SERVICE}/{GROUP}": 2},
        "claimed": {f"{SERVICE}/{GROUP}": 0},
        "doubts": {f"{SERVICE}/{GROUP}": 2},
    }

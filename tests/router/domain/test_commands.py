"""What operators may ask for: given what the router believes, a command is decided, is so already, or is
refused with a reason.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.router.domain import refusals as no
from aegisipc.router.domain.decide import RouterIdentity
from aegisipc.router.domain.requests import ListDoubts, Promote, Request
from tests.router.domain.world import World, drain, of, only, pause, promote, refused
from tests.sdk.kit import GROUP, NS, POOL, SERVICE, FakeClient, a_call

# -- promote -------------------------------------------------------------------------------------------


def test_promoting_a_standby_starts_a_handover_and_tells_the_epoch_to_come() -> None:
    world = of("a", "b")
    plan = world.desk().plan(promote("b"))
    assert plan.event == "group.handover_started.v1"
    assert plan.told == {"service": SERVICE, "group": GROUP, "instance": "b", "epoch": 2}
    assert plan.decisions[0].subject == NS.fence(SERVICE, GROUP)


def test_promoting_in_a_vacant_group_is_decided_at_once_as_planned() -> None:
    world = of("a")
    world.leave("a")
    world.settle()
    world.register("b")
    world.append(world.decide()[0])
    world.say("b", ev.InstanceReady(incarnation="1"))
    event = only(world.promote("b"), ev.GroupPromoted)
    assert (event.holder, event.epoch, event.kind, event.author, event.cause) == (
        "b",
        2,
        "planned",
        "alice",
        "promoted by alice: r",
    )


def test_promoting_in_place_of_a_holder_in_doubt_waits_for_nobody() -> None:
    world = of("a", "b", "c")
    world.disconnect("a")
    event = only(world.promote("c"), ev.GroupPromoted)
    assert (event.holder, event.kind, event.author) == ("c", "failover", "alice")
    assert event.cause == (
        "promoted by alice: r; holder 'a' is suspected: its connection ended: Client Closed"
    )
    assert event.evidence["source"] == "disconnect"


@pytest.mark.parametrize(("how", "kind"), [("left", "planned"), ("restarted", "failover")])
def test_promoting_in_place_of_a_holder_that_is_gone_is_decided_at_once(how: str, kind: str) -> None:
    world = of("a", "b", "c")
    if how == "left":
        world.leave("a")
    else:
        world.register("a", "2")
    event = only(world.promote("c"), ev.GroupPromoted)
    assert (event.holder, event.kind) == ("c", kind)


def test_promoting_in_place_of_an_ill_holder_that_has_yielded_is_decided_at_once() -> None:
    world = of("a", "b")
    world.fall_ill("b")
    world.fall_ill("a")
    world.yields("a")
    world.get_well("b")
    assert only(world.promote("b"), ev.GroupPromoted).kind == "planned"


def test_the_holder_is_active_already() -> None:
    world = of("a", "b")
    refusal = refused(world, promote("a"), no.AlreadyActive)
    assert (refusal.code, refusal.epoch) == ("already_active", 1)


def test_the_same_wish_twice_is_granted_once() -> None:
    world = of("a", "b")
    world.promote("b")
    plan = world.desk().plan(promote("b"))
    assert plan.is_so_already
    assert (plan.seq, plan.event) == (world.group().fence_seq, "group.handover_started.v1")


def test_during_a_handover_no_other_instance_can_be_promoted() -> None:
    world = of("a", "b", "c")
    world.promote("b")
    for name in ("a", "c"):
        refusal = refused(world, promote(name), no.HandoverRunning)
        assert (refusal.code, refusal.holder, refusal.to) == ("handover_running", "a", "b")


@pytest.mark.parametrize("how", ["left", "in doubt"])
def test_a_handover_whose_holder_fails_keeps_nobody_from_promoting_another(how: str) -> None:
    world = of("a", "b", "c")
    world.promote("b")
    if how == "left":
        world.leave("a")
    else:
        world.disconnect("a")
    event = only(world.promote("c"), ev.GroupPromoted)
    assert (event.holder, event.kind) == ("c", "planned" if how == "left" else "failover")
    world.settle()
    assert (world.group().holder, world.group().epoch) == ("c", 2)


def test_what_is_not_there_cannot_be_promoted() -> None:
    world = of("a")
    world.joined("other", group="g2", resources=["y"])
    request = promote("a")
    service = refused(world, request.model_copy(update={"service": "none"}), no.UnknownService)
    assert service.message == "cannot find service 'none': those that have registered are orders"
    group = refused(world, promote("a", "none"), no.UnknownGroup)
    assert group.message == "cannot find group 'none' of service 'orders': its groups are acc, g2"
    refused(world, promote("none"), no.UnknownInstance)
    elsewhere = refused(world, promote("other"), no.UnknownInstance)
    assert elsewhere.message == "cannot find instance 'other' in orders/acc: it is in orders/g2"
    assert elsewhere.elsewhere == ["orders/g2"]


def test_a_pool_has_no_one_to_promote() -> None:
    world = World()
    world.joined("w", group=POOL)
    assert refused(world, promote("w", POOL), no.NotAnOwnedGroup).code == "not_an_owned_group"


def gone(world: World, how: str) -> None:
    if how == "left":
        world.leave("b")
        return
    if how == "lost":
        world.silence(5000, "a")
    else:
        world.register("b", "2", contract={})
    world.settle()


@pytest.mark.parametrize("how", ["left", "lost", "refused"])
def test_one_that_is_gone_can_neither_be_promoted_nor_drained(how: str) -> None:
    world = of("a", "b")
    gone(world, how)
    for request in (promote("b"), drain("b")):
        refusal = refused(world, request, no.InstanceGone)
        assert (refusal.code, refusal.state) == ("instance_gone", how)
        assert refusal.message.endswith("; start it again")


def _joining(world: World) -> None:
    world.register("b", "2")


def _reading(world: World) -> None:
    world.never_ready.add("b")
    world.register("b", "2")
    world.append(world.decide()[0])


def _suspected(world: World) -> None:
    world.silence(1250, "a")
    world.settle()


UNREADY: dict[str, Callable[[World], None]] = {
    "it is not admitted yet": _joining,
    "it has not caught up with the log yet": _reading,
    "it is draining": lambda world: world.drain("b"),
    "it is asked to drain": lambda world: world.asked_to_drain("b"),
    "it is unhealthy: no venue": lambda world: world.fall_ill("b"),
    "it is suspected: silent for 1250 ms": _suspected,
    "it is suspected: its connection ended: Client Closed": lambda world: world.disconnect("b"),
}


@pytest.mark.parametrize("why", UNREADY)
def test_one_that_is_not_sound_cannot_be_promoted(why: str) -> None:
    world = of("a", "b")
    UNREADY[why](world)
    refusal = refused(world, promote("b"), no.NotReady)
    assert (refusal.code, refusal.why) == ("not_ready", why)
    assert (
        refusal.message == f"cannot promote 'b' in orders/acc: {why}; wait until it is sound, or name another"
    )


# -- drain ---------------------------------------------------------------------------------------------


def test_an_instance_is_asked_to_drain_by_its_name_alone() -> None:
    world = of("a", "b")
    event = only(world.command(drain("a", reason="new version")), ev.InstanceDrainRequested)
    assert (event.instance, event.incarnation, event.author, event.reason) == (
        "a",
        "1",
        "alice",
        "new version",
    )
    assert world.group().instances["a"].drain_requested


@pytest.mark.parametrize("draining", [False, True])
def test_one_that_is_asked_to_drain_or_drains_already_is_not_asked_again(draining: bool) -> None:
    world = of("a", "b")
    world.command(drain("a"))
    if draining:
        world.drain("a")
    plan = world.desk().plan(drain("a"))
    assert plan.is_so_already
    assert plan.seq == world.group().watch_seq


def test_the_last_instance_is_drained_by_force_only() -> None:
    world = of("a", "b")
    FakeClient(world.log).send(a_call("get", "acc_1"))
    world.command(drain("b"))
    refusal = refused(world, drain("a"), no.LastInstance)
    assert (refusal.code, refusal.group, refusal.open_calls) == ("last_instance", GROUP, 1)
    only(world.command(drain("a", force=True)), ev.InstanceDrainRequested)


def test_one_that_never_served_is_not_the_last_instance() -> None:
    world = of("a")
    world.never_ready.add("b")
    world.joined("b")
    only(world.command(drain("b")), ev.InstanceDrainRequested)
    refused(world, drain("a"), no.LastInstance)


def test_one_of_a_pool_is_drained_while_another_serves() -> None:
    world = World()
    world.joined("v", "w", group=POOL)
    only(world.command(drain("v")), ev.InstanceDrainRequested)
    refused(world, drain("w", service=SERVICE, group=POOL), no.LastInstance)


def test_of_two_with_the_same_name_the_place_has_to_be_named() -> None:
    world = of("a", "b")
    world.joined("a", "z", group="g2", resources=["y"])
    refusal = refused(world, drain("a"), no.AmbiguousInstance)
    assert (refusal.code, refusal.places) == ("ambiguous_instance", ["orders/acc", "orders/g2"])
    world.command(drain("a", service=SERVICE, group="g2"))
    assert world.group("g2").instances["a"].drain_requested
    assert not world.group().instances["a"].drain_requested


def test_one_that_is_gone_here_and_lives_there_is_found() -> None:
    world = of("a", "b")
    world.joined("a", "z", group="g2", resources=["y"])
    world.leave("a")
    world.settle()
    world.command(drain("a"))
    assert world.group("g2").instances["a"].drain_requested


def test_what_is_not_there_cannot_be_drained() -> None:
    world = of("a")
    refused(world, drain("a", service="none"), no.UnknownService)
    refused(world, drain("a", service=SERVICE, group="none"), no.UnknownGroup)
    refusal = refused(world, drain("none"), no.UnknownInstance)
    assert refusal.message == "cannot find instance 'none': aegis status shows who is there"


# -- stale belief --------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [promote("b"), drain("b"), pause(GROUP)])
def test_a_command_that_a_deposed_leader_judged_is_refused_once_another_has_decided(
    request_: Request,
) -> None:
    world = of("a", "b")
    stale = world.desk().plan(request_)
    (theirs,) = world.desk(RouterIdentity("r2", "i2")).plan(request_).decisions
    world.append(theirs)
    for decision in stale.decisions:
        with pytest.raises(WrongSequence):
            world.append(decision)
    assert world.desk().plan(request_).is_so_already


# -- doubts --------------------------------------------------------------------------------------------


def in_doubt(world: World, *names: str) -> list[bytes]:
    """One call after another is claimed and comes into doubt; returns their ids, oldest first."""
    client = FakeClient(world.log)
    calls = client.send(*(a_call(name, "acc_1") for name in names))
    for call_id in reversed(calls):
        world.log.now_ns += 1000
        world.marks("a", (Mark.CLAIMED, call_id), (Mark.IN_DOUBT, call_id))
    return calls[::-1]


def test_calls_in_doubt_are_listed_oldest_first_and_the_rest_is_counted() -> None:
    world = of("a")
    oldest, second, _ = in_doubt(world, "pay", "pay", "pay")
    doubts, more = world.desk().doubts(ListDoubts(limit=2))
    assert [doubt["call_id"] for doubt in doubts] == [format_call_id(oldest), format_call_id(second)]
    assert more == 1
    (call,) = [call for call in world.state.calls[SERVICE, GROUP].open.values() if call.call_id == oldest]
    assert doubts[0] == {
        "call_id": format_call_id(oldest),
        "service": SERVICE,
        "group": GROUP,
        "method": "pay",
        "resource": "acc_1",
        "client": "c1",
        "claimed_by": "a",
        "claimed_epoch": 1,
        "since_ns": call.since_ns,
        "deadline_ns": call.deadline_ns,
        "accepted_seq": call.seq,
    }


def test_doubts_are_listed_by_service_and_group() -> None:
    world = of("a")
    world.joined("z", group="g2", resources=["y"])
    in_doubt(world, "pay")
    desk = world.desk()
    assert len(desk.doubts(ListDoubts(service=SERVICE, group=GROUP))[0]) == 1
    assert desk.doubts(ListDoubts(service=SERVICE, group="g2")) == ([], 0)
    with pytest.raises(no.UnknownService):
        desk.doubts(ListDoubts(service="none"))
    with pytest.raises(no.UnknownGroup):
        desk.doubts(ListDoubts(service=SERVICE, group="none"))


def test_a_request_that_is_no_command_cannot_be_planned() -> None:
    with pytest.raises(TypeError, match="cannot plan a ListDoubts"):
        of("a").desk().plan(ListDoubts())
    assert isinstance(promote("a"), Promote)

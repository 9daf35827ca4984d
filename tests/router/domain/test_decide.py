"""What a leading router decides in one go, what of two routers' decisions counts, and what holds for any
history.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.frames import Mark, encode_calls
from aegisipc.eventstore.system import Counts, SystemState
from aegisipc.router.domain.decide import RouterIdentity
from tests.router.domain.world import ME, World, types
from tests.sdk.kit import GROUP, NS, POOL, SERVICE, FakeClient, a_call

OTHER = RouterIdentity("r2", "i2")


# -- in one go -----------------------------------------------------------------------------------------


def test_the_promotions_of_all_groups_come_before_everything_else() -> None:
    world = World()
    for group, resource in (("g1", "x"), ("g2", "y")):
        world.joined(f"{group}-a", f"{group}-b", group=group, resources=[resource])
        world.connect(f"{group}-a")
        world.pulse(f"{group}-a", group=group)
    for group in ("g1", "g2"):
        world.disconnect(f"{group}-a")
    world.register("w", group=POOL)
    decisions = world.decide()
    in_order: list[type] = [
        ev.GroupPromoted,
        ev.GroupPromoted,
        ev.InstanceSuspected,
        ev.InstanceSuspected,
        ev.InstanceAdmitted,
    ]
    assert types(decisions) == in_order
    for decision in decisions:
        world.append(decision)  # none stands in the way of another


def test_one_instance_of_a_service_is_admitted_at_a_time_whatever_else_is_to_say() -> None:
    world = World()
    world.joined("a", group="g1", resources=["x"])
    world.joined("b", group="g2", resources=["y"])
    world.silence(1250)
    world.register("a2", group="g1", resources=["w"])
    world.register("c", group="g3", resources=["w"])
    world.pulse("a", group="g1")
    in_order: list[type] = [ev.InstanceAdmitted, ev.InstanceSuspected]
    assert types(world.decide()) == in_order
    refused = [event for event in world.settle() if isinstance(event, ev.InstanceRefused)]
    assert [event.instance for event in refused] == ["c"]


# -- several routers -----------------------------------------------------------------------------------


def test_of_two_routers_that_decide_the_same_thing_only_one_appends_it() -> None:
    world = World()
    world.joined("a", "b")
    world.leave("a")
    (mine,) = world.decide(ME)
    (theirs,) = world.decide(OTHER)
    world.append(theirs)
    with pytest.raises(WrongSequence):
        world.append(mine)
    assert world.settle() == []
    assert (world.group().epoch, world.group().holder) == (2, "b")


def test_a_decision_on_stale_belief_is_refused() -> None:
    world = World()
    world.joined("a", "b")
    world.pulse("a", "b")
    world.silence(1250, "a")
    (stale,) = world.decide()  # b is silent
    world.register("c")
    world.settle()
    with pytest.raises(WrongSequence):
        world.append(stale)


def test_a_promotion_by_a_deposed_leader_is_refused() -> None:
    world = World()
    world.joined("a", "b", "c")
    world.pulse("a", "b", "c")
    world.silence(1250, "b", "c")
    stale = world.decide(ME)[0]  # then it is frozen, and another leads
    world.append(world.decide(OTHER)[0])
    world.silence(1250, "c")
    for decision in world.decide(OTHER)[:1]:
        world.append(decision)
    with pytest.raises(WrongSequence):
        world.append(stale)
    assert (world.group().epoch, world.group().holder) == (3, "c")


# -- the state -----------------------------------------------------------------------------------------


def test_calls_are_counted_by_what_the_holder_of_the_pen_says_and_nobody_else() -> None:
    world = World()
    world.joined("a", "b")
    pay, put, get = FakeClient(world.log).send(*(a_call(name, "acc_1") for name in ("pay", "put", "get")))
    world.marks("a", (Mark.CLAIMED, pay))
    world.marks("b", (Mark.SUCCEEDED, put), (Mark.SUCCEEDED, get))
    assert world.state.counts(SERVICE, GROUP) == Counts(open=3, claimed=1, doubts=0)
    world.leave("a")
    world.settle()
    world.marks("a", (Mark.SUCCEEDED, put))
    world.marks("b", (Mark.IN_DOUBT, pay), (Mark.SUCCEEDED, get))
    assert world.state.counts(SERVICE, GROUP) == Counts(open=2, claimed=0, doubts=1)
    assert SystemState(NS).replay(world.log.records).to_plain() == world.state.to_plain()


def test_calls_to_a_group_that_nobody_knows_yet_are_counted() -> None:
    world = World()
    FakeClient(world.log, group="later").send(a_call())
    assert world.state.counts(SERVICE, "later") == Counts(open=1)
    assert world.state.counts(SERVICE, "never") == Counts()


@pytest.mark.parametrize("end", ["pulses", "is lost", "leaves", "restarts"])
def test_what_was_known_at_a_suspicion_is_forgotten_with_it(end: str) -> None:
    world = World()
    world.joined("a")
    world.pulse("a")
    world.silence(1250)
    world.settle()
    assert world.state.to_plain()["pulses_at_suspicion"] == {
        "orders/acc/a": ("1", world.board.now_ns - 1_250_000_000)
    }
    if end == "pulses":
        world.pulse("a")
    elif end == "is lost":
        world.silence(3000)
    elif end == "leaves":
        world.leave("a")
    else:
        world.register("a", "2")
    world.settle()
    assert world.state.to_plain()["pulses_at_suspicion"] == {}


def test_records_that_are_none_of_ours_are_counted_and_change_nothing() -> None:
    world = World()
    world.joined("a")
    before = world.state.to_plain()
    world.log.append("somebody.else", b"")
    assert world.state.unreadable == 1
    after = world.state.to_plain()
    assert {**after, "position": 0, "topology": {**after["topology"], "position": 0}} == {
        **before,
        "position": 0,
        "topology": {**before["topology"], "position": 0},
    }


NAMES = st.sampled_from(["a", "b", "c"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("register"), NAMES, st.sampled_from(["1", "2", "3"])),
            st.tuples(st.just("leave"), NAMES, st.sampled_from(["1", "2", "3"])),
            st.tuples(st.just("call"), NAMES, st.sampled_from(["x", "y"])),
            st.tuples(st.just("silence"), NAMES, st.sampled_from(["500", "1500", "4000"])),
            st.tuples(st.just("nonsense"), NAMES, st.just("")),
        ),
        max_size=25,
    )
)
def test_replaying_any_history_gives_the_same_state_and_deciding_always_settles(
    steps: list[tuple[str, str, str]],
) -> None:
    world = World()
    for step, name, detail in steps:
        if step == "register":
            world.register(name, detail)
        elif step == "leave":
            world.leave(name, detail)
        elif step == "call":
            frame = FakeClient(world.log, name).frame(a_call("get", detail))
            world.log.append(NS.call(SERVICE, GROUP, name), encode_calls(frame))
        elif step == "silence":
            world.silence(int(detail), name)
        else:
            world.log.append(NS.instance(SERVICE, GROUP, name), b"\xc1")
        world.settle()
    assert SystemState(NS).replay(world.log.records).to_plain() == world.state.to_plain()
    group = world.state.topology.group(SERVICE, GROUP)
    if group is not None and group.holder is not None:
        holder = group.instances[group.holder]
        assert holder.is_live
        assert holder.incarnation == group.holder_incarnation

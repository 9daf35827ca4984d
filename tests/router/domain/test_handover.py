"""Who holds the pen: given a holder that is to hand over, is ill or drains, then it changes as planned."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import GroupState
from tests.router.domain.world import World, of, only, promoted, told, types

# -- handover ------------------------------------------------------------------------------------------


def handing_over(*others: str, illness: bool = False) -> World:
    """Alice asked that `b` take over from `a`, or `a` fell ill; `a` has not finished."""
    world = of("a", "b", *others)
    if illness:
        world.fall_ill("a")
        only(world.settle(), ev.GroupHandoverStarted)
    else:
        only(world.promote("b"), ev.GroupHandoverStarted)
        assert world.settle() == []
    return world


def test_a_handover_names_both_and_leaves_epoch_and_holder_as_they_are() -> None:
    world = of("a", "b")
    event = only(world.promote("b"), ev.GroupHandoverStarted)
    assert (event.epoch, event.holder, event.to, event.to_incarnation) == (1, "a", "b", "1")
    assert (event.cause, event.author, event.evidence["former_holder"]) == (
        "promoted by alice: r",
        "alice",
        "a",
    )
    assert (world.group().holder, world.group().epoch, world.group().state) == (
        "a",
        1,
        GroupState.FAILING_OVER,
    )


def test_when_the_holder_has_yielded_the_named_one_is_promoted_as_planned() -> None:
    world = handing_over("c")
    world.yields("a")
    event = only(world.settle(), ev.GroupPromoted)
    assert told(event) == ("b", 2, "planned", "promoted by alice: r")
    assert event.author == "alice"
    assert str(world.group().instances["a"].state) == "standby"


def test_when_the_holder_leaves_during_its_handover_the_named_one_is_promoted() -> None:
    world = of("a", "c", "b")
    world.promote("b")
    world.leave("a")
    event = only(world.settle(), ev.GroupPromoted)
    assert told(event) == ("b", 2, "planned", "holder 'a' left")
    assert event.author == "alice"


def test_a_holder_that_does_not_finish_in_time_is_replaced_all_the_same() -> None:
    world = handing_over()
    world.silence(29_750, "a", "b")
    assert world.settle() == []
    world.silence(250, "a", "b")
    event = only(world.settle(), ev.GroupPromoted)
    assert told(event) == ("b", 2, "failover", "promoted by alice: r; 'a' did not finish within 30 s")
    assert event.author == "alice"


def test_a_holder_that_falls_silent_during_its_handover_is_replaced_at_once() -> None:
    world = of("a", "c", "b")
    world.promote("b")
    world.silence(1250, "b", "c")
    event = promoted(world)
    assert told(event) == ("b", 2, "failover", "holder 'a' is suspected: silent for 1250 ms")
    assert event.author == "alice"


def unfit(world: World, how: str) -> str:
    """Makes `b` unfit for the pen; returns the words for it."""
    if how == "left":
        world.leave("b")
        return "it left"
    if how == "ill":
        world.fall_ill("b")
        return "it is unhealthy: no venue"
    if how == "restarted":
        world.never_ready.add("b")
        world.register("b", "2")
        world.append(world.decide()[-1])
        return "that run of it is over"
    if how == "draining":
        world.drain("b")
        return "it is draining"
    world.silence(1250, "a", "c")
    return "it is suspected: silent for 1250 ms"


@pytest.mark.parametrize("how", ["left", "ill", "restarted", "draining", "silent"])
def test_a_handover_to_one_that_can_no_longer_take_over_is_cancelled_and_the_holder_goes_on(how: str) -> None:
    world = handing_over("c")
    why = unfit(world, how)
    events = world.settle()
    cancelled = next(event for event in events if isinstance(event, ev.GroupHandoverCancelled))
    assert (cancelled.epoch, cancelled.cause) == (1, f"'b' cannot take over: {why}")
    assert not any(isinstance(event, ev.GroupPromoted) for event in events)
    group = world.group()
    assert (group.holder, group.epoch, group.state, group.handover) == ("a", 1, GroupState.HELD, None)


def test_when_both_ends_of_a_handover_fail_another_standby_is_promoted() -> None:
    world = handing_over("c")
    world.leave("b")
    world.silence(1250, "c")
    event = promoted(world)
    assert (event.holder, event.kind, event.author) == ("c", "failover", "")


def test_when_the_holder_leaves_and_the_named_one_left_too_another_is_promoted() -> None:
    world = handing_over("c")
    world.leave("b")
    world.leave("a")
    event = promoted(world)
    assert (event.holder, event.kind, event.author) == ("c", "planned", "")


def test_a_holder_alone_in_doubt_keeps_the_pen_though_the_named_one_left() -> None:
    world = handing_over()
    world.leave("b")
    world.silence(1250)
    assert types(world.settle()) == [ev.GroupHandoverCancelled, ev.InstanceSuspected]
    assert (world.group().holder, world.group().handover) == ("a", None)
    world.pulse("a")
    only(world.settle(), ev.InstanceRecovered)


def test_a_handover_to_one_that_was_forgotten_is_cancelled() -> None:
    world = handing_over()
    del world.group().instances["b"]
    assert only(world.decide(), ev.GroupHandoverCancelled).cause == (
        "'b' cannot take over: that run of it is over"
    )


def test_a_handover_in_which_all_fall_silent_waits_and_goes_on_when_they_come_back() -> None:
    world = handing_over()
    world.silence(1250)
    assert set(types(world.settle())) == {ev.InstanceSuspected}
    assert world.group().handover is not None
    world.pulse("a", "b")
    assert set(types(world.settle())) == {ev.InstanceRecovered}
    world.yields("a")
    assert promoted(world).holder == "b"


# -- illness -------------------------------------------------------------------------------------------


def test_a_holder_that_falls_ill_hands_over_to_a_healthy_standby() -> None:
    world = of("a", "b", "c")
    world.fall_ill("b")
    world.fall_ill("a", "the venue is away")
    event = only(world.settle(), ev.GroupHandoverStarted)
    assert (event.to, event.author, event.cause) == (
        "c",
        "",
        "holder 'a' is unhealthy: the venue is away",
    )
    world.yields("a")
    assert told(promoted(world)) == ("c", 2, "planned", "holder 'a' is unhealthy: the venue is away")


def test_a_holder_that_falls_ill_alone_keeps_the_pen_until_it_has_yielded() -> None:
    world = of("a")
    world.fall_ill("a")
    assert world.settle() == []
    world.yields("a")
    vacated = only(world.settle(), ev.GroupVacated)
    assert (vacated.cause, vacated.evidence["finished"]) == ("holder 'a' is unhealthy: no venue", True)
    assert world.settle() == []


def test_an_instance_that_gets_well_is_promoted_again() -> None:
    world = of("a")
    world.fall_ill("a")
    world.yields("a")
    world.settle()
    world.get_well("a")
    assert told(promoted(world)) == ("a", 2, "planned", "vacant: holder 'a' is unhealthy: no venue")


def test_a_healthy_standby_that_comes_while_the_holder_is_ill_is_handed_the_pen() -> None:
    world = of("a")
    world.fall_ill("a")
    assert world.settle() == []
    world.joined("b")
    assert world.group().handover is not None
    world.yields("a")
    assert promoted(world).holder == "b"


def test_an_ill_holder_that_yielded_before_anything_was_decided_is_replaced_at_once() -> None:
    world = of("a", "b")
    world.fall_ill("a")
    world.yields("a")
    assert told(promoted(world)) == ("b", 2, "planned", "holder 'a' is unhealthy: no venue")


def test_the_handover_of_one_that_gets_well_before_it_yielded_is_cancelled() -> None:
    world = handing_over(illness=True)
    world.get_well("a")
    cancelled = only(world.settle(), ev.GroupHandoverCancelled)
    assert cancelled.cause == "holder 'a' is healthy again"
    assert world.group().holder == "a"


def test_the_wish_of_an_operator_stands_when_an_ill_holder_gets_well() -> None:
    world = handing_over()
    world.fall_ill("a")
    world.get_well("a")
    assert world.settle() == []
    world.yields("a")
    assert promoted(world).author == "alice"


def test_when_the_successor_of_an_ill_one_is_lost_the_next_healthy_one_is_asked() -> None:
    world = handing_over("c", illness=True)
    world.leave("b")
    assert types(world.settle()) == [ev.GroupHandoverCancelled, ev.GroupHandoverStarted]
    handover = world.group().handover
    assert handover is not None
    assert handover.to == "c"


def test_a_holder_that_yielded_before_it_was_restarted_had_finished() -> None:
    world = handing_over()
    world.yields("a")
    world.never_ready.add("a")
    world.register("a", "2")
    assert promoted(world).kind == "planned"


def test_a_yield_without_a_handover_and_in_good_health_moves_no_pen() -> None:
    world = of("a", "b")
    world.yields("a")
    assert world.settle() == []


# -- draining ------------------------------------------------------------------------------------------


def test_a_draining_holder_keeps_the_pen_until_it_has_left() -> None:
    world = of("a", "b")
    world.drain("a")
    assert world.settle() == []
    world.leave("a")
    assert told(promoted(world)) == ("b", 2, "planned", "holder 'a' left")


def test_a_draining_holder_that_does_not_finish_in_time_is_replaced() -> None:
    world = of("a", "b")
    world.drain("a")
    world.silence(29_750, "a", "b")
    assert world.settle() == []
    world.silence(250, "a", "b")
    assert told(promoted(world)) == (
        "b",
        2,
        "failover",
        "holder 'a' is draining; 'a' did not finish within 30 s",
    )


def test_a_draining_holder_without_a_standby_keeps_the_pen() -> None:
    world = of("a")
    world.drain("a")
    world.silence(40_000, "a")
    assert world.settle() == []
    assert world.group().holder == "a"


def test_a_request_to_drain_moves_no_pen() -> None:
    world = of("a", "b")
    world.asked_to_drain("a")
    assert world.settle() == []

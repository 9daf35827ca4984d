"""Failures that came together in unlucky ways: what a leading router has to make of them all the same."""

from __future__ import annotations

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import GroupState
from tests.router.domain.world import World, of, only


def handing_over(*instances: str) -> World:
    """The first of them was asked to hand over to the second."""
    world = of(*instances)
    assert isinstance(only(world.promote(instances[1]), ev.GroupHandoverStarted), ev.Event)
    return world


def test_a_handover_without_a_successor_is_called_off_though_the_holder_does_not_answer_probes() -> None:
    world = handing_over("a", "b")
    world.leave("b")
    world.miss_probes("a")
    cancelled = next(event for event in world.settle() if isinstance(event, ev.GroupHandoverCancelled))
    assert cancelled.cause == "'b' cannot take over: it left"
    assert world.group().state is GroupState.HELD
    assert (world.group().holder, world.group().epoch) == ("a", 1)


def test_a_handover_without_a_successor_is_called_off_though_the_holder_is_silent_and_may_come_back() -> None:
    world = handing_over("a", "b")
    world.leave("b")
    world.silence(1250)
    world.settle()
    assert world.group().handover is None
    assert (world.group().holder, world.group().epoch) == ("a", 1)


def test_a_handover_whose_successor_is_gone_goes_to_another_if_the_holder_is_in_doubt() -> None:
    world = handing_over("a", "b", "c")
    world.leave("b")
    world.miss_probes("a")
    promoted = next(event for event in world.settle() if isinstance(event, ev.GroupPromoted))
    assert (promoted.holder, promoted.kind) == ("c", "failover")


def test_a_handover_in_which_both_are_in_doubt_for_too_long_is_called_off() -> None:
    world = handing_over("a", "b")
    world.miss_probes("a")
    world.miss_probes("b")
    assert not any(isinstance(event, ev.GroupHandoverCancelled) for event in world.settle())
    world.silence(30_000, "a", "b")
    assert any(isinstance(event, ev.GroupHandoverCancelled) for event in world.settle())
    assert (world.group().holder, world.group().handover) == ("a", None)

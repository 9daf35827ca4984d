"""Failures that came together in unlucky ways: what a leading router has to make of them all the same."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import GroupState
from aegisipc.router.application.hints import Hints
from aegisipc.router.domain import refusals as no
from tests.router.domain.world import ME, World, drain, of, only, promoted, refused
from tests.sdk.kit import NS


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


def test_what_a_router_found_by_probes_is_forgotten_when_it_does_not_lead_any_more() -> None:
    world = of("a", "b")
    hints = Hints(NS, world.state, world.board, ME, lambda: None)
    world.log.say(NS.term, ev.RouterElected(term=1, router=ME.id, incarnation=ME.incarnation, cause="t"))
    world.group()  # it has read that it leads
    assert len(list(hints._targets())) == 2
    world.miss_probes("a")
    assert promoted(world).holder == "b"
    world.log.say(NS.term, ev.RouterElected(term=2, router="r2", incarnation="i2", cause="t"))
    world.group()
    assert list(hints._targets()) == []
    world.pulse("a", "b", after_ms=250)
    assert [type(event) for event in world.settle()] == [ev.InstanceRecovered]


@pytest.mark.parametrize("is_ill", [True, False])
def test_one_is_the_last_to_drain_although_there_is_another_that_could_not_serve(*, is_ill: bool) -> None:
    world = of("a", "b")
    if is_ill:
        world.fall_ill("b")
    else:
        world.silence(1250, "a")
    world.settle()
    refused(world, drain("a"), no.LastInstance)
    only(world.command(drain("a", force=True)), ev.InstanceDrainRequested)

"""Given what is paused, a group or a whole service is paused or resumed, and no group is left out."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.router.domain import refusals as no
from tests.router.domain.world import World, of, only, pause, refused, resume, types
from tests.sdk.kit import GROUP, SERVICE

# -- pause and resume ----------------------------------------------------------------------------------


def test_a_group_is_paused_and_resumed() -> None:
    world = of("a")
    event = only(world.command(pause(GROUP)), ev.GroupPaused)
    assert (event.scope, event.author, event.reason) == ("group", "alice", "r")
    assert (world.group().paused, world.group().paused_by) == (True, "alice: r")
    resumed = only(world.command(resume(GROUP)), ev.GroupResumed)
    assert (resumed.scope, resumed.author, world.group().paused) == ("group", "bob", False)


@pytest.mark.parametrize("group", [GROUP, None])
def test_a_pause_twice_is_the_first_one(group: str | None) -> None:
    world = of("a")
    world.command(pause(group))
    plan = world.desk().plan(pause(group))
    assert plan.is_so_already
    assert (plan.seq, plan.event) == (world.group().pause_seq, "group.paused.v1")


@pytest.mark.parametrize("group", [GROUP, None])
def test_what_is_not_paused_need_not_be_resumed(group: str | None) -> None:
    assert of("a").desk().plan(resume(group)).is_so_already


def test_a_resume_ends_quarantine_though_nothing_was_paused() -> None:
    world = of("a")
    world.joined("q", quarantined=True)
    only(world.command(resume(GROUP)), ev.GroupResumed)
    assert not world.group().instances["q"].quarantined


def two_groups() -> World:
    world = of("a")
    world.joined("z", group="g2", resources=["y"])
    return world


def test_a_whole_service_is_paused_and_resumed_group_by_group() -> None:
    world = two_groups()
    assert types(world.command(pause())) == [ev.GroupPaused] * 2
    assert world.state.topology.services[SERVICE].paused
    assert world.settle() == []
    assert types(world.command(resume())) == [ev.GroupResumed] * 2
    assert not world.state.topology.services[SERVICE].paused
    assert world.settle() == []


def test_a_group_that_is_made_while_its_service_is_paused_is_paused_before_anybody_is_admitted_to_it() -> (
    None
):
    world = of("a")
    world.command(pause())
    world.register("z", group="g2", resources=["y"])
    paused, admitted, *_ = world.settle()
    assert paused == ev.GroupPaused(scope="service", author="alice", reason="r", decided_by="r1")
    assert isinstance(admitted, ev.InstanceAdmitted)
    assert world.group("g2").paused


def test_a_group_that_was_resumed_alone_stays_so_when_another_is_made() -> None:
    world = of("a")
    world.command(pause())
    world.command(resume(GROUP))
    world.joined("z", group="g2", resources=["y"])
    assert (world.group().paused, world.group("g2").paused) == (False, True)
    assert world.group("g2").paused_by == "r1: the whole service is paused"


def test_a_pause_of_a_service_that_was_cut_off_half_way_is_completed() -> None:
    world = two_groups()
    world.append(world.desk().plan(pause()).decisions[0])
    only(world.settle(), ev.GroupPaused)
    assert world.group("g2").paused_by == "alice: r"
    world.append(world.desk().plan(resume()).decisions[0])
    only(world.settle(), ev.GroupResumed)
    assert not world.group("g2").paused


def test_pausing_a_service_whose_groups_are_all_paused_alone_still_pauses_the_service() -> None:
    world = of("a")
    world.command(pause(GROUP))
    only(world.command(pause()), ev.GroupPaused)
    assert world.state.topology.services[SERVICE].paused


def test_a_pause_of_one_group_outlives_a_pause_of_the_service_before() -> None:
    world = two_groups()
    world.command(pause())
    world.command(resume())
    world.command(pause(GROUP))
    assert world.settle() == []
    assert (world.group().paused, world.group("g2").paused) == (True, False)


def test_what_is_not_there_can_neither_be_paused_nor_resumed() -> None:
    world = of("a")
    for request in (pause(), resume()):
        refused(world, request.model_copy(update={"service": "none"}), no.UnknownService)
        refused(world, request.model_copy(update={"group": "none"}), no.UnknownGroup)

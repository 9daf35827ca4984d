"""Given how many calls of a group are open, it is congested, or relieved, and is told so once."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.rates import RATE_WINDOW_S, Rate
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.views import Congestion, GroupView
from aegisipc.router.domain.flow import (
    MAX_RETRY_MS,
    MIN_CONGESTED_MS,
    MIN_RETRY_MS,
    UNKNOWN_RETRY_MS,
    estimate_retry_ms,
    judge_flow,
    limit_of,
)
from tests.router.domain.traffic import OTHER, Traffic, joins
from tests.router.domain.world import ME, World, only, pause
from tests.sdk.kit import GROUP, NS, POOL, SERVICE

SECOND = 1_000_000_000


def limited(max_backlog: int, *more: int) -> tuple[World, Traffic]:
    """Instances with these limits, of which the first holds the pen."""
    world = World()
    for name, limit in zip("abc", (max_backlog, *more), strict=False):
        joins(world, name, limit)
    return world, Traffic(world)


def alive(world: World, milliseconds: int = MIN_CONGESTED_MS) -> None:
    """Time passes, and everybody lives."""
    names = [i.id for i in world.group().live()]
    for _ in range(-(-milliseconds // 250)):
        world.pulse(*names, after_ms=250)


# -- congested -----------------------------------------------------------------------------------------


def test_a_group_is_congested_when_it_has_as_many_open_calls_as_it_may_and_not_before() -> None:
    world, traffic = limited(10)
    traffic.call(9)
    assert world.settle() == []
    traffic.call(1)
    event = only(world.settle(), ev.GroupCongested)
    assert (event.open, event.limit, event.decided_by) == (10, 10, "r1")
    assert world.group().congestion == Congestion(10, 10, UNKNOWN_RETRY_MS, world.log.now_ns)


def test_it_is_told_once_however_many_more_calls_come() -> None:
    world, traffic = limited(10)
    traffic.call(10)
    world.settle()
    traffic.call(500)
    alive(world, 5000)
    assert world.settle() == []


def test_another_router_that_leads_later_does_not_tell_it_again() -> None:
    world, traffic = limited(10)
    traffic.call(15)
    world.settle()
    fresh = SystemState(NS).replay(world.log.records)
    view = fresh.topology.group(SERVICE, GROUP)
    assert view is not None
    assert judge_flow(view, fresh.open_calls(SERVICE, GROUP), 0.0, world.log.now_ns, OTHER) is None
    assert world.decide(OTHER) == []


def test_the_limit_is_that_of_the_most_careful_instance_that_lives() -> None:
    world, traffic = limited(100, 20, 50)
    assert limit_of(world.group()) == 20
    traffic.call(20)
    assert only(world.settle(), ev.GroupCongested).limit == 20
    world.leave("b")
    world.settle()
    assert limit_of(world.group()) == 50
    alive(world)
    only(world.settle(), ev.GroupRelieved)


@pytest.mark.parametrize(("said", "limit"), [(None, ev.DEFAULT_MAX_BACKLOG), (0, 1), (-5, 1), (1, 1)])
def test_a_group_without_instances_or_with_a_limit_that_cannot_be_has_a_limit_all_the_same(
    said: int | None, limit: int
) -> None:
    world = World()
    if said is not None:
        joins(world, "a", said)
        assert limit_of(world.group()) == limit
    assert limit_of(GroupView(SERVICE, "none")) == ev.DEFAULT_MAX_BACKLOG


def test_a_limit_of_one_is_left_when_nothing_is_open() -> None:
    world, traffic = limited(1)
    traffic.call(1)
    only(world.settle(), ev.GroupCongested)
    traffic.conclude(1)
    alive(world)
    only(world.settle(), ev.GroupRelieved)


def test_a_pool_is_congested_as_well() -> None:
    world = World()
    joins(world, "w1", 5, group=POOL)
    traffic = Traffic(world, POOL)
    traffic.call(5)
    assert only(world.settle(), ev.GroupCongested).limit == 5
    assert world.group(POOL).congestion is not None


def test_a_group_that_is_paused_fills_up_and_says_so() -> None:
    world, traffic = limited(5)
    world.command(pause(GROUP))
    traffic.call(5)
    only(world.settle(), ev.GroupCongested)


# -- relieved ------------------------------------------------------------------------------------------


def test_a_group_is_relieved_below_four_fifths_of_its_limit_and_not_before() -> None:
    world, traffic = limited(10)
    traffic.call(10)
    world.settle()
    traffic.conclude(2)
    alive(world, 1000)
    assert world.settle() == []
    traffic.conclude(1)
    event = only(world.settle(), ev.GroupRelieved)
    assert (event.open, event.decided_by) == (7, "r1")
    assert world.group().congestion is None


def test_it_stays_congested_for_a_moment_so_that_the_log_stays_small() -> None:
    world, traffic = limited(10)
    traffic.call(10)
    world.settle()
    traffic.conclude(10)
    assert world.settle() == []
    alive(world)
    only(world.settle(), ev.GroupRelieved)


def test_calls_that_fill_it_again_congest_it_again() -> None:
    world, traffic = limited(10)
    for _ in range(3):
        traffic.call(10)
        only(world.settle(), ev.GroupCongested)
        traffic.conclude(10)
        alive(world)
        only(world.settle(), ev.GroupRelieved)


@pytest.mark.parametrize("mark", [Mark.SUCCEEDED, Mark.FAILED, Mark.EXPIRED, Mark.DEAD_LETTERED])
def test_every_end_of_a_call_makes_room(mark: Mark) -> None:
    world, traffic = limited(10)
    traffic.call(10)
    world.settle()
    traffic.conclude(10, mark)
    alive(world)
    only(world.settle(), ev.GroupRelieved)
    assert world.state.open_calls(SERVICE, GROUP) == 0


# -- when to try again ---------------------------------------------------------------------------------


def test_what_was_concluded_lately_tells_when_to_try_again() -> None:
    world, traffic = limited(1000)
    for _ in range(5):
        traffic.call(100)
        alive(world, 1000)
        traffic.conclude(100)
    traffic.call(1000)
    event = only(world.settle(), ev.GroupCongested)
    assert 1600 <= event.retry_after_ms <= 2500  # 200 calls too many, of which 100 a second are concluded


@pytest.mark.parametrize(
    ("open_calls", "limit", "rate", "retry_after_ms"),
    [
        (100, 100, 1e9, MIN_RETRY_MS),
        (100_000, 100_000, 0.1, MAX_RETRY_MS),
        (100, 100, 20.0, 1000),
        (180, 100, 20.0, 5000),
        (100, 100, 0.0, UNKNOWN_RETRY_MS),
    ],
)
def test_the_pause_is_bounded(open_calls: int, limit: int, rate: float, retry_after_ms: int) -> None:
    world, _ = limited(limit)
    assert estimate_retry_ms(world.group(), open_calls, limit, rate) == retry_after_ms


def test_when_nobody_serves_the_group_the_pause_is_a_second_however_fast_it_was() -> None:
    world, traffic = limited(10)
    traffic.call(5)
    traffic.conclude(5)
    world.leave("a")
    world.settle()
    assert estimate_retry_ms(world.group(), 10, 10, 1000.0) == UNKNOWN_RETRY_MS


def test_a_rate_is_that_of_the_last_seconds_and_needs_no_more_memory() -> None:
    rate = Rate()
    assert rate.per_second(5 * SECOND) == 0.0
    for second in range(100):
        rate.note(50, second * SECOND)
        rate.note(50, second * SECOND + 1)
    assert len(rate._seconds) <= RATE_WINDOW_S + 1
    assert 90 <= rate.per_second(100 * SECOND) <= 110
    assert rate.per_second((100 + RATE_WINDOW_S) * SECOND) == 0.0


def test_a_rate_bears_a_clock_that_goes_back_and_counts_a_burst_over_one_second() -> None:
    rate = Rate()
    rate.note(10, 5 * SECOND)
    rate.note(10, 3 * SECOND)
    assert rate.per_second(5 * SECOND + 1) == 20.0
    assert rate.per_second(4 * SECOND) == 20.0
    assert rate.per_second(14 * SECOND) == 20 / 9


# -- beside the other rules ----------------------------------------------------------------------------


def test_what_is_due_about_instances_comes_first() -> None:
    world, traffic = limited(5)
    traffic.call(5)
    world.register("z")
    assert isinstance(only(world.decide(), ev.InstanceAdmitted), ev.InstanceAdmitted)
    assert sum(isinstance(event, ev.GroupCongested) for event in world.settle()) == 1


def test_a_decision_on_stale_belief_is_refused() -> None:
    world, traffic = limited(5)
    traffic.call(5)
    (mine,), (theirs,) = world.decide(ME), world.decide(OTHER)
    world.append(mine)
    with pytest.raises(WrongSequence):
        world.append(theirs)

"""Whose turn it is, case by case."""

from __future__ import annotations

from collections import Counter
from itertools import batched, pairwise

import pytest

from aegisipc.eventstore.frames import HIGH, LOW, NORMAL
from aegisipc.sdk.core.schedule import NEVER_NS, Schedule
from tests.sdk.schedule_kit import added, call, left_behind, one_by_one, taken


def test_a_resource_is_taken_by_one_call_after_another_in_the_order_in_which_they_were_added() -> None:
    schedule = Schedule(max_running=10)
    first, second, other = call("x"), call("x"), call("y")
    for each in (first, second, other):
        schedule.add(each)
    assert taken(schedule) == [first, other]
    assert (schedule.running, schedule.waiting) == (2, 1)
    schedule.free(first)
    assert taken(schedule) == [second]


def test_a_call_that_gives_its_slot_back_keeps_its_resource() -> None:
    schedule = Schedule(max_running=1)
    parked, behind, free = call("x"), call("x"), call()
    for each in (parked, behind, free):
        schedule.add(each)
    assert schedule.take() is parked
    schedule.vacate(parked)
    assert taken(schedule) == [free]
    assert not schedule.has_room(parked)
    schedule.free(free)
    assert schedule.has_room(parked)
    schedule.occupy(parked)
    schedule.free(parked)
    assert taken(schedule) == [behind]


def test_there_is_room_for_a_plain_function_only_with_a_thread() -> None:
    schedule = Schedule(max_running=5, threaded=["slow"], max_threaded=1)
    slow = call(method="slow")
    schedule.add(slow)
    assert taken(schedule) == [slow]
    assert not schedule.has_room(call(method="slow"))
    assert schedule.has_room(call())


def test_calls_without_a_resource_keep_no_queue() -> None:
    schedule = Schedule(max_running=10)
    for _ in range(3):
        schedule.add(call())
    for each in taken(schedule):
        schedule.free(each)
    assert not schedule._queues
    assert schedule.running == 0


def test_what_expires_is_returned_once_and_only_what_waits() -> None:
    schedule = Schedule(max_running=1)
    runs, late, later = call("x", deadline_ns=5), call("x", deadline_ns=5), call("x", deadline_ns=9)
    for each in (runs, late, later):
        schedule.add(each)
    assert schedule.take() is runs
    assert schedule.expire(4) == []
    assert schedule.expire(5) == [late]
    assert schedule.expire(5) == []
    assert schedule.next_deadline_ns == 9
    schedule.free(runs)
    assert schedule.take() is later


def test_when_the_one_whose_turn_it_was_expires_the_next_has_it() -> None:
    schedule = Schedule(max_running=1)
    runs, head, after = call(), call("x", deadline_ns=5), call("x")
    for each in (runs, head, after):
        schedule.add(each)
    assert schedule.take() is runs
    assert schedule.expire(5) == [head]
    schedule.free(runs)
    assert schedule.take() is after


def test_nothing_is_left_after_it_is_cleared() -> None:
    schedule = Schedule(max_running=2, threaded=["slow"])
    for each in (call("x"), call("x"), call(method="slow"), call()):
        schedule.add(each)
    schedule.take()
    schedule.clear()
    assert (schedule.running, schedule.waiting, schedule.next_deadline_ns) == (0, 0, NEVER_NS)
    assert schedule.take() is None
    fresh = call("x")
    schedule.add(fresh)
    assert schedule.take() is fresh


# -- calls that are taken out ---------------------------------------------------------------------------


def test_a_call_that_waits_is_removed_once_and_one_that_runs_or_is_not_known_never() -> None:
    schedule = Schedule(max_running=1)
    runs, waits = added(schedule, [call(), call()])
    assert schedule.take() is runs
    assert schedule.remove(runs.call_id) is None
    assert schedule.remove(call().call_id) is None
    assert schedule.remove(waits.call_id) is waits
    assert schedule.remove(waits.call_id) is None
    assert schedule.waiting == 0
    schedule.free(runs)
    assert schedule.take() is None


def test_when_the_one_whose_turn_it_was_is_removed_the_next_of_its_resource_has_it() -> None:
    schedule = Schedule(max_running=1)
    head, middle, after = added(schedule, [call("x"), call("x"), call("x")])
    assert schedule.remove(middle.call_id) is middle
    assert schedule.remove(head.call_id) is head
    assert taken(schedule) == [after]


def test_what_is_removed_behind_one_that_runs_is_passed_over() -> None:
    schedule = Schedule(max_running=5)
    runs, second, third = added(schedule, [call("x"), call("x"), call("x")])
    assert taken(schedule) == [runs]
    schedule.remove(second.call_id)
    schedule.free(runs)
    assert taken(schedule) == [third]
    schedule.free(third)
    assert left_behind(schedule)[1:] == (0, 0)


@pytest.mark.parametrize("resource", [None, "x"])
def test_a_call_that_was_removed_can_be_added_again_and_is_last_then(resource: str | None) -> None:
    schedule = Schedule(max_running=1)
    first, again, last = added(schedule, [call(resource), call(resource), call(resource)])
    schedule.remove(again.call_id)
    schedule.add(again)
    assert one_by_one(schedule) == [first, last, again]


@pytest.mark.parametrize("resource", [None, "x"])
def test_calls_that_are_removed_behind_a_stuck_one_do_not_pile_up(resource: str | None) -> None:
    schedule = Schedule(max_running=1)
    stuck, waits = added(schedule, [call(resource), call(resource)])
    assert schedule.take() is stuck
    for number in range(500):
        each = call(resource, client=f"c{number % 50}")
        schedule.add(each)
        assert schedule.remove(each.call_id) is each
        clients, resources, gone = left_behind(schedule)
        assert clients <= 2
        assert resources <= 1
        assert gone <= 1
    schedule.free(stuck)
    assert taken(schedule) == [waits]


def test_a_client_whose_calls_are_all_done_is_forgotten_but_for_the_last() -> None:
    schedule = Schedule(max_running=1)
    added(schedule, (call(client=f"c{number}") for number in range(100)))
    assert len(one_by_one(schedule)) == 100
    assert left_behind(schedule)[0] <= 1


def test_a_call_that_waits_for_its_next_attempt_holds_its_resource_and_no_slot() -> None:
    schedule = Schedule(max_running=1)
    retried, behind, other = added(schedule, [call("x"), call("x", priority=HIGH), call("y")])
    assert schedule.take() is retried
    schedule.vacate(retried)
    assert one_by_one(schedule) == [other]
    assert schedule.remove(retried.call_id) is None
    assert schedule.has_room(retried)
    schedule.occupy(retried)
    assert schedule.take() is None
    schedule.free(retried)
    assert taken(schedule) == [behind]


# -- who is next ----------------------------------------------------------------------------------------


def test_a_client_with_few_calls_does_not_wait_for_all_those_of_another() -> None:
    schedule = Schedule(max_running=1)
    added(schedule, (call(client="flood") for _ in range(1000)))
    few = added(schedule, (call(client="few") for _ in range(3)))
    order = one_by_one(schedule)
    assert [order.index(each) for each in few] == [1, 3, 5]


def test_clients_take_turns_and_the_calls_of_each_keep_their_order() -> None:
    schedule = Schedule(max_running=1)
    calls = added(schedule, (call(client=name) for name in "aaabbc"))
    order = one_by_one(schedule)
    assert [each.client for each in order] == list("abcaba")
    for name in "abc":
        assert [e for e in order if e.client == name] == [e for e in calls if e.client == name]


def test_what_is_removed_costs_its_client_no_turn() -> None:
    schedule = Schedule(max_running=1)
    calls = added(schedule, (call(client="a") for _ in range(5)))
    added(schedule, (call(client="b") for _ in range(5)))
    for each in (calls[0], calls[2], calls[3]):
        schedule.remove(each.call_id)
    assert [each.client for each in one_by_one(schedule)] == list("ababbbb")


def test_a_client_keeps_its_turn_when_its_call_is_removed_and_the_next_of_the_resource_is_its_own() -> None:
    schedule = Schedule(max_running=1)
    head, after = added(schedule, [call("x", client="a"), call("x", client="a")])
    (other,) = added(schedule, [call(client="b")])
    schedule.remove(head.call_id)
    assert one_by_one(schedule) == [after, other]


def test_priorities_get_their_shares_and_none_waits_for_long() -> None:
    schedule = Schedule(max_running=1)
    rounds = 20
    for priority in (LOW, NORMAL, HIGH):
        added(schedule, (call(priority=priority) for _ in range(rounds * 21)))
    order = [each.priority for each in one_by_one(schedule)[: rounds * 21]]
    assert Counter(order) == {HIGH: rounds * 16, NORMAL: rounds * 4, LOW: rounds}
    low = [at for at, priority in enumerate(order) if priority == LOW]
    assert all(after - before == 21 for before, after in pairwise(low))
    for part in batched(order, 21):
        assert Counter(part)[NORMAL] == 4


def test_a_call_of_high_priority_is_next_however_many_others_wait() -> None:
    schedule = Schedule(max_running=1)
    added(schedule, (call(priority=LOW) for _ in range(100)))
    for _ in range(10):
        schedule.free(schedule.take() or call())
    urgent = added(schedule, (call(priority=HIGH, client="other") for _ in range(5)))
    assert one_by_one(schedule)[:5] == urgent


def test_a_priority_without_calls_saves_nothing_up() -> None:
    schedule = Schedule(max_running=1)
    added(schedule, (call(priority=priority) for priority in [NORMAL] * 400 + [HIGH] * 1600))
    for _ in range(1000):
        schedule.free(schedule.take() or call())
    added(schedule, (call(priority=LOW) for _ in range(50)))
    next_ones = [each.priority for each in one_by_one(schedule)[:210]]
    assert next_ones.count(LOW) <= 11


def test_a_call_of_low_priority_is_not_held_up_by_what_low_ones_used_before() -> None:
    schedule = Schedule(max_running=1)
    added(schedule, (call(priority=LOW) for _ in range(1000)))
    one_by_one(schedule)
    added(schedule, (call(priority=HIGH) for _ in range(100)))
    late = call(priority=LOW)
    schedule.add(late)
    assert one_by_one(schedule).index(late) <= 16


def test_a_call_keeps_its_place_behind_those_of_its_resource_whatever_its_priority() -> None:
    schedule = Schedule(max_running=5)
    calls = [call("x", priority=priority, client=f"c{priority}") for priority in (LOW, HIGH, NORMAL, HIGH)]
    added(schedule, calls)
    assert one_by_one(schedule) == calls


def test_calls_that_need_a_thread_have_their_share_beside_those_that_do_not() -> None:
    schedule = Schedule(max_running=1, threaded=["slow"], max_threaded=1)
    added(schedule, (call() for _ in range(100)))
    added(schedule, (call(method="slow") for _ in range(10)))
    order = [each.method for each in one_by_one(schedule)]
    assert order[:20] == ["get", "slow"] * 10


def test_calls_that_waited_long_for_a_thread_do_not_then_hold_up_all_others() -> None:
    schedule = Schedule(max_running=2, threaded=["slow"], max_threaded=1)
    slow = added(schedule, (call(method="slow") for _ in range(50)))
    assert schedule.take() is slow[0]
    added(schedule, (call() for _ in range(1000)))
    for _ in range(500):
        schedule.free(schedule.take() or call())
    schedule.free(slow[0])
    order = [each.method for each in one_by_one(schedule)[:20]]
    assert 8 <= order.count("get") <= 12

"""Whose turn it is: held to a model that looks at everything each time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.ids import CallIds
from aegisipc.sdk.core.schedule import NEVER_NS, Schedule

_ids = CallIds(1)


def call(resource: str | None = None, method: str = "get", deadline_ns: int = 1000) -> OpenCall:
    return OpenCall(_ids.next(1), "c1", method, resource, 1, deadline_ns, b"")


def taken(schedule: Schedule) -> list[OpenCall]:
    found = []
    while (each := schedule.take()) is not None:
        found.append(each)
    return found


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


class Model:
    """The same, slowly: every question is answered by looking at all calls."""

    def __init__(self, max_running: int) -> None:
        self.max_running = max_running
        self.waiting: list[OpenCall] = []
        self.running: list[OpenCall] = []

    def may_start(self, wanted: OpenCall) -> bool:
        busy = {each.resource for each in self.running} - {None}
        before = self.waiting[: self.waiting.index(wanted)]
        is_first = wanted.resource is None or all(each.resource != wanted.resource for each in before)
        threads = sum(each.method == "slow" for each in self.running)
        return wanted.resource not in busy and is_first and (wanted.method != "slow" or threads < 1)

    def could_start(self) -> list[OpenCall]:
        if len(self.running) >= self.max_running:
            return []
        return [each for each in self.waiting if self.may_start(each)]


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from([None, "x", "x", "y"]),
            st.sampled_from(["get", "get", "slow"]),
            st.integers(1, 30),
        ),
        st.tuples(st.just("free"), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.integers(1, 5)),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(max_running=st.integers(1, 3), steps=STEPS)
def test_it_starts_what_may_start_and_nothing_else(max_running: int, steps: list[tuple[object, ...]]) -> None:
    schedule, model, now = Schedule(max_running=max_running, threaded=["slow"]), Model(max_running), 0
    for what, *details in steps:
        if what == "add":
            resource, method, lasts = details
            added = OpenCall(_ids.next(1), "c", str(method), resource, 1, now + int(str(lasts)), b"")  # type: ignore[arg-type]
            schedule.add(added)
            model.waiting.append(added)
        elif what == "free" and model.running:
            done = model.running.pop(int(str(details[0])) % len(model.running))
            schedule.free(done)
        elif what == "pass":
            now += int(str(details[0]))
            expired = [each for each in model.waiting if each.deadline_ns <= now]
            assert sorted(schedule.expire(now), key=id) == sorted(expired, key=id)
            model.waiting = [each for each in model.waiting if each not in expired]
        while (started := schedule.take()) is not None:
            assert started in model.could_start()
            model.waiting.remove(started)
            model.running.append(started)
        assert model.could_start() == []
        assert (schedule.running, schedule.waiting) == (len(model.running), len(model.waiting))

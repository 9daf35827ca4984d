"""Whose turn it is, whatever happens: held to a model that looks at everything each time."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.frames import HIGH, LOW, NORMAL
from aegisipc.sdk.core.fair import COSTS
from aegisipc.sdk.core.schedule import NEVER_NS, Schedule
from tests.sdk.schedule_kit import call, left_behind

Line = tuple[int, bool]
"""Priority, and whether a thread is needed."""


def line_of(call: OpenCall) -> Line:
    return call.priority, call.method == "slow"


MOST_BEFORE = {
    priority: sum(2 * (-(-cost // other) + 1) for other in COSTS) for priority, cost in enumerate(COSTS)
}
"""How many calls may be taken from other lines before it is a line's turn, at most."""


class Watch:
    """What was unfair about the takes so far: nothing may be."""

    def __init__(self) -> None:
        self.passed_over: Counter[Line] = Counter()
        self.overtaken: dict[tuple[Line, str], set[str]] = defaultdict(set)
        self.since: dict[bytes, int] = {}
        """Of calls whose turn it is: since which step."""

    def on_step(self, step: int, ready: list[OpenCall]) -> None:
        now = {each.call_id for each in ready}
        self.since = {call_id: at for call_id, at in self.since.items() if call_id in now}
        for call_id in now:
            self.since.setdefault(call_id, step)
        lines = {line_of(each) for each in ready}
        clients = {(line_of(each), each.client) for each in ready}
        self.passed_over = Counter({line: n for line, n in self.passed_over.items() if line in lines})
        for key in self.overtaken.keys() - clients:
            del self.overtaken[key]

    def on_take(self, taken: OpenCall, ready: list[OpenCall], *, had_thread: bool) -> None:
        line = line_of(taken)
        same_line = [each for each in ready if line_of(each) == line]
        own = [self.since[each.call_id] for each in same_line if each.client == taken.client]
        assert self.since[taken.call_id] == min(own), "overtook a call of its own client"
        for other in {each.client for each in same_line} - {taken.client}:
            assert taken.client not in self.overtaken[line, other], "a client had two turns, another none"
            self.overtaken[line, other].add(taken.client)
        self.overtaken.pop((line, taken.client), None)
        for waits in {line_of(each) for each in ready} - {line}:
            self.passed_over[waits] += had_thread or not waits[1]
            assert self.passed_over[waits] <= MOST_BEFORE[waits[0]], "a line starves"
        self.passed_over.pop(line, None)


class Schedules(RuleBasedStateMachine):
    """A schedule, and the same slowly: every question is answered by looking at all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.step = 0
        self.waiting: list[OpenCall] = []
        self.running: list[OpenCall] = []
        self.parked: list[OpenCall] = []
        self.watch = Watch()
        self.removed: list[OpenCall] = []
        self.most_waiting = 0

    @initialize(max_running=st.integers(1, 4), max_threaded=st.integers(1, 2))
    def begin(self, max_running: int, max_threaded: int) -> None:
        self.max_running, self.max_threaded = max_running, max_threaded
        self.schedule = Schedule(max_running=max_running, threaded=["slow"], max_threaded=max_threaded)

    # -- the model --------------------------------------------------------------------------------------

    def ready(self) -> list[OpenCall]:
        """Those whose turn it is."""
        seen = {each.resource for each in (*self.running, *self.parked)} - {None}
        found = []
        for each in self.waiting:
            if each.resource not in seen:
                found.append(each)
            if each.resource is not None:
                seen.add(each.resource)
        return found

    def has_thread(self) -> bool:
        return sum(each.method == "slow" for each in self.running) < self.max_threaded

    def could_start(self) -> list[OpenCall]:
        if len(self.running) >= self.max_running:
            return []
        return [each for each in self.ready() if each.method != "slow" or self.has_thread()]

    def took(self, taken: OpenCall) -> None:
        assert taken in self.could_start()
        self.watch.on_take(taken, self.ready(), had_thread=self.has_thread())
        self.waiting.remove(taken)
        self.running.append(taken)
        self.looked()

    def looked(self) -> None:
        self.step += 1
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        self.watch.on_step(self.step, self.ready())

    # -- what happens -----------------------------------------------------------------------------------

    @rule(
        client=st.sampled_from("aab"),
        priority=st.sampled_from([LOW, NORMAL, NORMAL, HIGH]),
        resource=st.sampled_from([None, None, "x", "y"]),
        method=st.sampled_from(["get", "get", "slow"]),
        lasts=st.integers(1, 60),
        count=st.integers(1, 8),
    )
    def add(
        self, client: str, priority: int, resource: str | None, method: str, lasts: int, count: int
    ) -> None:
        for _ in range(count):
            each = call(resource, method, self.now + lasts, client=client, priority=priority)
            self.schedule.add(each)
            self.waiting.append(each)
            self.looked()

    @rule(count=st.integers(1, 30))
    def take_and_free(self, count: int) -> None:
        """A while of ordinary work."""
        for _ in range(count):
            each = self.schedule.take()
            if each is not None:
                self.took(each)
            elif self.running:
                self.schedule.free(self.running.pop(0))
                self.looked()

    @rule()
    def take_all(self) -> None:
        while (each := self.schedule.take()) is not None:
            self.took(each)
        assert self.could_start() == []

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        done = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.schedule.free(done)
        self.looked()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        """It waits for its next attempt."""
        each = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.schedule.vacate(each)
        self.parked.append(each)

    @precondition(lambda self: self.parked)
    @rule(gives_up=st.booleans())
    def unpark(self, gives_up: bool) -> None:
        each = self.parked[0]
        if gives_up:
            self.schedule.release(self.parked.pop(0).resource)
            self.looked()
        elif self.schedule.has_room(each):
            self.schedule.occupy(self.parked.pop(0))
            self.running.append(each)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), count=st.integers(1, 6))
    def remove(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.waiting))):
            each = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
            assert self.schedule.remove(each.call_id) is each
            self.removed.append(each)
            self.looked()

    @precondition(lambda self: self.removed)
    @rule(data=st.data())
    def add_again(self, data: st.DataObject) -> None:
        each = self.removed.pop(data.draw(st.integers(0, len(self.removed) - 1)))
        self.schedule.add(each)
        self.waiting.append(each)
        self.looked()

    @rule(more=st.integers(1, 30))
    def time_passes(self, more: int) -> None:
        self.now += more
        expired = [each for each in self.waiting if each.deadline_ns <= self.now]
        assert sorted(self.schedule.expire(self.now), key=id) == sorted(expired, key=id)
        self.waiting = [each for each in self.waiting if each not in expired]
        self.looked()

    @precondition(lambda self: self.running or self.parked)
    @rule(data=st.data())
    def what_does_not_wait_is_not_removed(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from([*self.running, *self.parked]))
        assert self.schedule.remove(each.call_id) is None

    # -- what always holds ------------------------------------------------------------------------------

    @invariant()
    def it_counts_right(self) -> None:
        assert (self.schedule.running, self.schedule.waiting) == (len(self.running), len(self.waiting))
        earliest = min((each.deadline_ns for each in self.waiting), default=NEVER_NS)
        assert self.schedule.next_deadline_ns <= earliest

    @invariant()
    def it_keeps_no_more_than_it_needs(self) -> None:
        clients, resources, gone = left_behind(self.schedule)
        ready = {(line_of(each), each.client) for each in self.ready()}
        assert len(ready) <= clients <= len(ready) + 1
        held = {each.resource for each in (*self.waiting, *self.running, *self.parked)} - {None}
        assert resources == len(held)
        assert gone <= self.most_waiting

    def teardown(self) -> None:
        """In the end everything is taken that was not taken out."""
        if not hasattr(self, "schedule"):
            return
        for each in self.parked:
            self.schedule.release(each.resource)
        self.parked = []
        self.looked()
        while self.waiting or self.running:
            before = len(self.waiting), len(self.running)
            self.take_all()
            if self.running:
                self.schedule.free(self.running.pop(0))
                self.looked()
            assert before != (len(self.waiting), len(self.running))
        clients, resources, gone = left_behind(self.schedule)
        assert clients <= 1
        assert (resources, gone, self.schedule.take()) == (0, 0, None)


Schedules.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSchedules = Schedules.TestCase

"""The decisions of a relay: order within a lane, lanes on their own, nothing sent late, nothing guessed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    InvalidName,
    LimitExceeded,
    LogFull,
    NoResponders,
    NotConnected,
    NotEncodable,
    Overloaded,
    PayloadTooLarge,
)
from aegisipc.sdk.core.outbox import (
    Backoff,
    Expire,
    FindOut,
    Header,
    LaneKey,
    Now,
    Plan,
    Send,
    Step,
    Verdict,
    verdict_of,
)
from aegisipc.sdk.errors import CallTimeout, InvalidArguments, NoRoute, ServiceDefinitionError

A: LaneKey = ("orders", "a")
B: LaneKey = ("orders", "b")
BACKOFF = Backoff(first_ns=100, most_ns=400)


def header(
    entry_id: int, lane: LaneKey = A, *, expires_ns: int | None = None, uncertain: bool = False, size: int = 1
) -> Header:
    return Header(entry_id, lane, size, expires_ns, uncertain)


def at(ns: int) -> Now:
    return Now(ns, ns)


def plan_of(*headers: Header, **options: Any) -> Plan:
    plan = Plan(backoff=BACKOFF, **options)
    plan.add(headers)
    return plan


def sent(steps: list[Step]) -> dict[LaneKey, tuple[int, ...]]:
    return {step.lane: step.entry_ids for step in steps if isinstance(step, Send)}


# -- cases -------------------------------------------------------------------------------------------------


def test_lanes_are_handed_out_each_in_order_and_only_once() -> None:
    plan = plan_of(header(1), header(2, B), header(3))
    assert sent(plan.steps(at(0))) == {A: (1, 3), B: (2,)}
    assert plan.steps(at(0)) == []
    plan.add([header(4)])
    assert plan.steps(at(0)) == []  # behind the two that are out
    plan.done(1)
    plan.done(3)
    assert sent(plan.steps(at(0))) == {A: (4,)}


def test_a_blocked_entry_holds_its_own_lane_only() -> None:
    plan = plan_of(header(1), header(2), header(3, B))
    plan.steps(at(0))
    assert plan.blocked(1, is_uncertain=False, steady_ns=0, spread=1.0) == 1
    plan.done(3)
    plan.add([header(4, B), header(5)])
    assert sent(plan.steps(at(0))) == {B: (4,)}
    assert plan.rest_ns(at(0)) == 100
    assert sent(plan.steps(at(99))) == {}
    assert sent(plan.steps(at(100))) == {A: (1,)}  # it shows whether the others can go
    plan.done(1)
    assert sent(plan.steps(at(100))) == {A: (2, 5)}


def test_a_lane_sleeps_longer_each_time_and_forgets_that_when_something_went() -> None:
    plan = plan_of(header(1), header(2))
    now = 0
    for delay in (100, 200, 400, 400):
        assert sent(plan.steps(at(now)))
        plan.blocked(1, is_uncertain=False, steady_ns=now, spread=1.0)
        assert plan.rest_ns(at(now)) == delay
        now += delay
    plan.steps(at(now))
    plan.done(1)
    assert plan.blocked(2, is_uncertain=False, steady_ns=now, spread=1.0) == 1


def test_the_delay_is_between_a_half_and_the_whole() -> None:
    assert BACKOFF.delay_ns(1, 0.0) == 50
    assert BACKOFF.delay_ns(1, 1.0) == 100
    assert BACKOFF.delay_ns(10_000, 1.0) == 400


def test_what_is_late_is_given_up_wherever_it_stands() -> None:
    plan = plan_of(header(1), header(2, expires_ns=50), header(3))
    plan.steps(at(0))
    plan.blocked(1, is_uncertain=False, steady_ns=0, spread=1.0)
    assert plan.rest_ns(at(0)) == 50
    assert plan.steps(at(50)) == [Expire(2)]
    assert sent(plan.steps(at(100))) == {A: (1,)}
    plan.done(1)
    assert sent(plan.steps(at(100))) == {A: (3,)}


def test_what_ran_out_of_time_while_it_was_out_is_given_up_when_it_comes_back() -> None:
    plan = plan_of(header(1), header(2, expires_ns=50))
    plan.steps(at(0))
    assert plan.steps(at(60)) == []
    plan.done(1)
    plan.returned(A)
    assert plan.steps(at(60)) == [Expire(2)]
    assert len(plan) == 0


def test_what_ran_out_of_time_while_it_was_out_is_given_up_though_the_one_before_it_is_blocked() -> None:
    plan = plan_of(header(1), header(2, expires_ns=50))
    plan.steps(at(0))
    assert plan.steps(at(60)) == []
    plan.blocked(1, is_uncertain=False, steady_ns=60, spread=1.0)
    assert plan.rest_ns(at(60)) == 0
    assert plan.steps(at(60)) == [Expire(2)]
    assert plan.rest_ns(at(60)) == 100


def test_what_may_have_been_sent_is_never_given_up_but_looked_up() -> None:
    plan = plan_of(header(1, expires_ns=50, uncertain=True), header(2))
    assert plan.steps(at(60)) == [FindOut(1)]
    plan.blocked(1, is_uncertain=True, steady_ns=60, spread=1.0)
    assert plan.steps(at(60)) == []
    assert plan.steps(at(160)) == [FindOut(1)]
    plan.done(1)
    assert sent(plan.steps(at(160))) == {A: (2,)}


def test_an_entry_that_became_uncertain_stays_so() -> None:
    plan = plan_of(header(1, expires_ns=150))
    plan.steps(at(0))
    plan.blocked(1, is_uncertain=True, steady_ns=0, spread=1.0)
    plan.steps(at(100))
    plan.blocked(1, is_uncertain=False, steady_ns=100, spread=1.0)
    assert plan.steps(at(400)) == [FindOut(1)]


def test_a_run_is_bounded_in_entries_and_bytes_but_never_empty() -> None:
    plan = plan_of(*(header(number, size=10) for number in range(1, 6)), max_run_bytes=25)
    assert sent(plan.steps(at(0))) == {A: (1, 2)}
    plan = plan_of(header(1, size=1000), header(2), max_run_bytes=25)
    assert sent(plan.steps(at(0))) == {A: (1,)}
    plan = plan_of(*(header(number) for number in range(1, 6)), max_run=3)
    assert sent(plan.steps(at(0))) == {A: (1, 2, 3)}


def test_so_many_lanes_at_once_and_the_oldest_first() -> None:
    plan = plan_of(header(1, B), header(2, A), header(3, ("x", None)), max_lanes=2)
    assert sent(plan.steps(at(0))) == {B: (1,), A: (2,)}
    plan.done(1)
    assert sent(plan.steps(at(0))) == {("x", None): (3,)}


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (InvalidName(""), Verdict.REFUSED),
        (PayloadTooLarge(""), Verdict.REFUSED),
        (NotEncodable(""), Verdict.REFUSED),
        (LimitExceeded(""), Verdict.REFUSED),
        (ServiceDefinitionError(""), Verdict.REFUSED),
        (InvalidArguments(""), Verdict.REFUSED),
        (NoRoute(""), Verdict.NOT_NOW),
        (NotConnected(""), Verdict.NOT_NOW),
        (NoResponders(""), Verdict.NOT_NOW),
        (Overloaded(""), Verdict.NOT_NOW),
        (LogFull(""), Verdict.NOT_NOW),
        (CallTimeout(""), Verdict.UNKNOWN),
        (AckUnknown(""), Verdict.UNKNOWN),
        (AegisError(""), Verdict.UNKNOWN),
        (RuntimeError(""), Verdict.UNKNOWN),
    ],
)
def test_verdicts(error: Exception, verdict: Verdict) -> None:
    assert verdict_of(error) is verdict


# -- any course of events ----------------------------------------------------------------------------------


class Relaying(RuleBasedStateMachine):
    """Whatever comes of sending, in whatever order: the rules hold, and all that can go goes in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = Plan(backoff=BACKOFF, max_run=3, max_lanes=3)
        self.now = 0
        self.wall = 0
        self.headers: dict[int, Header] = {}
        self.ended: list[int] = []
        self.maybe_sent: set[int] = set()
        self.out: dict[LaneKey, list[int]] = {}
        self.looking: set[int] = set()

    @rule(
        resource=st.sampled_from(["a", "b", "c", None]),
        expires_in=st.none() | st.integers(1, 300),
        uncertain=st.booleans(),
    )
    def add(self, resource: str | None, expires_in: int | None, uncertain: bool) -> None:
        number = len(self.headers) + 1
        expires_ns = None if expires_in is None else self.wall + expires_in
        self.headers[number] = header(number, ("s", resource), expires_ns=expires_ns, uncertain=uncertain)
        if uncertain:
            self.maybe_sent.add(number)
        self.plan.add([self.headers[number]])

    @rule(passed=st.integers(1, 200))
    def wait(self, passed: int) -> None:
        self.now += passed
        self.wall += passed

    @rule(wall=st.integers(0, 1000))
    def set_the_clock(self, wall: int) -> None:
        self.wall = wall

    @rule()
    def step(self) -> None:
        for step in self.plan.steps(Now(self.now, self.wall)):
            if isinstance(step, Expire):
                assert step.entry_id not in self.maybe_sent
                assert self.headers[step.entry_id].is_late(self.wall)
                self.end(step.entry_id)
                continue
            ids = list(step.entry_ids) if isinstance(step, Send) else [step.entry_id]
            lane = self.headers[ids[0]].lane
            assert ids
            assert not self.out.get(lane)
            waiting = [number for number, one in self.headers.items() if one.lane == lane]
            waiting = [number for number in waiting if number not in self.ended]
            assert ids == waiting[: len(ids)]  # the first of its lane, without a gap
            if isinstance(step, FindOut):
                assert step.entry_id in self.maybe_sent
                assert self.headers[step.entry_id].is_late(self.wall)
                self.looking.add(step.entry_id)
            else:
                assert not any(self.headers[number].is_late(self.wall) for number in ids)
                assert step.fresh == set(ids) - self.maybe_sent
            self.out[lane] = ids
        busy = {number for ids in self.out.values() for number in ids}
        for number, one in self.headers.items():  # nothing that is certainly unsent stays for too long
            if number not in busy | self.maybe_sent | set(self.ended):
                assert not one.is_late(self.wall)

    def lanes_out(self) -> list[LaneKey]:
        return [lane for lane, ids in self.out.items() if ids]

    @precondition(lambda self: self.lanes_out())
    @rule(data=st.data(), how=st.sampled_from(["done", "blocked", "unknown", "returned"]))
    def outcome(self, data: st.DataObject, how: str) -> None:
        lane = data.draw(st.sampled_from(self.lanes_out()))
        first = self.out[lane][0]
        if how == "done":
            self.out[lane].pop(0)
            self.plan.done(first)
            self.end(first)
        elif how == "returned" and first not in self.looking:
            self.out[lane].clear()
            self.plan.returned(lane)
        else:
            uncertain = how == "unknown" or first in self.maybe_sent
            if uncertain:
                self.maybe_sent.add(first)
            self.out[lane].clear()
            self.plan.blocked(first, is_uncertain=uncertain, steady_ns=self.now, spread=0.5)
        self.looking.discard(first)

    def end(self, number: int) -> None:
        assert number not in self.ended
        self.ended.append(number)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.plan) == len(self.headers) - len(self.ended)

    @invariant()
    def few_lanes_are_out(self) -> None:
        assert len(self.lanes_out()) <= 3

    def teardown(self) -> None:
        """From here on everything is accepted: all of it ends, within the time that the plan says."""
        for _ in range(10 * len(self.headers) + 10):
            for lane in self.lanes_out():
                for number in self.out.pop(lane):
                    self.plan.done(number)
                    self.end(number)
            self.looking.clear()
            rest_ns = self.plan.rest_ns(Now(self.now, self.wall))
            if rest_ns is None:
                break
            self.wait(rest_ns)
            self.step()
        assert len(self.plan) == 0
        assert sorted(self.ended) == sorted(self.headers)


Relaying.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestRelaying = Relaying.TestCase

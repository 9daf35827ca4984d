"""Whatever comes and ends, and whoever decides: a group is told once that it is congested or relieved."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.views import GroupView
from aegisipc.router.domain.decide import Decision, RouterIdentity
from aegisipc.router.domain.flow import MAX_RETRY_MS, MIN_CONGESTED_MS, MIN_RETRY_MS, limit_of
from tests.router.domain.traffic import OTHER, Traffic, joins
from tests.router.domain.world import ME, World
from tests.sdk.kit import GROUP, NS, SERVICE, ms


class Flows(RuleBasedStateMachine):
    """Calls come and end, instances with different limits come and go; two routers decide, now or late."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.traffic = Traffic(self.world)
        self.kept: list[Decision] = []
        self.incarnations = dict.fromkeys("abc", 0)

    @initialize(limit=st.integers(1, 30))
    def one_serves(self, limit: int) -> None:
        self.starts("a", limit)

    def group(self) -> GroupView:
        return self.world.group()

    def lives(self, name: str) -> bool:
        found = self.group().instances.get(name)
        return found is not None and found.is_live

    @rule(name=st.sampled_from("abc"), limit=st.integers(1, 30))
    def starts(self, name: str, limit: int) -> None:
        self.incarnations[name] += 1
        joins(self.world, name, limit, incarnation=str(self.incarnations[name]))

    @rule(name=st.sampled_from("abc"))
    def leaves(self, name: str) -> None:
        if self.lives(name):
            self.world.leave(name, str(self.incarnations[name]))

    @rule(count=st.integers(1, 40))
    def clients_call(self, count: int) -> None:
        self.traffic.call(count)

    @precondition(lambda self: self.traffic.open and self.group().holder is not None)
    @rule(count=st.integers(1, 40), mark=st.sampled_from([Mark.SUCCEEDED, Mark.EXPIRED, Mark.DEAD_LETTERED]))
    def calls_end(self, count: int, mark: Mark) -> None:
        self.traffic.conclude(count, mark)

    @rule(milliseconds=st.sampled_from([50, 250, 4000]))
    def time_passes(self, milliseconds: int) -> None:
        for name in "abc":
            if self.lives(name):
                self.world.pulse(name, incarnation=str(self.incarnations[name]))
        self.world.pulse(after_ms=milliseconds)
        for name in "abc":
            if self.lives(name):
                self.world.pulse(name, incarnation=str(self.incarnations[name]))

    # -- what routers do --------------------------------------------------------------------------------

    def append(self, decision: Decision) -> None:
        self.check(decision)
        self.world.append(decision)
        self.world._answer(decision)

    def check(self, decision: Decision) -> None:
        event, group = decision.event, self.group()
        if isinstance(event, ev.GroupCongested):
            assert group.congestion is None
            assert event.open == len(self.traffic.open) >= event.limit >= 1
            assert MIN_RETRY_MS <= event.retry_after_ms <= MAX_RETRY_MS
        elif isinstance(event, ev.GroupRelieved):
            assert group.congestion is not None
            assert event.open == len(self.traffic.open) < 0.8 * limit_of(group)

    @rule(me=st.sampled_from([ME, OTHER]))
    def decides(self, me: RouterIdentity) -> None:
        for decision in self.world.decide(me):
            self.append(decision)

    @rule(me=st.sampled_from([ME, OTHER]))
    def decides_and_is_frozen_before_it_appends(self, me: RouterIdentity) -> None:
        self.kept = self.world.decide(me)

    @precondition(lambda self: self.kept)
    @rule()
    def thaws(self) -> None:
        for decision in self.kept:
            try:
                self.world.append(decision)
            except WrongSequence:
                continue
            self.world._answer(decision)
        self.kept = []

    @rule()
    def settles(self) -> None:
        self.world.settle()
        group, count = self.group(), len(self.traffic.open)
        if group.congestion is None:
            assert count < limit_of(group)
        elif self.world.log.now_ns - group.congestion.since_ns >= ms(MIN_CONGESTED_MS):
            assert count >= 0.8 * limit_of(group)

    # -- what always holds ------------------------------------------------------------------------------

    @invariant()
    def what_is_told_changes_each_time(self) -> None:
        told = [
            type(event)
            for record in self.world.log.records
            if record.subject == NS.watch(SERVICE, GROUP)
            and isinstance(event := ev.decode_event(record.payload), ev.GroupCongested | ev.GroupRelieved)
        ]
        assert all(before is not after for before, after in itertools.pairwise(told))
        assert told[:1] in ([], [ev.GroupCongested])

    @invariant()
    def routers_decide_alike(self) -> None:
        mine, theirs = (
            [d.event.model_dump(exclude={"decided_by"}) for d in self.world.decide(me)] for me in (ME, OTHER)
        )
        assert mine == theirs
        assert self.world.state.open_calls(SERVICE, GROUP) == len(self.traffic.open)

    def teardown(self) -> None:
        """In the end nothing is open, and nobody is held back."""
        if self.group().holder is None:
            self.starts("a", 10)
        self.world.settle()
        while self.traffic.open:
            self.traffic.conclude(1000)
        self.time_passes(250)
        self.world.settle()
        assert self.group().congestion is None
        assert SystemState(NS).replay(self.world.log.records).to_plain() == self.world.state.to_plain()


Flows.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFlows = Flows.TestCase

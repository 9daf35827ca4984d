"""Whatever instances, operators and connections do, and in whatever order: what the router decides keeps to
its rules.
"""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.topology import GroupView, InstanceView
from aegisipc.router.domain.decide import Decision
from aegisipc.router.domain.refusals import CommandRefused
from aegisipc.router.domain.requests import Drain, Pause, Request, Resume
from tests.router.domain.world import World, promote, types
from tests.sdk.kit import GROUP, NS, SERVICE

NAMES = ("a", "b", "c")
name = st.sampled_from(NAMES)


class Histories(RuleBasedStateMachine):
    """One group of up to three instances. They do as they like; decisions are appended when they are made, or
    late, when they are stale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.incarnations = dict.fromkeys(NAMES, 0)
        self.kept: list[Decision] = []
        self.epochs = [0]

    # -- helpers ----------------------------------------------------------------------------------------

    def group(self) -> GroupView | None:
        return self.world.state.topology.group(SERVICE, GROUP)

    def live(self, name: str) -> InstanceView | None:
        group = self.group()
        found = group.instances.get(name) if group is not None else None
        return found if found is not None and found.is_live else None

    def check(self, decision: Decision) -> None:
        """A promotion is of an instance that can take the pen, and its epoch is the next one."""
        event, group = decision.event, self.group()
        if not isinstance(event, ev.GroupPromoted):
            return
        assert group is not None
        heir = group.instances[event.holder]
        assert heir.incarnation == event.incarnation
        assert heir.is_eligible
        assert event.epoch == group.epoch + 1

    def append(self, decision: Decision) -> None:
        self.check(decision)
        self.world.append(decision)
        self.world._answer(decision)

    def then(self, settles: bool) -> None:
        if settles:
            self.world.settle()

    # -- what instances do ------------------------------------------------------------------------------

    @initialize()
    def two_of_them_serve(self) -> None:
        for each in ("a", "b"):
            self.starts(each, quarantined=False)
            self.world.pulse(each)
        self.world.settle()

    @rule(name=name, quarantined=st.booleans())
    def starts(self, name: str, quarantined: bool) -> None:
        self.incarnations[name] += 1
        self.world.connect(name)
        self.world.register(name, str(self.incarnations[name]), quarantined=quarantined)

    @rule(name=name, word=st.sampled_from(["leave", "drain", "fall_ill", "get_well"]), settles=st.booleans())
    def says(self, name: str, word: str, settles: bool) -> None:
        if (instance := self.live(name)) is not None:
            getattr(self.world, word)(name, incarnation=instance.incarnation)
            self.then(settles)

    @rule(settles=st.booleans())
    def the_holder_yields(self, settles: bool) -> None:
        group = self.group()
        if group is not None and group.holder is not None and self.live(group.holder) is not None:
            self.world.yields(group.holder, group.holder_incarnation or "")
            self.then(settles)

    @rule(quiet=name, milliseconds=st.sampled_from([250, 1250, 4000, 31_000]), settles=st.booleans())
    def time_passes(self, quiet: str, milliseconds: int, settles: bool) -> None:
        for _ in range(milliseconds // 250):
            self.world.pulse(after_ms=250)
            for each in NAMES:
                if each != quiet and self.live(each) is not None:
                    self.world.pulse(each, incarnation=str(self.incarnations[each]))
        self.then(settles)

    @rule(name=name, settles=st.booleans())
    def loses_its_connection(self, name: str, settles: bool) -> None:
        if name in self.world._connections:
            self.world.disconnect(name)
            self.then(settles)

    @rule(name=name)
    def connects_again(self, name: str) -> None:
        self.world.connect(name)

    # -- what operators want ----------------------------------------------------------------------------

    def command(self, request: Request) -> None:
        with contextlib.suppress(CommandRefused):
            for decision in self.world.desk().plan(request).decisions:
                self.append(decision)

    @rule(name=name, settles=st.booleans())
    def promote(self, name: str, settles: bool) -> None:
        self.command(promote(name))
        self.then(settles)

    @rule(settles=st.booleans())
    def promote_a_standby(self, settles: bool) -> None:
        group = self.group()
        standbys = [i.id for i in group.ready() if i.id != group.holder] if group is not None else []
        if standbys:
            self.promote(standbys[0], settles)

    @rule(name=name, force=st.booleans())
    def drain(self, name: str, force: bool) -> None:
        self.command(Drain(instance=name, force=force, author="alice"))

    @rule(whole=st.booleans(), resume=st.booleans())
    def pause(self, whole: bool, resume: bool) -> None:
        cls = Resume if resume else Pause
        self.command(cls(service=SERVICE, group=None if whole else GROUP, author="alice"))

    # -- what routers do --------------------------------------------------------------------------------

    @rule()
    def decides(self) -> None:
        for decision in self.world.decide():
            self.append(decision)

    @rule()
    def decides_and_is_frozen_before_it_appends(self) -> None:
        self.kept = self.world.decide()

    @precondition(lambda self: self.kept)
    @rule()
    def thaws(self) -> None:
        for decision in self.kept:
            stale = self.world.log.last_seq(decision.subject) != decision.expected_seq
            try:
                self.world.append(decision)
            except WrongSequence:
                assert stale
            else:
                assert not stale
                self.world._answer(decision)
        self.kept = []

    @rule()
    def settles(self) -> None:
        self.world.settle()

    # -- what always holds ------------------------------------------------------------------------------

    @invariant()
    def epochs_only_rise(self) -> None:
        group = self.group()
        if group is not None:
            assert group.epoch >= self.epochs[-1]
            self.epochs.append(group.epoch)
        assert "epoch did not rise" not in self.world.state.topology.anomalies

    @invariant()
    def there_is_one_decision_per_subject(self) -> None:
        decisions = self.world.decide()
        subjects = [decision.subject for decision in decisions]
        assert len(set(subjects)) == len(subjects), types(decisions)
        for decision in decisions:
            self.check(decision)

    def teardown(self) -> None:
        self.world.settle()
        group = self.group()
        if group is not None and group.holder is None:
            assert not any(i.is_eligible for i in group.instances.values())
        assert SystemState(NS).replay(self.world.log.records).to_plain() == self.world.state.to_plain()


Histories.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAnyHistory = Histories.TestCase

"""What `aegis demo --kill` does to the groups, with a stage that only pretends, and a log told by hand."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from aegisipc.eventstore.events import InstanceReady, InstanceRecovered
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.subjects import DEAD
from examples.demo import faults as faults_module
from examples.demo.faults import Faults, NoFailover, TooFewAccounts, together
from examples.demo.flow import AskQuote, Cancel, Step, groups_of
from examples.demo.watch import Watch
from tests.examples.group_story import NS_PER_MS, SUBJECTS, GroupStory
from tests.support.waiting import eventually

STEPS: list[Step] = [
    Cancel(at_ms=at, account=account, order_id="x") for at in range(20) for account in ("acc_1", "acc_2")
]
EAST, WEST = (accounts[0] for accounts in groups_of(STEPS).values())


class PretendedStage:
    """Writes down what would be done to processes, at 100 ms on the clock of the log."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def kill(self, name: str) -> int:
        return self._do(f"kill {name}")

    def freeze(self, name: str) -> int:
        return self._do(f"freeze {name}")

    def thaw(self, name: str) -> None:
        self._do(f"thaw {name}")

    def _do(self, what: str) -> int:
        self.done.append(what)
        return 100 * NS_PER_MS


class Scenario:
    """Two groups with a holder each, watched, and faults that are to happen."""

    def __init__(self, steps: list[Step] | None = None) -> None:
        self.stage, self.watch, self.told = PretendedStage(), Watch(SUBJECTS), list[str]()
        self.faults = Faults(cast("Any", self.stage), self.watch, steps or STEPS, self.told.append)
        self.stories = {group: GroupStory(group=group) for group in ("east", "west")}
        for group, story in self.stories.items():
            story.promote(f"orders-{group}-1", 1)

    def show(self) -> None:
        """Let the watch see everything that was told and not shown yet."""
        for story in self.stories.values():
            for record in story.records:
                self.watch.take(record)
            story.records.clear()

    def succeed(self, group: str, count: int, *, member: int = 1, epoch: int = 1) -> None:
        story = self.stories[group]
        ids = story.call(count=count)
        story.say(f"orders-{group}-{member}", epoch, *((Mark.SUCCEEDED, call_id) for call_id in ids))
        self.show()

    def take_over(self, group: str, *, at_ms: int) -> None:
        """The second member is promoted, and has its first outcome at so many milliseconds."""
        self.stories[group].promote(f"orders-{group}-2", 2)
        self.show()
        story = GroupStory(group=group, session=8)
        for _ in range(at_ms - 1):
            story.garbage()
        story.say(f"orders-{group}-2", 2, (Mark.FAILED, bytes(16)))
        self.watch.take(story.records[-1])


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults_module, "_FROZEN_S", 0.0)


async def test_the_active_instances_of_both_groups_fail_on_the_way_and_standbys_are_waited_for() -> None:
    scene = Scenario()
    scene.show()
    running = asyncio.ensure_future(scene.faults.run())
    scene.succeed("east", 4)
    scene.succeed("west", 4)
    await asyncio.sleep(0)
    assert scene.stage.done == []
    scene.succeed("east", 1)
    await eventually(lambda: scene.stage.done == ["kill orders east 1"], within_s=5)
    scene.take_over("east", at_ms=104)
    scene.succeed("west", 7)
    await eventually(lambda: scene.stage.done[1:] == ["freeze orders west 1"], within_s=5)
    scene.take_over("west", at_ms=1100)
    await eventually(lambda: scene.stage.done[2:] == ["thaw orders west 1"], within_s=5)
    assert not running.done()
    west = scene.stories["west"]
    recovered = InstanceRecovered(instance="orders-west-1", incarnation="1", decided_by="r")
    west.event(SUBJECTS.watch("orders", "west"), recovered)
    scene.show()
    await asyncio.wait_for(running, 5)
    kill, freeze = scene.faults.failovers
    assert (kill.fault, kill.group, kill.victim, kill.holder, kill.epoch, kill.ms) == (
        "kill",
        "east",
        "orders-east-1",
        "orders-east-2",
        2,
        4.0,
    )
    assert (freeze.fault, freeze.holder, freeze.ms) == ("freeze", "orders-west-2", 1000.0)
    assert any("kill -9 of orders-east-1" in line for line in scene.told)
    assert any("orders-west-1 is back" in line for line in scene.told)


async def test_outcomes_that_travel_with_a_dead_letter_are_seen_too() -> None:
    watch, story = Watch(SUBJECTS), GroupStory()
    story.promote("orders-east-1", 1)
    dead, done = story.call(count=2)
    story.say("orders-east-1", 1, (Mark.DEAD_LETTERED, dead), (Mark.SUCCEEDED, done))
    assert SUBJECTS.parse(story.records[-1].subject).kind == DEAD
    assert SUBJECTS.of_kind("orders", "*", DEAD) in watch.filters
    for record in story.records:
        watch.take(record)
    assert watch.outcomes == {"east": 1}


async def test_an_instance_that_joined_anew_is_back_too() -> None:
    watch, story = Watch(SUBJECTS), GroupStory()
    story.event(SUBJECTS.instance("orders", "east", "orders-east-1"), InstanceReady(incarnation="2"))
    watch.take(story.records[0])
    assert watch.arrivals == {"orders-east-1": 1}


async def test_the_last_orders_of_a_group_wait_for_its_fault_and_quotes_never_do() -> None:
    scene = Scenario()
    scene.show()
    own = [step for step in STEPS if step.account == EAST]
    sent = 0

    async def send() -> None:
        nonlocal sent
        for step in own:
            await scene.faults.may_send(step)
            sent += 1

    sending = asyncio.ensure_future(send())
    await eventually(lambda: sent == 15, within_s=5)
    await scene.faults.may_send(AskQuote(at_ms=1, account=EAST, symbol="ACME"))
    assert not sending.done()
    running = asyncio.ensure_future(scene.faults.run())
    scene.succeed("east", 15)
    await asyncio.wait_for(sending, 5)
    assert sent == len(own)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_standby_that_never_works_is_an_error_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults_module, "_PATIENCE_S", 0.01)
    scene = Scenario()
    scene.show()
    scene.succeed("east", 20)
    with pytest.raises(NoFailover, match=r"orders-east-1 is gone .* no standby of group east"):
        await scene.faults.run()


def test_a_flow_of_one_account_cannot_be_played_with_faults() -> None:
    with pytest.raises(TooFewAccounts):
        Scenario([step for step in STEPS if step.account == EAST])


async def test_of_works_done_together_the_first_error_stops_the_others() -> None:
    stopped = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await together(wait(), fail())
    assert stopped.is_set()

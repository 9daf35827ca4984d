"""Whatever happens: with the policy and the code of that time a simulation decides what was decided, and with
any policy it comes to the same every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallIds
from aegisipc.router.domain.refusals import CommandRefused
from aegisipc.router.domain.requests import Request
from tests.router.domain.what_if_kit import STEP_MS, Tape, said, what_if
from tests.router.domain.world import ME, drain, pause, promote, resume
from tests.sdk.kit import GROUP, NS, SERVICE

NAMES: Final = "abc"
_ids = CallIds(11)


class History:
    """A group of up to three instances, who do as they like, and an operator."""

    def __init__(self) -> None:
        self.world = Tape("a", "b", policy={"suspect_after_ms": 1000, "lost_after_ms": 3000})
        self.runs = {"a": 1, "b": 1, "c": 0}
        self.silent: set[str] = {"c"}
        self.terms = 1

    def _lives(self, name: str) -> bool:
        found = self.world.group().instances.get(name)
        return found is not None and found.is_live

    def lives(self, name: str) -> None:
        self.silent.discard(name)
        for _ in range(12):
            self._step()

    def falls_silent(self, name: str) -> None:
        self.silent.add(name)
        for _ in range(24):
            self._step()

    def is_silent_for_long(self, name: str) -> None:
        self.silent.add(name)
        for _ in range(70):
            self._step()

    def _step(self) -> None:
        self.world.pulse(after_ms=STEP_MS)
        for name in NAMES:
            if name not in self.silent and self.runs[name]:
                self.world.pulse(name, incarnation=str(self.runs[name]))
        self.world.settle()

    def starts(self, name: str) -> None:
        self.runs[name] += 1
        self.silent.discard(name)
        self.world.register(name, str(self.runs[name]))
        self.world.connect(name)
        self.world.settle()
        self._step()

    def leaves(self, name: str) -> None:
        if self._lives(name):
            self.world.leave(name, str(self.runs[name]))
            self.silent.add(name)
            self.world.settle()

    def drains(self, name: str) -> None:
        if self._lives(name):
            self.world.drain(name, str(self.runs[name]))
            self.world.settle()

    def falls_ill(self, name: str) -> None:
        self.world.fall_ill(name, incarnation=str(self.runs[name]))
        self.world.settle()

    def gets_well(self, name: str) -> None:
        self.world.get_well(name, str(self.runs[name]))
        self.world.settle()

    def disconnects(self, name: str) -> None:
        if name in self.world._connections:
            self.world.disconnect(name)
            self.silent.add(name)
            self.world.settle()

    def yields(self, name: str) -> None:
        group = self.world.group()
        if group.holder == name and group.handover is not None and self._lives(name):
            self.world.yields(name, str(self.runs[name]))
            self.world.settle()

    def writes(self, name: str) -> None:
        if self.world.group().holder == name and name not in self.silent:
            self.world.marks(name, (Mark.SUCCEEDED, _ids.next(1)))

    def is_promoted(self, name: str) -> None:
        self._asks(promote(name))

    def is_to_drain(self, name: str) -> None:
        self._asks(drain(name, service=SERVICE, group=GROUP, force=True))

    def is_paused(self, _: str) -> None:
        self._asks(pause())

    def is_resumed(self, _: str) -> None:
        self._asks(resume())

    def _asks(self, request: Request) -> None:
        try:
            self.world.command(request)
        except CommandRefused:
            return
        self.world.settle()

    def sees_the_router_resign(self, _: str) -> None:
        """And come back."""
        event = ev.RouterResigned(term=self.terms, router=ME.id, incarnation=ME.incarnation)
        self.world.log.say(NS.term, event)
        self.terms += 1
        self.world.elected(ME, {"suspect_after_ms": 1000, "lost_after_ms": 3000}, self.terms)
        self._step()


MOVES: Final[tuple[Callable[[History, str], None], ...]] = (
    History.lives,
    History.lives,
    History.falls_silent,
    History.is_silent_for_long,
    History.starts,
    History.leaves,
    History.drains,
    History.falls_ill,
    History.gets_well,
    History.disconnects,
    History.yields,
    History.writes,
    History.writes,
    History.is_promoted,
    History.is_to_drain,
    History.is_paused,
    History.is_resumed,
    History.sees_the_router_resign,
)
moves = st.lists(st.tuples(st.sampled_from(MOVES), st.sampled_from(NAMES)), min_size=1, max_size=14)


def played(happened: list[tuple[Callable[[History, str], None], str]]) -> Tape:
    history = History()
    history.lives("a")
    for move, name in happened:
        move(history, name)
    history.lives("a")
    return history.world


@given(happened=moves)
@settings(max_examples=30)
def test_what_was_decided_is_decided_again(
    happened: list[tuple[Callable[[History, str], None], str]],
) -> None:
    report = what_if(played(happened))
    assert (said(report.today), report.changes) == ([], [])
    assert (report.today_diverged, report.diverged) == ([], [])
    assert report.recorded == report.simulated
    assert report.notes == []


@given(
    happened=moves,
    suspect_after_ms=st.integers(200, 5000),
    more_ms=st.integers(0, 5000),
    disconnect_lost_after_ms=st.integers(1, 5000),
)
@settings(max_examples=30)
def test_another_policy_gives_the_same_every_time(
    happened: list[tuple[Callable[[History, str], None], str]],
    suspect_after_ms: int,
    more_ms: int,
    disconnect_lost_after_ms: int,
) -> None:
    world = played(happened)
    changes = {
        "suspect_after_ms": suspect_after_ms,
        "lost_after_ms": suspect_after_ms + more_ms,
        "disconnect_lost_after_ms": disconnect_lost_after_ms,
    }
    report = what_if(world, changes)
    assert what_if(world, changes) == report
    assert (report.today, report.today_diverged) == ([], [])
    assert not [note for note in report.notes if "did not come to an end" in note]
    judged = [change for change in report.changes if change.how in ("missing", "later", "earlier")]
    recorded = {record.seq for record in world.log.records}
    assert {change.seq for change in judged} <= recorded

"""Generated runs of a group that does everything right: nothing is found, whatever happens in them."""

from __future__ import annotations

import random

import pytest

from aegisipc.chaos.history import Deed, Stage
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from tests.chaos.checking.scene import Scene, a_scene, error, holds, requeued, resolution


class Run:
    """A group with two instances, and clients that call it; what happens next is diced."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.scene: Scene = a_scene()
        self.waiting: list[tuple[int, str, str, str]] = []
        self.doubts: list[tuple[int, str, int, str]] = []
        self.done: list[tuple[str, object]] = []
        self.seen = 0
        self.keys: dict[str, tuple[str, int]] = {}

    def go(self, steps: int) -> Scene:
        moves = [self.ask, self.ask, self.run, self.run, self.run, self.fail_over, self.resolve, self.attach]
        for _ in range(steps):
            self.dice.choice(moves)()
        while self.waiting:
            self.run()
        while self.doubts:
            self.resolve()
        for call_id, value in self.done:
            number = self.scene.invoke(Deed.ATTACH, call_id=call_id)
            self.scene.answer(number, value=value, call_id=call_id)
        return self.scene

    def ask(self) -> None:
        scene, dice = self.scene, self.dice
        method = dice.choice(("pay", "put", "get"))
        client = dice.choice(("c1", "c2"))
        deed = dice.choice((Deed.CALL, Deed.SUBMIT))
        number = scene.invoke(deed, client=client, resource="r")
        if dice.random() < 0.1:
            scene.answer(number, Stage.FAIL, error="not_connected")
            return
        call_id = scene.accept(number, method, resource="r", client=client)
        if deed is Deed.SUBMIT:
            scene.answer(number, call_id=call_id)
        self.waiting.append((number, call_id, method, deed))

    def run(self) -> None:
        if not self.waiting:
            return
        scene, dice = self.scene, self.dice
        number, call_id, method, deed = self.waiting.pop(0)
        what = dice.choice(("well", "well", "fail", "expire", "die", "retry", "dead"))
        if what == "expire":
            scene.mark(Mark.EXPIRED, call_id)
            self.tell(number, deed, call_id, error="call_expired")
            return
        self.start(call_id, method)
        if what == "die":
            self.die(number, call_id, method, deed)
            return
        if what == "retry":
            scene.mark(Mark.RETRY_SCHEDULED, call_id, encode({"attempt": 1, "due_ns": 0}))
            self.start(call_id, method)
        if what == "dead":
            dead = scene.mark(Mark.DEAD_LETTERED, call_id, error("venue_closed"))
            self.tell(number, deed, call_id, error="dead_lettered")
            scene.mark(Mark.REQUEUED, call_id, requeued(dead))
            self.start(call_id, method)
            deed = Deed.SUBMIT
        scene.ended(call_id)
        if what == "fail":
            scene.mark(Mark.FAILED, call_id, error("venue_closed"))
            self.tell(number, deed, call_id, error="venue_closed")
            return
        self.succeed(number, call_id, deed)

    def start(self, call_id: str, method: str) -> None:
        if method == "pay":
            self.scene.mark(Mark.CLAIMED, call_id)
        self.scene.began(call_id)

    def succeed(self, number: int, call_id: str, deed: str) -> None:
        value = {"seen": self.seen}
        self.seen += 1
        self.scene.mark(Mark.SUCCEEDED, call_id, encode(value))
        self.done.append((call_id, value))
        self.tell(number, deed, call_id, value=value)

    def tell(
        self, number: int, deed: str, call_id: str, *, value: object = None, error: str | None = None
    ) -> None:
        if deed == Deed.SUBMIT:
            return
        if self.dice.random() < 0.1:
            self.scene.answer(number, Stage.INFO, error="call_timeout")
        else:
            self.scene.answer(
                number, Stage.FAIL if error else Stage.OK, value=value, error=error, call_id=call_id
            )

    def die(self, number: int, call_id: str, method: str, deed: str) -> None:
        """The holder dies in a handler, and the other one takes over."""
        before, epoch = self.scene.holder, self.scene.epoch
        self.fail_over()
        if self.dice.random() < 0.5:
            self.scene.ended(call_id, before, epoch)
        if method != "pay":
            self.waiting.insert(0, (number, call_id, "again", deed))
            self.scene.ran(call_id)
            self.waiting.pop(0)
            self.succeed(number, call_id, deed)
            return
        doubt = self.scene.mark(Mark.IN_DOUBT, call_id)
        if deed != Deed.SUBMIT:
            self.scene.answer(number, Stage.INFO, error="call_in_doubt", call_id=call_id)
        self.doubts.append((number, call_id, doubt, deed))

    def fail_over(self) -> None:
        self.scene.promote("b" if self.scene.holder == "a" else "a")

    def resolve(self) -> None:
        if not self.doubts:
            return
        scene = self.scene
        _, call_id, doubt, _ = self.doubts.pop(0)
        if self.dice.random() < 0.5:
            scene.pen((Mark.EXECUTED, call_id, resolution()), (Mark.SUCCEEDED, call_id, encode("by hand")))
            self.done.append((call_id, "by hand"))
            return
        scene.mark(Mark.NOT_EXECUTED, call_id, resolution("reconcile", doubt))
        self.start(call_id, "pay")
        scene.ended(call_id)
        self.succeed(0, call_id, Deed.SUBMIT)

    def attach(self) -> None:
        if not self.done:
            return
        call_id, value = self.dice.choice(self.done)
        self.scene.answer(self.scene.invoke(Deed.ATTACH, call_id=call_id), value=value, call_id=call_id)


@pytest.mark.parametrize("seed", range(60))
def test_a_group_that_does_everything_right_is_found_right(seed: int) -> None:
    scene = Run(seed).go(60)
    holds(scene)
    looked = {verdict.name: verdict.looked_at for verdict in scene.judge().verdicts}
    assert all(looked[name] for name in ("G1", "G2", "G3", "G4", "G5", "epochs", "linearizable"))


@pytest.mark.parametrize("seed", range(30))
def test_the_same_with_one_outcome_said_twice_is_not(seed: int) -> None:
    run = Run(seed)
    scene = run.go(40)
    call_id, _ = run.dice.choice(run.done)
    scene.mark(Mark.SUCCEEDED, call_id, encode("other"))
    assert call_id in {c for v in scene.judge().verdicts for f in v.findings for c in f.call_ids}


@pytest.mark.parametrize("seed", range(30))
def test_the_same_with_a_record_of_a_call_lost_is_not(seed: int) -> None:
    run = Run(seed)
    scene = run.go(40)
    call_id, _ = run.dice.choice(run.done)
    accepted = scene.facts.calls[call_id].seq
    scene.records = [record for record in scene.records if record.seq != accepted]
    found = {f.call_ids for v in scene.judge().verdicts if v.name == "G1" for f in v.findings}
    assert (call_id,) in found

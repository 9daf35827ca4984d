"""Attempts: how they are numbered, when they begin, and when they end."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.chaos.checking import Bounds
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from tests.chaos.checking.scene import START_NS, Scene, a_scene, broken_by, error, holds, requeued


def fails(scene: Scene, call_id: str, attempt: int, *, due_s: float = 0.0) -> int:
    """An attempt fails, and the next one is due after so long."""
    due_ns = START_NS + scene.now_ns + int(due_s * 1e9)
    return scene.mark(Mark.RETRY_SCHEDULED, call_id, encode({"attempt": attempt, "due_ns": due_ns}))


def gives_up(scene: Scene, call_id: str, attempts: int, reason: str = "attempts") -> int:
    return scene.mark(Mark.DEAD_LETTERED, call_id, error("dead_lettered", attempts=attempts, reason=reason))


def one_that_fails(scene: Scene, *attempts: int, last: int) -> str:
    """A call whose attempts fail under these numbers, and that is given up for that number."""
    call_id = scene.accept(scene.invoke())
    for attempt in attempts:
        scene.began(call_id)
        fails(scene, call_id, attempt)
    scene.began(call_id)
    gives_up(scene, call_id, last)
    return call_id


def test_attempts_in_their_order_are_legal_and_begin_anew_after_a_requeueing() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    fails(scene, call_id, 1)
    scene.promote("b")
    scene.began(call_id)
    fails(scene, call_id, 2)
    scene.began(call_id)
    dead = gives_up(scene, call_id, 3)
    scene.mark(Mark.REQUEUED, call_id, requeued(dead))
    scene.began(call_id)
    fails(scene, call_id, 1)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene)


@pytest.mark.parametrize("attempts", [(1, 1), (2,), (1, 3)])
def test_attempts_that_are_counted_wrongly_are_found(attempts: tuple[int, ...]) -> None:
    scene = a_scene()
    broken_by(scene, "attempts", one_that_fails(scene, *attempts, last=attempts[-1] + 1))


def test_a_dead_letter_for_another_number_of_attempts_is_found() -> None:
    scene = a_scene()
    broken_by(scene, "attempts", one_that_fails(scene, 1, last=3))


def test_one_that_is_given_up_for_its_deadline_says_nothing_of_the_policy() -> None:
    scene = a_scene()
    one_that_fails(scene, 1, 2, last=3)
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    fails(scene, call_id, 1)
    gives_up(scene, call_id, 1, "deadline")
    holds(scene)


def test_more_attempts_than_other_calls_of_the_method_are_found() -> None:
    scene = a_scene()
    one_that_fails(scene, 1, last=2)
    call_id = one_that_fails(scene, 1, 2, last=3)
    broken_by(scene, "attempts", call_id)


@pytest.mark.parametrize(("attempts", "is_legal"), [(3, True), (2, False), (4, False)])
def test_a_known_policy_is_held_against_it(attempts: int, is_legal: bool) -> None:
    scene = a_scene()
    one_that_fails(scene, 1, 2, last=3)
    judged = scene.judge(Bounds(clock_offset_ns=START_NS, attempts=attempts))
    assert ("attempts" not in judged.broken) is is_legal


def test_an_attempt_before_it_is_due_is_found() -> None:
    scene = a_scene()
    call_id = one_waiting(scene)
    scene.wait(0.5)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    assert "before it was due" in broken_by(scene, "attempts", call_id).text


def test_one_that_is_due_may_begin_and_so_may_a_former_holder_and_one_whose_clock_was_set() -> None:
    scene = a_scene()
    scene.promote("b")
    call_id = one_waiting(scene)
    scene.wait(0.1)
    scene.began(call_id, "a", 1)
    scene.wait(0.7)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene)
    other = a_scene()
    other.fault("skew", "a", other.now_ns)
    call_id = one_waiting(other)
    other.wait(0.5)
    other.ran(call_id)
    other.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(other)


def one_waiting(scene: Scene) -> str:
    """A call that failed once, and is due again in less than a second."""
    call_id = scene.accept(scene.invoke(), timeout_ms=10_000)
    scene.began(call_id)
    fails(scene, call_id, 1, due_s=0.8)
    return call_id


def test_an_attempt_that_the_log_does_not_have_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    assert "2 times" in broken_by(scene, "attempts", call_id).text


@pytest.mark.parametrize("again", [{"life": "a-2"}, {"epoch": 2}])
def test_another_life_and_another_epoch_know_nothing_of_it(again: dict[str, Any]) -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    scene.promote("a")
    scene.began(call_id, **again)
    scene.ended(call_id, **again)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene, "failovers")

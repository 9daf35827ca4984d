"""Cancellations, timeouts, and what is told before it is durable."""

from __future__ import annotations

import pytest

from aegisipc.chaos.history import Deed, Stage
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from tests.chaos.checking.scene import Scene, a_scene, broken_by, error, holds

# -- cancelling ------------------------------------------------------------------------------------------


def cancel(scene: Scene, call_id: str, error: str | None = None) -> None:
    number = scene.invoke(Deed.CANCEL, call_id=call_id)
    scene.answer(number, Stage.OK if error is None else Stage.FAIL, error=error, call_id=call_id)


def cancelled(scene: Scene) -> str:
    call_id = scene.accept(scene.invoke())
    scene.mark(Mark.CANCELLED, call_id, error("call_cancelled", started=False))
    return call_id


def test_what_is_said_to_be_cancelled_and_succeeded_is_found() -> None:
    scene = a_scene()
    call_id = scene.whole_call()
    cancel(scene, call_id)
    broken_by(scene, "orders", call_id)


def test_what_is_said_to_be_cancelled_before_it_is_so_in_the_log_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    cancel(scene, call_id)
    scene.wait(0.2)
    scene.mark(Mark.CANCELLED, call_id, error("call_cancelled", started=False))
    broken_by(scene, "orders", call_id)


def test_what_was_cancelled_and_is_said_to_be_finished_is_found() -> None:
    scene = a_scene()
    call_id = cancelled(scene)
    cancel(scene, call_id, "call_finished")
    broken_by(scene, "orders", call_id)


def test_cancellations_that_were_done_or_came_too_late_are_legal() -> None:
    scene = a_scene()
    cancel(scene, cancelled(scene))
    cancel(scene, scene.whole_call(), "call_finished")
    number = scene.invoke(Deed.CANCEL, call_id=cancelled(scene))
    scene.answer(number, Stage.INFO, error="call_timeout")
    dead = scene.accept(scene.invoke())
    scene.began(dead)
    scene.mark(Mark.DEAD_LETTERED, dead, error("dead_lettered"))
    cancel(scene, dead, "call_finished")
    holds(scene)


# -- timeouts --------------------------------------------------------------------------------------------


def times_out(scene: Scene, after_s: float, stage: Stage = Stage.INFO) -> int:
    number = scene.invoke(timeout_s=2.0)
    call_id = scene.accept(number)
    scene.wait(after_s)
    scene.answer(number, stage, error="call_timeout", call_id=call_id)
    scene.mark(Mark.EXPIRED, call_id)
    return number


@pytest.mark.parametrize("after_s", [1.0, 5.0])
def test_a_call_that_comes_back_too_early_or_too_late_is_found(after_s: float) -> None:
    scene = a_scene()
    number = times_out(scene, after_s)
    assert broken_by(scene, "timeouts").numbers == (number,)


def test_a_call_that_never_comes_back_is_found() -> None:
    scene = a_scene()
    number = scene.invoke(timeout_s=2.0)
    scene.mark(Mark.EXPIRED, scene.accept(number))
    scene.evidence.ended_at_ns = scene.now_ns + 1_000_000_000
    holds(scene)
    scene.evidence.ended_at_ns += 20_000_000_000
    assert broken_by(scene, "timeouts").numbers == (number,)


def test_a_call_that_comes_back_at_its_timeout_is_legal_and_so_is_an_early_refusal() -> None:
    scene = a_scene()
    times_out(scene, 2.1)
    number = scene.invoke(timeout_s=2.0)
    scene.answer(number, Stage.FAIL, error="no_route")
    holds(scene)


@pytest.mark.parametrize("victim", ["c", "c-3"])
def test_a_client_that_was_killed_or_frozen_is_excused(victim: str) -> None:
    scene = a_scene()
    number = scene.invoke(timeout_s=2.0, client="c-3")
    scene.mark(Mark.EXPIRED, scene.accept(number))
    scene.fault("kill", victim, scene.now_ns)
    scene.evidence.ended_at_ns = scene.now_ns + 60_000_000_000
    holds(scene)


# -- told before it is durable ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "body", "code"),
    [
        (Mark.SUCCEEDED, encode(1), None),
        (Mark.FAILED, error("venue_closed"), "venue_closed"),
        (Mark.EXPIRED, None, "call_expired"),
        (Mark.DEAD_LETTERED, error("dead_lettered"), "dead_lettered"),
    ],
)
def test_an_outcome_that_is_told_before_it_is_in_the_log_is_found(
    mark: Mark, body: bytes | None, code: str | None
) -> None:
    def told(*, is_early: bool) -> tuple[Scene, str]:
        scene = a_scene()
        number = scene.invoke()
        call_id = scene.accept(number)
        if mark is not Mark.EXPIRED:
            scene.ran(call_id)
        stage = Stage.OK if code is None else Stage.FAIL
        for step in range(2):
            if (step == 0) is is_early:
                value = 1 if code is None else None
                scene.answer(number, stage, value=value, error=code, call_id=call_id)
            else:
                scene.mark(mark, call_id, body)
            scene.wait(0.2)
        return scene, call_id

    scene, call_id = told(is_early=True)
    broken_by(scene, "G2", call_id)
    holds(told(is_early=False)[0])

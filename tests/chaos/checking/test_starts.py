"""When handlers may begin: G7 by the clock, pauses, and what they are given."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from tests.chaos.checking.scene import (
    GROUP,
    NS,
    SERVICE,
    Scene,
    a_pool,
    a_scene,
    broken_by,
    error,
    holds,
    requeued,
)


def pause(scene: Scene, *, group: str = GROUP, again: bool = False) -> None:
    kind = ev.GroupResumed if again else ev.GroupPaused
    event = kind(scope="group", author="ann", decided_by="r")
    scene.say(NS.watch(SERVICE, group), event)


def late_call(scene: Scene, method: str, wait_s: float, *, group: str = GROUP) -> str:
    """A call with a timeout of one second that begins after so long."""
    call_id = scene.accept(scene.invoke(), method, group=group)
    if method == "pay":
        scene.mark(Mark.CLAIMED, call_id, group=group)
    scene.wait(wait_s)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1), group=group)
    return call_id


# -- deadlines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pay", "put"])
def test_a_handler_that_begins_after_the_deadline_is_found(method: str) -> None:
    scene = a_scene()
    call_id = late_call(scene, method, 1.7)
    assert "after its deadline" in broken_by(scene, "G7", call_id).text


def test_so_it_is_in_a_pool() -> None:
    scene = a_pool()
    broken_by(scene, "G7", late_call(scene, "put", 1.7, group="_pool"))


def test_a_start_within_the_slack_is_legal() -> None:
    scene = a_scene()
    late_call(scene, "pay", 1.3)
    holds(scene)


def test_a_holder_that_was_frozen_between_its_look_and_the_start_is_excused() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke(), "pay")
    scene.mark(Mark.CLAIMED, call_id)
    since_ns = scene.now_ns
    scene.wait(2.5)
    scene.fault("freeze", "a", since_ns)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene)


def test_another_one_that_was_frozen_excuses_nothing() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    since_ns = scene.now_ns
    scene.wait(2.5)
    scene.fault("freeze", "b", since_ns)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G7", call_id)


def test_a_requeued_call_has_the_deadline_of_its_requeueing() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    dead = scene.mark(Mark.DEAD_LETTERED, call_id, error("dead_lettered"))
    scene.wait(60.0)
    scene.mark(Mark.REQUEUED, call_id, requeued(dead))
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene, "recovery")


def test_a_call_that_was_turned_away_must_not_have_begun() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    scene.mark(Mark.FAILED, call_id, error("overloaded"))
    broken_by(scene, "G7", call_id)
    other = a_scene()
    other.mark(Mark.FAILED, other.accept(other.invoke()), error("overloaded"))
    holds(other)


# -- pauses ----------------------------------------------------------------------------------------------


def test_a_start_while_the_group_is_paused_is_found() -> None:
    scene = a_scene()
    pause(scene)
    scene.wait(0.6)
    call_id = scene.whole_call()
    assert "paused" in broken_by(scene, "orders", call_id).text


def test_after_it_was_resumed_or_before_it_is_known_starts_are_legal() -> None:
    scene = a_scene()
    pause(scene)
    scene.whole_call()
    pause(scene, group="other")
    scene.wait(0.6)
    pause(scene, again=True)
    scene.whole_call()
    holds(scene)


def test_who_was_cut_off_may_hear_of_a_pause_late() -> None:
    scene = a_scene()
    since_ns = scene.now_ns
    pause(scene)
    scene.wait(0.6)
    scene.fault("partition", "a", since_ns)
    scene.whole_call()
    holds(scene)


# -- what is begun ---------------------------------------------------------------------------------------


def test_a_handler_with_the_arguments_of_another_call_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.numbers[call_id] = 77
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    assert 77 in broken_by(scene, "G1", call_id).numbers


def test_a_call_with_the_result_of_another_one_is_found() -> None:
    scene = a_scene()
    call_id = scene.whole_call(value={"number": 9})
    broken_by(scene, "G2", call_id)
    other = a_scene()
    other.whole_call(value={"number": 1})
    other.whole_call(value={"number": "nine"})
    other.whole_call(value="number")
    holds(other)


def test_who_wrote_the_outcome_must_not_begin_again() -> None:
    scene = a_scene()
    call_id = scene.whole_call("get")
    holds(scene)
    scene.wait(0.1)
    scene.began(call_id)
    broken_by(scene, "attempts", call_id)


def test_another_one_that_knows_nothing_of_the_outcome_may_begin() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.promote("b")
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    scene.wait(0.1)
    scene.began(call_id, "a", 1)
    holds(scene)

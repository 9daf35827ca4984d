"""G3 and G7: what handlers may begin, and how often."""

from __future__ import annotations

from aegisipc.chaos.checking import Bounds
from aegisipc.chaos.history import Deed, Stage
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from tests.chaos.checking.scene import Scene, a_pool, a_scene, broken_by, error, holds, requeued, resolution


def claimed(scene: Scene) -> str:
    """A ``once`` call that was claimed and begun by the holder."""
    call_id = scene.accept(scene.invoke(), "pay")
    scene.mark(Mark.CLAIMED, call_id)
    scene.began(call_id)
    return call_id


# -- G3 --------------------------------------------------------------------------------------------------


def test_a_start_without_a_claim_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke(), "pay")
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G3", call_id)


def test_a_second_start_under_one_claim_is_found() -> None:
    scene = a_scene()
    call_id = claimed(scene)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G3", call_id)


def test_a_start_before_its_claim_is_durable_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke(), "pay")
    scene.ran(call_id)
    scene.now_ns += 100_000_000
    scene.mark(Mark.CLAIMED, call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G3", call_id)
    assert scene.judge(Bounds()).holds  # nobody knows how the clocks compare


def test_a_start_by_another_one_than_its_claimant_is_found() -> None:
    scene = a_scene()
    call_id = claimed(scene)
    scene.promote("b")
    scene.ran(call_id)
    scene.mark(Mark.IN_DOUBT, call_id)
    broken_by(scene, "G3", call_id)


def test_an_outcome_by_a_successor_without_a_doubt_is_found() -> None:
    scene = a_scene()
    call_id = claimed(scene)
    scene.ended(call_id)
    scene.promote("b")
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G3", call_id)


def test_a_doubt_that_ends_without_a_resolution_is_found() -> None:
    scene = a_scene()
    call_id = claimed(scene)
    scene.ended(call_id)
    scene.promote("b")
    scene.mark(Mark.IN_DOUBT, call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G3", call_id)


def test_success_without_an_effect_is_found() -> None:
    scene = a_scene()
    scene.whole_call()
    never = scene.accept(scene.invoke())
    begun = scene.accept(scene.invoke())
    scene.began(begun)
    scene.pen((Mark.SUCCEEDED, never, encode(1)), (Mark.SUCCEEDED, begun, encode(1)))
    broken_by(scene, "G3", never)
    broken_by(scene, "G3", begun)


def test_a_transaction_that_took_effect_twice_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id, effect="transactional")
    scene.ended(call_id, effect="transactional")
    scene.ended(call_id, "b", effect="transactional")
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G3", call_id)


def test_in_a_pool_a_worker_whose_claim_was_not_the_first_must_not_begin() -> None:
    scene = a_pool()
    call_id = scene.accept(scene.invoke(), "pay", group="_pool")
    scene.mark(Mark.CLAIMED, call_id, writer="a", group="_pool")
    scene.mark(Mark.CLAIMED, call_id, writer="b", group="_pool")
    scene.ran(call_id, "a", 0)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1), group="_pool")
    holds(scene)
    scene.began(call_id, "b", 0)
    broken_by(scene, "G3", call_id)


def test_idempotent_calls_may_run_as_often_as_it_takes() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    scene.promote("b")
    scene.ran(call_id)
    scene.ended(call_id, "a", 1)  # the former holder thaws
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene)


def test_each_recorded_failure_allows_one_more_start() -> None:
    scene = a_scene()
    call_id = claimed(scene)
    scene.mark(Mark.RETRY_SCHEDULED, call_id, encode({"attempt": 1, "due_ns": 0}))
    scene.mark(Mark.CLAIMED, call_id)
    scene.began(call_id)
    dead = scene.mark(Mark.DEAD_LETTERED, call_id, error("venue_closed"))
    scene.mark(Mark.REQUEUED, call_id, requeued(dead))
    scene.mark(Mark.CLAIMED, call_id)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene)


def test_a_frozen_claimant_may_begin_late_and_a_resolved_doubt_lets_it_run_again() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke(), "pay")
    scene.mark(Mark.CLAIMED, call_id)
    scene.promote("b")
    doubt = scene.mark(Mark.IN_DOUBT, call_id)
    scene.began(call_id, "a", 1)
    scene.mark(Mark.NOT_EXECUTED, call_id, resolution("reconcile", doubt))
    scene.mark(Mark.CLAIMED, call_id)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene)


def test_an_operator_may_say_that_a_call_ran() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke(), "pay")
    scene.mark(Mark.CLAIMED, call_id)
    scene.promote("b")
    scene.mark(Mark.IN_DOUBT, call_id)
    scene.pen((Mark.EXECUTED, call_id, resolution()), (Mark.SUCCEEDED, call_id, encode(1)))
    holds(scene)


# -- G7 --------------------------------------------------------------------------------------------------


def test_an_expired_call_that_was_begun_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.ran(call_id)
    scene.mark(Mark.EXPIRED, call_id)
    broken_by(scene, "G7", call_id)


def test_an_expired_call_that_is_begun_afterwards_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.mark(Mark.EXPIRED, call_id)
    scene.ran(call_id)
    broken_by(scene, "G7", call_id)


def test_a_call_that_was_claimed_too_late_and_begun_is_found() -> None:
    scene = a_scene()
    call_id = claimed(scene)
    scene.mark(Mark.FAILED, call_id, error("claimed_too_late"))
    broken_by(scene, "G7", call_id)


def test_a_call_that_was_cancelled_before_its_start_and_begun_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.mark(Mark.CANCELLED, call_id, error("cancelled", started=False))
    scene.began(call_id)
    broken_by(scene, "G7", call_id)


def test_attaching_to_an_accepted_call_must_find_it() -> None:
    scene = a_scene()
    call_id = scene.whole_call()
    scene.answer(
        scene.invoke(Deed.ATTACH, call_id=call_id), Stage.FAIL, error="call_unknown", call_id=call_id
    )
    broken_by(scene, "G7", call_id)


def test_attaching_after_all_was_healed_must_give_the_outcome() -> None:
    scene = a_scene()
    call_id = scene.whole_call()
    scene.evidence.healed_at_ns = scene.now_ns
    number = scene.invoke(Deed.ATTACH, call_id=call_id)
    scene.answer(number, Stage.INFO, error="call_timeout", call_id=call_id)
    assert number in broken_by(scene, "G7", call_id).numbers


def test_a_record_may_say_that_an_expired_call_may_have_started() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    scene.promote("b")
    scene.mark(Mark.EXPIRED, call_id, error("may_have_started"))
    stopped = scene.accept(scene.invoke())
    scene.began(stopped)
    scene.mark(Mark.CANCELLED, stopped, error("cancelled", started=True))
    scene.evidence.healed_at_ns = scene.now_ns + 10_000_000
    number = scene.invoke(Deed.ATTACH, call_id=call_id)  # before all was healed
    scene.answer(number, Stage.INFO, error="call_timeout", call_id=call_id)
    holds(scene)


def test_who_asked_before_it_could_be_known_was_told_the_truth() -> None:
    scene = a_scene()
    number = scene.invoke()
    scene.answer(number, Stage.INFO, error="call_timeout", call_id=(early := format_call_id(scene.next_id())))
    scene.answer(scene.invoke(Deed.ATTACH, call_id=early), Stage.FAIL, error="call_unknown", call_id=early)
    scene.accept(number, "get", call_id=early)  # its frame came late
    scene.answer(scene.invoke(Deed.ATTACH, call_id=early), Stage.INFO, error="call_timeout", call_id=early)
    scene.mark(Mark.SUCCEEDED, early, encode(1))
    holds(scene)
    scene.answer(scene.invoke(Deed.ATTACH, call_id=early), Stage.FAIL, error="call_unknown", call_id=early)
    broken_by(scene, "G7", early)

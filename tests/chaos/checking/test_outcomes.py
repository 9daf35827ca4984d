"""G1, G2, and that nothing both expired and succeeded: histories that break them, or only seem to."""

from __future__ import annotations

from aegisipc.chaos.history import Deed, Stage
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id, parse_call_id
from tests.chaos.checking.scene import a_pool, a_scene, broken_by, error, holds, requeued, resolution

# -- G1 --------------------------------------------------------------------------------------------------


def test_a_submitted_call_that_is_not_in_the_log_is_lost() -> None:
    scene = a_scene()
    scene.whole_call()
    lost = format_call_id(scene.next_id())
    number = scene.invoke(Deed.SUBMIT)
    scene.answer(number, call_id=lost)
    finding = broken_by(scene, "G1", lost)
    assert finding.numbers == (number,)


def test_an_answer_to_a_call_that_is_not_in_the_log_is_from_nowhere() -> None:
    scene = a_scene()
    number = scene.invoke()
    scene.answer(number, value=1)
    assert broken_by(scene, "G1").numbers == (number,)


def test_what_is_told_before_it_is_in_the_log_is_found() -> None:
    scene = a_scene()
    early = format_call_id(scene.next_id())
    scene.answer(scene.invoke(Deed.SUBMIT), call_id=early)
    scene.now_ns += 100_000_000
    scene.accept(1, call_id=early)
    number = scene.invoke(Deed.ATTACH, call_id=early)
    scene.ran(early)
    scene.answer(number, value=1, call_id=early)
    scene.now_ns += 100_000_000
    scene.mark(Mark.SUCCEEDED, early, encode(1))
    broken_by(scene, "G1", early)
    assert number in broken_by(scene, "G2", early).numbers


def test_a_handler_that_ran_what_is_not_in_the_log_is_found() -> None:
    scene = a_scene()
    lost = format_call_id(scene.next_id())
    scene.ran(lost)
    broken_by(scene, "G1", lost)


def test_an_outcome_of_a_call_that_is_not_in_the_log_is_found() -> None:
    scene = a_scene()
    lost = format_call_id(scene.next_id())
    seq = scene.mark(Mark.SUCCEEDED, lost, encode(1))
    assert broken_by(scene, "G1", lost).seqs == (seq,)


def test_a_call_whose_acceptance_is_unknown_need_not_be_in_the_log() -> None:
    scene = a_scene()
    for known in (None, format_call_id(scene.next_id())):
        number = scene.invoke()
        scene.answer(number, Stage.INFO, error="call_timeout", call_id=known)
    scene.answer(scene.invoke(), Stage.FAIL, error="call_cancelled", call_id=format_call_id(scene.next_id()))
    scene.invoke()  # and its client was killed
    holds(scene)


# -- G2 --------------------------------------------------------------------------------------------------


def test_a_call_without_an_outcome_is_found() -> None:
    scene = a_scene()
    open_one = scene.accept(scene.invoke())
    claimed = scene.accept(scene.invoke(), "pay")
    scene.mark(Mark.CLAIMED, claimed)
    broken_by(scene, "G2", open_one)
    broken_by(scene, "G2", claimed)


def test_a_second_outcome_in_an_owned_group_is_found() -> None:
    scene = a_scene()
    call_id = scene.whole_call()
    seq = scene.mark(Mark.FAILED, call_id, error("bad"))
    assert seq in broken_by(scene, "G2", call_id).seqs


def test_a_second_claim_in_an_owned_group_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke(), "pay")
    scene.mark(Mark.CLAIMED, call_id)
    scene.promote("b")
    scene.mark(Mark.CLAIMED, call_id)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G2", call_id)


def test_a_reader_that_is_told_another_value_is_found() -> None:
    scene = a_scene()
    call_id = scene.whole_call(value=1)
    number = scene.invoke(Deed.ATTACH, call_id=call_id)
    scene.answer(number, value=2, call_id=call_id)
    assert number in broken_by(scene, "G2", call_id).numbers


def test_a_reader_that_is_told_an_error_of_what_succeeded_is_found() -> None:
    scene = a_scene()
    call_id = scene.whole_call(value=1)
    number = scene.invoke(Deed.ATTACH, call_id=call_id)
    scene.answer(number, Stage.FAIL, error="venue_closed", call_id=call_id)
    broken_by(scene, "G2", call_id)


def test_a_reader_that_is_told_of_a_doubt_that_never_was_is_found() -> None:
    scene = a_scene()
    number = scene.invoke()
    call_id = scene.accept(number)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    scene.answer(number, Stage.INFO, error="call_in_doubt", call_id=call_id)
    broken_by(scene, "G2", call_id)


def test_a_call_that_enters_the_log_twice_is_found() -> None:
    scene = a_scene()
    call_id = scene.whole_call()
    scene.accept(1, call_id=call_id)
    broken_by(scene, "G2", call_id)


def test_in_a_pool_the_second_outcome_is_void_and_nobody_may_be_told_of_it() -> None:
    scene = a_pool()
    number = scene.invoke()
    call_id = scene.accept(number, "get", group="_pool")
    scene.mark(Mark.SUCCEEDED, call_id, encode(1), group="_pool")
    scene.mark(Mark.SUCCEEDED, call_id, encode(2), writer="b", group="_pool")
    scene.answer(number, value=1, call_id=call_id)
    holds(scene)
    assert scene.judge().numbers["void"] == 1
    scene.answer(scene.invoke(Deed.ATTACH, call_id=call_id), value=2, call_id=call_id)
    broken_by(scene, "G2", call_id)


def test_a_doubt_before_the_final_outcome_is_legal_for_all_who_ask() -> None:
    scene = a_scene()
    number = scene.invoke()
    call_id = scene.accept(number, "pay")
    scene.mark(Mark.CLAIMED, call_id)
    scene.began(call_id)
    scene.promote("b")
    scene.mark(Mark.IN_DOUBT, call_id)
    scene.answer(number, Stage.INFO, error="call_in_doubt", call_id=call_id)
    scene.ended(call_id, "a", 1)
    scene.pen(
        (Mark.EXECUTED, call_id, resolution("reconcile")), (Mark.SUCCEEDED, call_id, encode((1, {"a": None})))
    )
    scene.answer(scene.invoke(Deed.ATTACH, call_id=call_id), value=[1, {"a": None}], call_id=call_id)
    holds(scene)


def test_a_dead_letter_that_succeeds_later_is_legal() -> None:
    scene = a_scene()
    number = scene.invoke()
    call_id = scene.accept(number)
    scene.began(call_id)
    dead = scene.mark(Mark.DEAD_LETTERED, call_id, error("venue_closed"))
    scene.answer(number, Stage.FAIL, error="dead_lettered", call_id=call_id)
    scene.mark(Mark.REQUEUED, call_id, requeued(dead))
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    scene.answer(scene.invoke(Deed.ATTACH, call_id=call_id), value=1, call_id=call_id)
    holds(scene)


def test_one_that_repeats_a_call_is_told_what_became_of_that() -> None:
    scene = a_scene()
    first = scene.accept(scene.invoke(key="k"), key="k", argument=1)
    number = scene.invoke(key="k")
    second = scene.accept(number, key="k", argument=1)
    scene.mark(Mark.KEYED, first, bytes(32))
    scene.ran(first)
    scene.pen((Mark.SUCCEEDED, first, encode(5)), (Mark.DUPLICATE, second, parse_call_id(first)))
    scene.answer(number, value=5, call_id=second)
    holds(scene)
    scene.answer(scene.invoke(Deed.ATTACH, call_id=second), value=6, call_id=second)
    broken_by(scene, "G2", second, first)


def test_a_frame_that_was_stored_twice_counts_once() -> None:
    scene = a_scene()
    scene.whole_call()
    for record in scene.records[-2:]:
        scene.store(record.subject, record.payload)
    holds(scene)
    assert scene.facts.stored_twice == 2


# -- expired and succeeded -------------------------------------------------------------------------------


def test_what_the_log_says_expired_and_somebody_was_told_succeeded_is_found() -> None:
    scene = a_scene()
    number = scene.invoke()
    call_id = scene.accept(number)
    seq = scene.mark(Mark.EXPIRED, call_id)
    scene.answer(number, value=1, call_id=call_id)
    assert seq in broken_by(scene, "expired-and-succeeded", call_id).seqs


def test_what_succeeded_and_somebody_was_told_expired_is_found() -> None:
    scene = a_scene()
    call_id = scene.whole_call()
    number = scene.invoke(Deed.ATTACH, call_id=call_id)
    scene.answer(number, Stage.FAIL, error="call_expired", call_id=call_id)
    assert number in broken_by(scene, "expired-and-succeeded", call_id).numbers


def test_what_is_said_to_succeed_after_it_expired_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.mark(Mark.EXPIRED, call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "expired-and-succeeded", call_id)


def test_a_claim_that_came_too_late_is_told_as_expired() -> None:
    scene = a_scene()
    number = scene.invoke()
    call_id = scene.accept(number, "pay")
    scene.mark(Mark.CLAIMED, call_id)
    scene.mark(Mark.FAILED, call_id, error("claimed_too_late"))
    scene.answer(number, Stage.FAIL, error="call_expired", call_id=call_id)
    holds(scene)

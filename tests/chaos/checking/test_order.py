"""G5 and linearizability: order among the calls of one resource and of one client."""

from __future__ import annotations

from aegisipc.chaos.history import Deed, Stage
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from tests.chaos.checking.scene import Scene, a_scene, broken_by, error, holds, requeued, resolution


def two(scene: Scene, method: str = "put") -> tuple[str, str]:
    """Two calls of one resource that were made at the same time."""
    numbers = scene.invoke(resource="r"), scene.invoke(resource="r")
    first, second = (scene.accept(number, method, resource="r") for number in numbers)
    return first, second


def finish(scene: Scene, call_id: str, value: object = 1) -> None:
    scene.mark(Mark.SUCCEEDED, call_id, encode(value))


# -- G5 --------------------------------------------------------------------------------------------------


def test_calls_of_a_client_in_another_order_than_they_were_made_are_found() -> None:
    scene = a_scene()
    ids = [format_call_id(scene.next_id()) for _ in range(2)]
    for call_id in reversed(ids):
        scene.accept(scene.invoke(), "get", call_id=call_id)
        finish(scene, call_id)
    broken_by(scene, "G5", *ids)


def test_where_arguments_are_large_each_resource_has_its_own_order() -> None:
    """A call that waits behind a large one, which need not be accepted in the end, is overtaken by others."""
    scene = a_scene()
    waits, overtakes = (format_call_id(scene.next_id()) for _ in range(2))
    for resource, call_id in (("s", overtakes), ("r", waits)):
        scene.accept(scene.invoke(resource=resource), resource=resource, call_id=call_id)
        scene.ran(call_id)
        finish(scene, call_id)
    broken_by(scene, "G5", waits, overtakes)
    scene.evidence.has_large = True
    holds(scene, "G5")
    scene.evidence.has_large = False
    large = scene.accept(scene.invoke(client="d"), client="d", is_large=True)
    scene.ran(large)
    finish(scene, large)
    holds(scene, "G5")


def test_large_calls_keep_the_order_of_their_resource() -> None:
    scene = a_scene()
    ids = [format_call_id(scene.next_id()) for _ in range(2)]
    for call_id in reversed(ids):
        scene.accept(scene.invoke(resource="r"), resource="r", call_id=call_id, is_large=True)
        scene.ran(call_id)
        finish(scene, call_id)
    broken_by(scene, "G5", *ids)


def test_a_call_that_stands_before_one_that_was_known_when_it_was_made_is_found() -> None:
    scene = a_scene()
    early, late = scene.next_id(), scene.next_id()
    first = scene.invoke(Deed.SUBMIT)
    late_id = scene.accept(2, "get", call_id=format_call_id(early))
    early_id = scene.accept(1, "get", call_id=format_call_id(late))
    scene.answer(first, call_id=early_id)
    second = scene.invoke(Deed.SUBMIT, client="d")
    scene.answer(second, call_id=late_id)
    for call_id in (early_id, late_id):
        finish(scene, call_id)
    assert second in broken_by(scene, "G5", early_id, late_id).numbers


def test_handlers_of_one_resource_at_the_same_time_are_found() -> None:
    scene = a_scene()
    first, second = two(scene)
    scene.began(first)
    scene.ran(second)
    scene.ended(first)
    finish(scene, first)
    finish(scene, second)
    broken_by(scene, "G5", first, second)


def test_handlers_of_one_resource_against_the_log_order_are_found() -> None:
    scene = a_scene()
    first, second = two(scene)
    scene.ran(second)
    scene.ran(first)
    finish(scene, first)
    finish(scene, second)
    broken_by(scene, "G5", first, second)


def test_outcomes_of_one_resource_against_the_log_order_are_found() -> None:
    scene = a_scene()
    first, second = two(scene, "get")
    finish(scene, second)
    finish(scene, first)
    broken_by(scene, "G5", first, second)


def test_other_resources_and_other_clients_go_their_own_ways() -> None:
    scene = a_scene()
    numbers = [scene.invoke(), scene.invoke(client="d")]
    first = scene.accept(numbers[0], resource="r")
    second = scene.accept(numbers[1], resource="s", client="d")
    scene.began(first)
    scene.ran(second)
    finish(scene, second)
    scene.ended(first)
    finish(scene, first)
    holds(scene)


def test_retries_keep_their_turn_and_doubts_do_not() -> None:
    scene = a_scene()
    first, second = two(scene, "pay")
    for call_id in (first, second):
        scene.mark(Mark.CLAIMED, call_id)
    scene.began(first)
    scene.promote("b")
    scene.pen((Mark.IN_DOUBT, first, None), (Mark.IN_DOUBT, second, None))
    scene.mark(Mark.NOT_EXECUTED, second, resolution())
    scene.mark(Mark.CLAIMED, second)
    scene.ran(second)
    finish(scene, second)
    scene.mark(Mark.NOT_EXECUTED, first, resolution())
    scene.mark(Mark.CLAIMED, first)
    scene.began(first)
    scene.mark(Mark.RETRY_SCHEDULED, first, encode({"attempt": 1, "due_ns": 0}))
    scene.mark(Mark.CLAIMED, first)
    scene.ran(first)
    finish(scene, first)
    holds(scene)


def test_a_successor_begins_again_with_what_the_former_holder_had_begun() -> None:
    scene = a_scene()
    first, second = two(scene)
    scene.ran(first)
    scene.began(second)
    scene.promote("b")
    scene.ran(first)
    scene.ended(second, "a", 1)  # it had not noticed
    scene.ran(second)
    finish(scene, first)
    finish(scene, second)
    holds(scene)


def test_a_requeued_call_runs_out_of_its_order() -> None:
    scene = a_scene()
    first, second = two(scene)
    scene.began(first)
    dead = scene.mark(Mark.DEAD_LETTERED, first, error("venue_closed"))
    scene.ran(second)
    finish(scene, second)
    scene.mark(Mark.REQUEUED, first, requeued(dead))
    scene.ran(first)
    finish(scene, first)
    holds(scene)


# -- linearizable ----------------------------------------------------------------------------------------


def seeing(scene: Scene, seen: int) -> str:
    return scene.whole_call(resource="r", value={"seen": seen})


def test_two_calls_that_saw_the_same_are_found() -> None:
    scene = a_scene()
    seeing(scene, 0)
    calls = [seeing(scene, 1), seeing(scene, 1)]
    broken_by(scene, "linearizable", *calls)


def test_a_call_that_did_not_see_one_that_had_completed_is_found() -> None:
    scene = a_scene()
    calls = [seeing(scene, 1), seeing(scene, 0)]
    broken_by(scene, "linearizable", *calls)


def test_a_call_that_saw_more_than_there_were_is_found() -> None:
    scene = a_scene()
    seeing(scene, 0)
    broken_by(scene, "linearizable", seeing(scene, 2))


def test_outcomes_against_the_order_of_what_was_seen_are_found() -> None:
    scene = a_scene()
    numbers = scene.invoke(resource="r"), scene.invoke(resource="r")
    first, second = (scene.accept(number, resource="r") for number in numbers)
    scene.ran(first)
    scene.ran(second)
    finish(scene, first, {"seen": 1})
    finish(scene, second, {"seen": 0})
    for number, call_id, seen in ((numbers[0], first, 1), (numbers[1], second, 0)):
        scene.answer(number, value={"seen": seen}, call_id=call_id)
    broken_by(scene, "linearizable", first, second)


def test_calls_that_nobody_read_count_where_they_fit() -> None:
    scene = a_scene()
    seeing(scene, 0)
    number = scene.invoke(resource="r")
    unread = scene.accept(number, resource="r")
    scene.ran(unread)
    finish(scene, unread, {"seen": 1})
    scene.answer(number, Stage.INFO, error="call_timeout")
    seeing(scene, 2)
    holds(scene)


def test_a_call_that_was_in_doubt_keeps_no_place() -> None:
    scene = a_scene()
    seeing(scene, 0)
    number = scene.invoke(resource="r")
    doubted = scene.accept(number, "pay", resource="r")
    scene.mark(Mark.CLAIMED, doubted)
    scene.began(doubted)
    scene.promote("b")
    scene.mark(Mark.IN_DOUBT, doubted)
    scene.answer(number, Stage.INFO, error="call_in_doubt", call_id=doubted)
    seeing(scene, 1)
    scene.ended(doubted, "a", 1)
    body = encode({"seen": 1})
    scene.pen((Mark.EXECUTED, doubted, resolution("reconcile")), (Mark.SUCCEEDED, doubted, body))
    seeing(scene, 3)
    holds(scene)


def test_repeats_see_what_the_first_one_saw() -> None:
    scene = a_scene()
    number = scene.invoke(resource="r", key="k")
    first = scene.accept(number, resource="r", key="k", argument=1)
    scene.mark(Mark.KEYED, first, bytes(32))
    scene.ran(first)
    finish(scene, first, {"seen": 0})
    scene.answer(number, value={"seen": 0}, call_id=first)
    seeing(scene, 1)
    number = scene.invoke(resource="r", key="k")
    second = scene.accept(number, resource="r", key="k", argument=1)
    scene.mark(Mark.DUPLICATE, second, bytes.fromhex(first.replace("-", "")))
    scene.answer(number, value={"seen": 0}, call_id=second)
    holds(scene)

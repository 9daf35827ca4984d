"""What operators say of doubts and dead letters: it is done as they said, once, if it was confirmed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aegisipc.chaos.history import Probe, Stage
from aegisipc.chaos.operators import DISCARD, REQUEUE, RESOLVE, asking_for, reason_of
from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import Requeued, Resolution
from aegisipc.eventstore.frames import CallEntry, CallFrame, CallOptions, Mark, encode_calls
from aegisipc.eventstore.ids import parse_call_id
from tests.chaos.checking.scene import (
    GROUP,
    NS,
    POOL,
    SERVICE,
    Scene,
    a_pool,
    a_scene,
    broken_by,
    error,
    holds,
)

OPERATOR = "ann"


class Orders:
    """An operator, who asks for things in a scene; numbers are its own."""

    def __init__(self, scene: Scene, group: str = GROUP) -> None:
        self.scene, self.group = scene, group
        self.number = 5000

    def ask(self, command: str, call_id: str, **said: Any) -> int:
        self.number += 1
        plain = {"command": command, "call_id": call_id, **said}
        place = f"{SERVICE}/{self.group}"
        asked = asking_for(self.number, OPERATOR, self.scene.tick(), place, plain)
        self.scene.asked[self.number] = asked
        self.scene.evidence.take(asked)
        return self.number

    def resolve(self, call_id: str, result: Any = None, *, executed: bool = True) -> int:
        return self.ask(RESOLVE, call_id, executed=executed, **({"result": result} if executed else {}))

    def answer(self, number: int, seq: int | None = None, *, refused: str | None = None) -> None:
        stage = Stage.OK if refused is None else Stage.FAIL
        value = {"ok": True, "seq": seq} if refused is None else None
        call_id = self.scene.asked[number].call_id
        self.scene.answer(number, stage, value=value, error=refused, call_id=call_id)

    def unknown(self, number: int) -> None:
        self.scene.answer(number, Stage.INFO, error="ack_unknown", call_id=self.scene.asked[number].call_id)


def because(number: int, author: str = OPERATOR, doubt_seq: int = 0) -> bytes:
    said = Resolution(source="operator", author=author, reason=reason_of(number), doubt_seq=doubt_seq)
    return encode(said)


def doubts(count: int = 1) -> tuple[Scene, Orders, list[str]]:
    scene = a_scene()
    calls = []
    for _ in range(count):
        call_id = scene.accept(scene.invoke(), "pay", timeout_ms=60_000)
        scene.mark(Mark.CLAIMED, call_id)
        scene.ran(call_id)
        calls.append(call_id)
    scene.promote("b")
    for call_id in calls:
        scene.mark(Mark.IN_DOUBT, call_id, error("in_doubt"))
    scene.wait(10.0)
    return scene, Orders(scene), calls


def executed(scene: Scene, call_id: str, number: int, result: Any, **more: Any) -> int:
    return scene.pen(
        (Mark.EXECUTED, call_id, because(number)), (Mark.SUCCEEDED, call_id, encode(result)), **more
    )


def not_executed(scene: Scene, call_id: str, number: int) -> int:
    return scene.mark(Mark.NOT_EXECUTED, call_id, because(number))


def run_again(scene: Scene, call_id: str) -> None:
    scene.mark(Mark.CLAIMED, call_id)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))


# -- doubts ----------------------------------------------------------------------------------------------


def test_resolutions_that_are_done_as_they_were_said_are_legal() -> None:
    scene, orders, (ran, did_not) = doubts(2)
    number = orders.resolve(ran, 7)
    orders.answer(number, executed(scene, ran, number, 7))
    number = orders.resolve(did_not, executed=False)
    orders.answer(number, not_executed(scene, did_not, number))
    run_again(scene, did_not)
    number = orders.resolve(ran, 7)
    orders.answer(number, refused="not_in_doubt")
    holds(scene)
    assert scene.verdict("orders").looked_at == 5


def test_a_resolution_that_is_written_for_another_call_is_found() -> None:
    scene, orders, (one, other) = doubts(2)
    number = orders.resolve(one, 7)
    orders.unknown(number)
    executed(scene, other, number, 7)
    assert f"of call {other}" in broken_by(scene, "orders", one, other).text


def test_a_resolution_that_is_written_as_its_contrary_is_found() -> None:
    scene, orders, (call_id,) = doubts()
    number = orders.resolve(call_id, executed=False)
    orders.answer(number, executed(scene, call_id, number, 7))
    assert "which says EXECUTED" in broken_by(scene, "orders", call_id).text


def test_another_result_or_none_is_found() -> None:
    for result in (8, None):
        scene, orders, (call_id,) = doubts()
        number = orders.resolve(call_id, 7)
        orders.answer(number, executed(scene, call_id, number, result))
        assert "and 7 was said" in broken_by(scene, "orders", call_id).text


def test_a_resolution_in_the_name_of_another_is_found() -> None:
    scene, orders, (call_id,) = doubts()
    number = orders.resolve(call_id, executed=False)
    orders.answer(number, scene.mark(Mark.NOT_EXECUTED, call_id, because(number, "eve")))
    run_again(scene, call_id)
    assert "by operator eve" in broken_by(scene, "orders", call_id).text


def twice(*, is_frozen: bool) -> tuple[Scene, str]:
    """A resolution that ends a second doubt of its call, too."""
    scene, orders, (call_id,) = doubts()
    number = orders.resolve(call_id, executed=False)
    since_ns = scene.now_ns
    orders.answer(number, not_executed(scene, call_id, number))
    scene.mark(Mark.CLAIMED, call_id)
    scene.ran(call_id)
    scene.mark(Mark.IN_DOUBT, call_id, error("in_doubt"))
    not_executed(scene, call_id, number)
    run_again(scene, call_id)
    if is_frozen:
        scene.fault("freeze", "b", since_ns)
    return scene, call_id


def test_a_resolution_that_ends_two_doubts_is_found() -> None:
    scene, call_id = twice(is_frozen=False)
    assert "more than once" in broken_by(scene, "orders", call_id).text
    holds(twice(is_frozen=True)[0])


def test_a_confirmation_of_what_is_not_in_the_log_is_found() -> None:
    scene, orders, (call_id,) = doubts()
    orders.answer(orders.resolve(call_id, 7), 3)
    assert "was confirmed, and the log says" in broken_by(scene, "orders", call_id).text


def test_a_confirmation_of_another_record_or_too_early_is_found() -> None:
    scene, orders, (call_id,) = doubts()
    number = orders.resolve(call_id, 7)
    seq = executed(scene, call_id, number, 7)
    orders.answer(number, seq - 1)
    assert f"is at {seq}" in broken_by(scene, "orders", call_id).text
    scene, orders, (call_id,) = doubts()
    number = orders.resolve(call_id, 7)
    orders.answer(number)
    scene.wait(0.2)
    executed(scene, call_id, number, 7)
    assert "before it was in the log" in broken_by(scene, "orders", call_id).text


def refused(code: str) -> tuple[Scene, Orders, str]:
    scene, orders, (call_id,) = doubts()
    number = orders.resolve(call_id, 7)
    executed(scene, call_id, number, 7)
    orders.answer(number, refused=code)
    return scene, orders, call_id


def test_a_refusal_of_what_is_done_is_found() -> None:
    scene, _, call_id = refused("not_in_doubt")
    assert "was refused with not_in_doubt" in broken_by(scene, "orders", call_id).text


@pytest.mark.parametrize("code", ["pen_lost", "ack_unknown", "not_connected"])
def test_an_answer_that_nobody_knows_says_nothing(code: str) -> None:
    holds(refused(code)[0])


def test_a_former_holder_may_refuse_what_the_present_one_does() -> None:
    scene, orders, (call_id,) = doubts()
    scene.promote("b")  # a moment ago: another one may not know that yet
    number = orders.resolve(call_id, 7)
    executed(scene, call_id, number, 7)
    orders.answer(number, refused="not_in_doubt")
    holds(scene, "failovers")


def test_reasons_of_others_are_of_no_operation() -> None:
    scene, _, (call_id,) = doubts()
    scene.pen(
        (Mark.EXECUTED, call_id, encode(Resolution(source="operator", author="ann", reason="I looked"))),
        (Mark.SUCCEEDED, call_id, encode(1)),
    )
    holds(scene)


# -- dead letters ----------------------------------------------------------------------------------------


def dead(scene: Scene, *, group: str = GROUP) -> tuple[str, int]:
    call_id = scene.accept(scene.invoke(), group=group)
    scene.ran(call_id)
    seq = scene.mark(Mark.DEAD_LETTERED, call_id, error("dead_lettered"), group=group)
    scene.wait(10.0)
    return call_id, seq


def again(number: int, dead_seq: int) -> bytes:
    said = Requeued(author=OPERATOR, reason=reason_of(number), dead_seq=dead_seq, timeout_ms=1000)
    return encode(said)


def test_dead_letters_that_are_dealt_with_as_was_said_are_legal() -> None:
    scene = a_scene()
    orders = Orders(scene)
    call_id, seq = dead(scene)
    number = orders.ask(REQUEUE, call_id)
    orders.answer(number, scene.mark(Mark.REQUEUED, call_id, again(number, seq)))
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    call_id, _ = dead(scene)
    number = orders.ask(DISCARD, call_id)
    orders.answer(number, scene.mark(Mark.DISCARDED, call_id, because(number)))
    holds(scene, "recovery")
    assert scene.verdict("orders").looked_at == 4


@pytest.mark.parametrize("command", [DISCARD, REQUEUE])
def test_a_word_on_a_dead_letter_that_is_confirmed_and_not_written_is_found(command: str) -> None:
    scene = a_scene()
    orders = Orders(scene)
    call_id, seq = dead(scene)
    orders.answer(orders.ask(command, call_id), seq)
    broken_by(scene, "orders", call_id)


def test_a_dead_letter_that_was_to_run_again_and_is_discarded_is_found() -> None:
    scene = a_scene()
    orders = Orders(scene)
    call_id, _ = dead(scene)
    number = orders.ask(REQUEUE, call_id)
    orders.answer(number, scene.mark(Mark.DISCARDED, call_id, because(number)))
    broken_by(scene, "orders", call_id)


# -- pools -----------------------------------------------------------------------------------------------


def stored_again(scene: Scene, call_id: str, number: int, dead_seq: int) -> int:
    options = CallOptions(None, 1, (dead_seq, "c"))
    entry = CallEntry(parse_call_id(call_id), "put", 1000, None, options)
    frame = CallFrame(99, number, 0, [entry], [again(number, dead_seq)])
    return scene.store(NS.call(SERVICE, POOL, "a"), encode_calls(frame))


def settled(scene: Scene) -> None:
    scene.evidence.take(Probe("system", "system", serves=True, at_ns=scene.tick()))


def test_a_dead_letter_of_a_pool_is_stored_again_and_runs() -> None:
    scene = a_pool()
    orders = Orders(scene, POOL)
    call_id, seq = dead(scene, group=POOL)
    number = orders.ask(REQUEUE, call_id)
    orders.answer(number, stored_again(scene, call_id, number, seq))
    scene.mark(Mark.REQUEUED, call_id, again(number, seq), group=POOL)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1), group=POOL)
    settled(scene)
    holds(scene, "recovery")


def test_one_that_is_dead_again_after_that_is_legal() -> None:
    scene = a_pool()
    orders = Orders(scene, POOL)
    call_id, seq = dead(scene, group=POOL)
    number = orders.ask(REQUEUE, call_id)
    orders.answer(number, stored_again(scene, call_id, number, seq))
    scene.mark(Mark.REQUEUED, call_id, again(number, seq), group=POOL)
    scene.ran(call_id)
    body = error("dead_lettered", dead_seq=seq)
    scene.mark(Mark.DEAD_LETTERED, call_id, body, group=POOL)
    settled(scene)
    holds(scene, "recovery")


def test_one_that_is_not_stored_again_or_stays_what_it_was_is_found() -> None:
    for is_stored in (False, True):
        scene = a_pool()
        orders = Orders(scene, POOL)
        call_id, seq = dead(scene, group=POOL)
        number = orders.ask(REQUEUE, call_id)
        orders.answer(number, stored_again(scene, call_id, number, seq) if is_stored else seq)
        settled(scene)
        expected = "it is that dead letter still" if is_stored else "is not stored again"
        assert expected in broken_by(scene, "orders", call_id).text


def test_while_a_run_has_not_settled_it_may_wait() -> None:
    scene = a_pool()
    orders = Orders(scene, POOL)
    call_id, seq = dead(scene, group=POOL)
    number = orders.ask(REQUEUE, call_id)
    orders.answer(number, stored_again(scene, call_id, number, seq))
    holds(scene)


def test_an_order_of_which_there_is_only_the_answer_says_nothing() -> None:
    scene = a_scene()
    call_id, _ = dead(scene)
    asked = asking_for(7000, OPERATOR, scene.tick(), "orders/acc", {"command": DISCARD, "call_id": call_id})
    scene.evidence.take(replace(asked, stage=Stage.OK, value={"seq": 1}))
    holds(scene)


def test_one_whose_pool_is_paused_waits() -> None:
    scene = a_pool()
    orders = Orders(scene, POOL)
    call_id, seq = dead(scene, group=POOL)
    number = orders.ask(REQUEUE, call_id)
    orders.answer(number, stored_again(scene, call_id, number, seq))
    event = ev.GroupPaused(scope="group", author="ann", decided_by="r")
    scene.say(NS.watch(SERVICE, POOL), event)
    settled(scene)
    holds(scene)

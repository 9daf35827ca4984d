"""What callers are told of calls that took their instances down, and of doubts that say how they came."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk import CallFailed, CallInDoubt, DeadLettered, RemoteError
from aegisipc.sdk.outcomes import value_of

ID = b"\x01\xa3\x18\x5c\x50\x00\x70\x00\x80\x00\x04\x00\x00\x00\x00\x07"
CALL_ID = "01a3185c-5000-7000-8000-040000000007"


def body(code: str, message: str, /, **details: Any) -> bytes:
    return encode({"code": code, "message": message, "details": details})


def dead(given: bytes | None) -> DeadLettered:
    with pytest.raises(DeadLettered) as caught:
        value_of(Outcome(ID, Mark.DEAD_LETTERED, given), "orders.put", None)
    return caught.value


def doubted(given: bytes | None) -> CallInDoubt:
    with pytest.raises(CallInDoubt) as caught:
        value_of(Outcome(ID, Mark.IN_DOUBT, given), "orders.pay", None)
    return caught.value


def test_a_dead_letter_says_how_often_it_was_begun_and_what_to_do() -> None:
    error = dead(body("dead_lettered", "a, b and c were lost", attempts=3, instances=["a", "b", "c"]))
    assert isinstance(error, CallFailed)
    assert (error.code, error.call_id, error.attempts) == ("dead_lettered", CALL_ID, 3)
    assert (error.reason, error.error, error.stack) == ("poison", None, [])
    assert error.recorded == {"attempts": 3, "instances": ["a", "b", "c"]}
    assert "orders.put was begun 3 times" in error.message
    assert "a, b and c were lost" in error.message
    assert "before you call again" in error.message


@pytest.mark.parametrize("given", [None, b"", b"\xc1", encode("no error")])
def test_a_dead_letter_that_cannot_be_read_is_one_all_the_same(given: bytes | None) -> None:
    error = dead(given)
    assert (error.attempts, error.reason) == (None, "")
    assert "was begun several times" in error.message


@pytest.mark.parametrize(
    "key", ["message", "self", "call_id", "no name", "attempts", "reason", "error", "stack"]
)
def test_details_of_a_dead_letter_may_have_any_key(key: str) -> None:
    error = dead(body("dead_lettered", "lost", **{key: "odd"}))
    assert error.call_id == CALL_ID
    assert error.reason == ("" if key == "reason" else "poison")
    assert error.recorded == {key: "odd"}
    assert pickle.loads(pickle.dumps(error)).details == error.details


def test_a_dead_letter_keeps_everything_when_pickled() -> None:
    error = pickle.loads(pickle.dumps(dead(body("dead_lettered", "lost", attempts=2))))
    assert (error.attempts, error.call_id, error.reason) == (2, CALL_ID, "poison")


@pytest.mark.parametrize(
    ("reason", "attempts", "story"),
    [
        ("attempts", 3, "was begun 3 times, and failed each time (broken: it broke)"),
        ("deadline", 1, "was begun once, and failed; its deadline left no time to try again (broken: it"),
        ("poison", 2, "was begun 2 times and has no outcome: the instances that ran it are gone (broken: "),
    ],
)
def test_a_dead_letter_says_why_it_was_given_up_and_what_the_last_error_was(
    reason: str, attempts: int, story: str
) -> None:
    last = {"code": "broken", "message": "it broke", "details": {"part": 7}}
    given = {"attempts": attempts, "reason": reason, "error": last, "stack": ["a.py:1", "b.py:2"]}
    error = dead(body("dead_lettered", "given up", **given))
    assert (error.reason, error.attempts, error.error) == (reason, attempts, last)
    assert error.stack == ["a.py:1", "b.py:2"]
    assert story in error.message
    assert "requeue" in error.message


@pytest.mark.parametrize("first", [None, 5, b"x"], ids=repr)
def test_a_conflict_that_does_not_name_the_first_call_is_told_as_it_is(first: object) -> None:
    given = body("idempotency_conflict", "conflict", first=first, key="k")
    with pytest.raises(RemoteError) as caught:
        value_of(Outcome(ID, Mark.FAILED, given), "orders.put", None)
    assert caught.value.code == "idempotency_conflict"


def test_a_doubt_says_how_it_came() -> None:
    error = doubted(body("in_doubt", "instance a lost the pen while it ran"))
    assert error.reason == "instance a lost the pen while it ran"
    assert "(instance a lost the pen while it ran)" in error.message


def test_a_doubt_of_unknown_origin_is_one_all_the_same() -> None:
    error = doubted(None)
    assert error.reason == ""
    assert "orders.pay was started by an instance that is gone, so it may have run; it is" in error.message

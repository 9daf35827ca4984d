"""Replies and questions: what is packed comes back, and hostile bytes are refused."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.wire import MAX_ASKED, decode_ask, decode_outcomes, encode_ask, encode_outcomes

ID = b"i" * 16
CALL_IDS = st.binary(min_size=16, max_size=16)
OUTCOMES = st.tuples(CALL_IDS, st.sampled_from([1, 2, 3, 4, 10, 13, 17]), st.none() | st.binary(max_size=50))


@given(st.lists(OUTCOMES, max_size=20))
def test_outcomes_come_back_as_they_were(outcomes: list[tuple[bytes, int, bytes | None]]) -> None:
    assert [tuple(o) for o in decode_outcomes(encode_outcomes(outcomes, 1 << 20))] == outcomes


@given(st.lists(CALL_IDS, max_size=20))
def test_questions_come_back_as_they_were(call_ids: list[bytes]) -> None:
    assert decode_ask(encode_ask(call_ids)) == call_ids


def test_outcomes_that_do_not_fit_are_left_out() -> None:
    outcomes = [(ID, 1, b"x" * 400)] * 10
    packed = encode_outcomes(outcomes, 2000)
    assert len(packed) <= 2000
    assert len(decode_outcomes(packed)) == 4


def test_an_outcome_that_does_not_fit_keeps_none_behind_it_from_being_told() -> None:
    outcomes = [(ID, 1, b"x"), (ID, 1, b"x" * 4000), (ID, 2, b"y")]
    told = decode_outcomes(encode_outcomes(outcomes, 2000))
    assert [tuple(outcome) for outcome in told] == [outcomes[0], outcomes[2]]


def test_a_question_holds_a_thousand_ids_at_most_and_never_leaves_one_out() -> None:
    assert len(decode_ask(encode_ask([ID] * MAX_ASKED))) == MAX_ASKED
    with pytest.raises(ValueError, match="ask in parts of 1000"):
        encode_ask([ID] * (MAX_ASKED + 1))


HOSTILE: list[Any] = [
    None,
    5,
    "",
    b"",
    {},
    {"a": 1},
    "text",
    [None],
    [5],
    [[]],
    [[ID, 1]],
    [[ID, 1, b"", b""]],
    [[ID, "1", b""]],
    [[ID, True, b""]],
    [[ID, 1.0, b""]],
    [["i" * 16, 1, b""]],
    [[b"short", 1, b""]],
    [[ID, 1, "text"]],
    [[ID, int(Mark.CLAIMED), None]],
    [[ID, 99, None]],
    [[ID, int(Mark.KEYED), None]],
    [[ID, int(Mark.RETRY_SCHEDULED), None]],
    [[ID, int(Mark.DISCARDED), None]],
    [[ID, -1, None]],
    [[[[[ID]]], 1, None]],
]


@pytest.mark.parametrize("plain", HOSTILE, ids=repr)
def test_what_is_no_reply_is_refused(plain: Any) -> None:
    with pytest.raises(MalformedPayload, match="cannot read a reply"):
        decode_outcomes(msgpack.packb(plain))


@pytest.mark.parametrize(
    "plain", [None, 5, "", b"", {}, "text", [None], [5], ["i" * 16], [b"short"], [[ID]]], ids=repr
)
def test_what_is_no_question_is_refused(plain: Any) -> None:
    with pytest.raises(MalformedPayload, match="cannot read a question"):
        decode_ask(msgpack.packb(plain))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    for decode in (decode_outcomes, decode_ask):
        with contextlib.suppress(MalformedPayload):
            assert isinstance(decode(payload), list)


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xc6\xff\xff\xff\xff"]
)
def test_bombs_are_refused(payload: bytes) -> None:
    with pytest.raises(MalformedPayload):
        decode_outcomes(payload)
    with pytest.raises(MalformedPayload):
        decode_ask(payload)

"""Redaction: what a field held is gone from the file, shapes stay, and every fold comes to the same state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.frames import (
    Mark,
)
from aegisipc.eventstore.ids import CallIds
from aegisipc.eventstore.keys import (
    key_hash,
    keyed_body,
)
from aegisipc.eventstore.references import Reference, encode_reference
from aegisipc.eventstore.replay import BadField, Redactor
from tests.eventstore.replay.bundle_kit import Incident
from tests.sdk.kit import NS

SECRET = "tell-nobody"
NAIVE = datetime(2026, 1, 2, 3, tzinfo=UTC).replace(tzinfo=None)
_ids = CallIds(8)
CALL_ID = _ids.next(1_800_000_000_000)


def redacted_body(mark: Mark, said: Any, *fields: str) -> Any:
    body = Redactor(fields).body(mark, encode(said))
    assert body is not None
    return decode(body)


def redacted_arguments(said: Any, *fields: str, names: tuple[str, ...] | None = ("order", "count")) -> Any:
    return decode(Redactor(fields).arguments(encode(said), names))


def test_an_argument_by_position_has_the_name_of_its_parameter() -> None:
    said = [["acc_1", SECRET, 7], {}]
    names = ("account", "iban", "count")
    assert redacted_arguments(said, "iban", names=names) == [["acc_1", "x" * len(SECRET), 7], {}]
    assert redacted_arguments(said, "nothing", names=names) == said
    for too_few in (None, ()):  # it may be any of them
        assert redacted_arguments(said, "iban", names=too_few) == [["xxxxx", "x" * len(SECRET), 0], {}]
    assert redacted_arguments(said, "iban", names=("account",)) == [["acc_1", "x" * len(SECRET), 0], {}]
    assert redacted_arguments(said, "results", names=None) == said
    assert redacted_arguments(said, "arguments", names=names) == [["xxxxx", "x" * len(SECRET), 0], {}]


# -- values -----------------------------------------------------------------------------------------------


def test_a_field_is_found_at_any_depth_and_the_rest_stays() -> None:
    said = [
        [{"account": SECRET, "lines": [{"account": "1", "sum": 5}]}, 7],
        {"account": "zwölf", "who": {"account": None, "deep": ({"account": True},)}},
    ]
    assert redacted_arguments(said, "account") == [
        [{"account": "x" * len(SECRET), "lines": [{"account": "x", "sum": 5}]}, 7],
        {"account": "xxxxx", "who": {"account": None, "deep": ({"account": False},)}},
    ]


@pytest.mark.parametrize(
    ("value", "blank"),
    [
        ("text", "xxxx"),
        (b"bytes", b"xxxxx"),
        (17, 0),
        (1 << 80, 0),
        (True, False),
        (1.5, 0.0),
        (2 + 1j, 0j),
        (Decimal("1.50"), Decimal(0)),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
        (NAIVE, NAIVE.replace(year=1970, day=1, hour=0)),
        (date(2026, 1, 2), date(1970, 1, 1)),
        (time(3, 4), time(0)),
        (timedelta(3), timedelta(0)),
        (UUID(int=5), UUID(int=0)),
        (None, None),
        ([1, "a"], [0, "x"]),
        ((1, "a"), (0, "x")),
        ({1, 2}, {0}),
        (frozenset({"ab"}), frozenset({"xx"})),
        ({"name": "a", 5: [b"b"]}, {"name": "x", 0: [b"x"]}),
    ],
)
def test_every_kind_of_value_becomes_one_of_the_same_kind(value: Any, blank: Any) -> None:
    [[found], _] = redacted_arguments([[{"f": value}], {}], "f")
    assert found == {"f": blank}
    assert type(found["f"]) is type(blank)
    assert redacted_arguments([[value], {}], "arguments") == [[blank], {}]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner),
    max_leaves=12,
)


def _holds(value: Any, fields: Sequence[str]) -> bool:
    if isinstance(value, dict):
        return any(name in fields or _holds(inner, fields) for name, inner in value.items())
    return isinstance(value, list) and any(_holds(inner, fields) for inner in value)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner) for inner in value]
    return (type(value), len(value)) if isinstance(value, str | bytes) else type(value)


@settings(max_examples=200)
@given(VALUES)
def test_shapes_stay_and_what_has_no_such_field_stays_to_the_byte(value: Any) -> None:
    body = encode([[value], {}])
    redacted = Redactor(["a", "c"]).arguments(body, ("value",))
    assert _shape(decode(redacted)) == _shape(decode(body))
    if not _holds(value, ["a", "c"]):
        assert redacted == body
    everything = Redactor(["arguments"]).arguments(body)
    assert _shape(decode(everything)) == _shape(decode(body))


def test_without_fields_nothing_changes() -> None:
    redactor = Redactor([])
    assert not redactor
    for record in Incident().records:
        assert redactor.record(record, NS) is record
    assert redactor.body(Mark.KEYED, b"xyz") == b"xyz"


@pytest.mark.parametrize("name", ["", "x" * 300, "line\nfeed"])
def test_what_can_be_no_field_is_refused(name: str) -> None:
    with pytest.raises(BadField) as caught:
        Redactor(["good", name])
    assert caught.value.field == name


# -- bodies of marks ----------------------------------------------------------------------------------------


def test_results_and_events_of_the_shared_state_are_redacted_by_field_and_as_a_whole() -> None:
    assert redacted_body(Mark.SUCCEEDED, {"iban": SECRET, "n": 1}, "iban") == {"iban": "x" * 11, "n": 1}
    assert redacted_body(Mark.SUCCEEDED, {"iban": SECRET, "n": 1}, "results") == {"iban": "x" * 11, "n": 0}
    assert redacted_body(Mark.SUCCEEDED, {"n": 1}, "arguments", "errors") == {"n": 1}
    assert redacted_body(Mark.EMITTED, ["booked", {"iban": "ab", "n": 1}], "iban") == [
        "booked",
        {"iban": "xx", "n": 1},
    ]
    assert redacted_body(Mark.EMITTED, ["booked", {"n": 1}], "results") == ["booked", {"n": 0}]


@pytest.mark.parametrize("mark", [Mark.FAILED, Mark.EXPIRED, Mark.IN_DOUBT, Mark.CANCELLED])
def test_an_error_keeps_its_code_and_loses_what_was_asked_for(mark: Mark) -> None:
    error = {"code": "refused", "message": f"account {SECRET} is closed", "details": {"iban": SECRET, "n": 1}}
    assert redacted_body(mark, error, "iban") == {
        "code": "refused",
        "message": f"account {'x' * len(SECRET)} is closed",
        "details": {"iban": "x" * len(SECRET), "n": 1},
    }
    assert redacted_body(mark, error, "message")["message"] == "x" * len(error["message"])
    assert redacted_body(mark, error, "message")["details"] == error["details"]
    everything = redacted_body(mark, error, "errors")
    assert everything == {
        "code": "refused",
        "message": "x" * len(error["message"]),
        "details": {"iban": "x" * len(SECRET), "n": 0},
    }
    assert redacted_body(mark, error, "code", "details")["code"] == "refused"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (4711, "4711"),
        (4711, "4,711.00"),
        (Decimal("47.10"), "47.10"),
        (47.1, "47.1"),
        (1 << 80, str(1 << 80)),
        (b"secret", "b'secret'"),
        (UUID(int=47), str(UUID(int=47))),
        (date(2026, 1, 2), "2 1 2026"),
        ({SECRET}, SECRET),
        ([{"deep": (SECRET,)}], SECRET),
        ({SECRET: 1, 4711: 2}, f"{SECRET} and 4711"),
    ],
)
def test_what_was_no_text_goes_from_the_message_too(value: Any, shown: str) -> None:
    error = {"code": "c", "message": f"not {shown}", "details": {"account": value, "n": 7}}
    said = redacted_body(Mark.FAILED, error, "account")
    assert said["details"]["n"] == 7
    assert not any(part in said["message"] for part in (SECRET, "secret", *"47126"))
    assert len(said["message"]) == len(error["message"])


def test_keys_that_can_be_no_names_of_fields_are_replaced_and_stay_apart() -> None:
    balances = {"DE-4711": 5, "DE-4712": 6, "name": 7, 12: 8, 13: 9, ("a", 1): 10}
    said = redacted_arguments([[], {"balances": balances}], "balances")[1]["balances"]
    assert said == {"xxxxxxx": 0, "xxxxxx1": 0, "name": 0, 0: 0, 2: 0, ("x", 0): 0}
    assert redacted_arguments([[balances], {"a": 1}], "arguments") == [[said], {"a": 0}]
    assert redacted_arguments([[], {"balances": balances}], "name")[1]["balances"] == balances | {"name": 0}
    many = {f"k-{number}": number for number in range(20_000)}
    assert len(redacted_arguments([[many], {}], "arguments")[0][0]) == len(many)


def test_what_folds_read_of_a_word_about_a_call_stays() -> None:
    letter = {
        "code": "dead_lettered",
        "message": f"it is given up: {SECRET}",
        "details": {
            "claimed_seq": 5,
            "dead_seq": 9,
            "attempts": 3,
            "error": {"code": "x", "message": SECRET, "details": {"iban": SECRET}},
        },
    }
    said = redacted_body(Mark.DEAD_LETTERED, letter, "errors", "dead_seq", "claimed_seq")
    assert (said["details"]["claimed_seq"], said["details"]["dead_seq"]) == (5, 9)
    assert said["details"]["error"] == {"code": "x", "message": "x" * 11, "details": {"iban": "x" * 11}}
    assert SECRET not in str(said)
    assert SECRET not in str(redacted_body(Mark.DEAD_LETTERED, letter, "iban"))
    retry = {
        "attempt": 2,
        "due_ns": 77,
        "error": {"code": "c", "message": SECRET, "details": {}},
        "claimed_seq": 4,
    }
    said = redacted_body(Mark.RETRY_SCHEDULED, retry, "errors", "attempt", "due_ns", "claimed_seq")
    assert said == retry | {"error": {"code": "c", "message": "x" * 11, "details": {}}}
    word = {"source": "operator", "author": "ann@box", "reason": SECRET, "doubt_seq": 8}
    for mark in (Mark.EXECUTED, Mark.NOT_EXECUTED, Mark.DISCARDED):
        assert redacted_body(mark, word, "reason", "source", "doubt_seq") == word | {"reason": "x" * 11}


def test_the_details_of_a_services_own_error_have_no_structure_to_keep() -> None:
    error = {"code": "c", "message": "m", "details": {"claimed_seq": 5, "error": {"iban": SECRET}}}
    said = redacted_body(Mark.FAILED, error, "claimed_seq", "iban")
    assert said["details"] == {"claimed_seq": 0, "error": {"iban": "x" * 11}}


def test_a_call_in_a_word_about_it_keeps_its_headers_and_loses_its_arguments() -> None:
    call = {
        "client": "c1",
        "method": "pay",
        "resource": "acc_1",
        "key": "k",
        "priority": 1,
        "body": encode([[{"iban": SECRET}], {}]),
    }
    word = {"author": "ann", "reason": "r", "dead_seq": 5, "timeout_ms": 100, "call": call}
    said = redacted_body(Mark.REQUEUED, word, "iban", "resource", "key", "timeout_ms", "author")
    assert decode(said["call"]["body"]) == [[{"iban": "x" * 11}], {}]
    assert {**said, "call": {**said["call"], "body": b""}} == {
        **word,
        "author": "xxx",
        "call": {**call, "body": b""},
    }


def test_digests_that_could_be_guessed_from_go_and_other_raw_bodies_stay() -> None:
    redactor = Redactor(["anything"])
    assert redactor.body(Mark.KEYED, keyed_body(key_hash("k"), b"d" * 16)) == key_hash("k") + bytes(16)
    for mark, body in ((Mark.RELEASED, key_hash("k")), (Mark.DUPLICATE, CALL_ID), (Mark.CHECKED, b"c" * 32)):
        assert redactor.body(mark, body) == body
    assert redactor.body(Mark.SUCCEEDED, None) is None


def test_a_reference_to_a_large_body_stays() -> None:
    body = encode_reference(Reference("orders.acc.x.args", 5_000_000, b"s" * 32))
    assert Redactor(["arguments"]).arguments(body) == body


def test_what_cannot_be_decoded_is_emptied() -> None:
    redactor = Redactor(["iban"])
    assert redactor.arguments(b"\xc1" + SECRET.encode()) == bytes(12)
    assert redactor.body(Mark.SUCCEEDED, b"\x92" + SECRET.encode()) == bytes(12)
    assert redacted_body(Mark.FAILED, ["not", "an", "error"], "iban") == ["xxx", "xx", "xxxxx"]
    assert redacted_body(Mark.EMITTED, SECRET, "iban") == "x" * len(SECRET)

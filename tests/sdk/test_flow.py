"""How long calls wait is estimated with care, told while it matters, and refuses only what is surely late."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.sdk.core.flow import (
    CERTAINTY,
    EXPIRES_NS,
    MAX_GROUPS,
    MAX_WAIT_MS,
    MIN_WAIT_MS,
    NO_WAIT,
    REPEAT_NS,
    FlowHint,
    FlowHints,
    FlowMeter,
    decode_hint,
    encode_hint,
)

TICK = 100_000_000
SECOND = 1_000_000_000


class Holder:
    """It is asked every 100 ms, and concludes so many calls a second."""

    def __init__(self, now_ns: int = 7 * SECOND) -> None:
        self.meter = FlowMeter()
        self.now_ns = now_ns
        self.concluded = 0

    def ticks(self, count: int, *, rate: int, waiting: int) -> list[FlowHint]:
        told = []
        for _ in range(count):
            self.now_ns += TICK
            self.concluded += rate // 10
            hint = self.meter.ask(self.now_ns, waiting=waiting, concluded=self.concluded)
            told += [hint] if hint is not None else []
        return told


# -- the holder ----------------------------------------------------------------------------------------


def test_the_wait_is_what_waits_over_what_is_concluded_a_second() -> None:
    told = Holder().ticks(30, rate=1000, waiting=5000)
    assert told
    assert all(hint == FlowHint(5000, 5000) for hint in told)


def test_nothing_is_told_while_nothing_waits() -> None:
    assert Holder().ticks(50, rate=1000, waiting=0) == []


def test_nothing_is_told_of_a_wait_that_is_not_worth_it() -> None:
    assert Holder().ticks(50, rate=1000, waiting=MIN_WAIT_MS - 1) == []


def test_nothing_is_told_that_cannot_be_estimated() -> None:
    holder = Holder()
    assert holder.ticks(2, rate=1000, waiting=5000) == []
    assert Holder().ticks(50, rate=0, waiting=5000) == []


def test_a_group_that_stands_still_says_no_more_after_a_while() -> None:
    holder = Holder()
    assert holder.ticks(30, rate=1000, waiting=5000)
    holder.ticks(21, rate=0, waiting=5000)
    assert holder.ticks(50, rate=0, waiting=5000) == []


def test_what_has_not_changed_is_repeated_before_it_expires_and_not_all_the_time() -> None:
    holder = Holder()
    holder.ticks(30, rate=1000, waiting=5000)
    told = holder.ticks(40, rate=1000, waiting=5000)
    assert len(told) == 40 * TICK // REPEAT_NS
    assert 2 * REPEAT_NS < EXPIRES_NS


def test_what_has_changed_much_is_told_at_once() -> None:
    holder = Holder()
    holder.ticks(30, rate=1000, waiting=5000)
    assert holder.ticks(1, rate=1000, waiting=10_000) == [FlowHint(10_000, 10_000)]


def test_the_end_of_the_wait_is_told_once_and_at_once() -> None:
    holder = Holder()
    holder.ticks(30, rate=1000, waiting=5000)
    assert holder.ticks(20, rate=1000, waiting=0) == [NO_WAIT]


def test_a_group_that_speeds_up_is_not_judged_by_how_slow_it_was() -> None:
    holder = Holder()
    holder.ticks(30, rate=100, waiting=1000)
    hint = holder.ticks(6, rate=10_000, waiting=1000)[-1]
    assert hint.wait_ms <= 110


def test_a_count_or_a_clock_that_goes_back_begins_anew() -> None:
    holder = Holder()
    holder.ticks(30, rate=1000, waiting=5000)
    holder.concluded = 0
    assert holder.ticks(2, rate=1000, waiting=5000) == []
    assert holder.ticks(8, rate=1000, waiting=5000) != []
    holder.now_ns = 0
    assert holder.ticks(2, rate=1000, waiting=5000) == []
    assert holder.ticks(8, rate=1000, waiting=5000) != []


def test_a_meter_that_is_reset_knows_nothing() -> None:
    holder = Holder()
    holder.ticks(30, rate=1000, waiting=5000)
    holder.meter.reset()
    assert holder.ticks(2, rate=1000, waiting=5000) == []


def test_its_memory_is_bounded_however_often_it_is_asked() -> None:
    meter = FlowMeter()
    for now_ns in range(0, SECOND, SECOND // 10_000):
        meter.ask(now_ns, waiting=5, concluded=now_ns)
    assert len(meter._samples) <= 256


@given(
    asked=st.lists(
        st.tuples(st.integers(-TICK, 5 * TICK), st.integers(0, 1 << 50), st.integers(-5, 100_000)),
        max_size=60,
    )
)
def test_whatever_it_is_told_what_it_says_can_be_read(asked: list[tuple[int, int, int]]) -> None:
    meter, now_ns, concluded = FlowMeter(), SECOND, 0
    for later, waiting, more in asked:
        now_ns, concluded = now_ns + later, concluded + more
        hint = meter.ask(now_ns, waiting=waiting, concluded=concluded)
        if hint is not None:
            assert decode_hint(encode_hint(hint)) == hint
            assert hint == NO_WAIT or (waiting and MIN_WAIT_MS <= hint.wait_ms <= MAX_WAIT_MS)


# -- on the wire ---------------------------------------------------------------------------------------


def test_a_hint_is_json_with_two_numbers_and_may_grow() -> None:
    assert json.loads(encode_hint(FlowHint(3, 400))) == {"waiting": 3, "wait_ms": 400}
    assert decode_hint(b'{"waiting": 3, "wait_ms": 400, "later": "x"}') == FlowHint(3, 400)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"waiting": 3}',
        b'{"waiting": 3, "wait_ms": null}',
        b'{"waiting": true, "wait_ms": 4}',
        b'{"waiting": 3, "wait_ms": 4.5}',
        b'{"waiting": 3, "wait_ms": NaN}',
        b'{"waiting": -1, "wait_ms": 4}',
        b'{"waiting": 3, "wait_ms": -4}',
        b'{"waiting": 3, "wait_ms": 3600001}',
        b'{"waiting": 10000000000000000, "wait_ms": 4}',
        b'{"waiting": 3, "wait_ms": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 200,
        b'{"waiting": 3, "wait_ms": 400, "more": "' + b"x" * 300 + b'"}',
    ],
)
def test_what_is_no_hint_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedPayload, match="cannot read a hint"):
        decode_hint(payload)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_hint_or_are_refused(payload: bytes) -> None:
    try:
        hint = decode_hint(payload)
    except MalformedPayload:
        return
    assert decode_hint(encode_hint(hint)) == hint


# -- the client ----------------------------------------------------------------------------------------


def heard(hint: FlowHint, now_ns: int = 0) -> FlowHints:
    hints = FlowHints()
    hints.heard("orders", "g1", hint, now_ns)
    return hints


def test_a_call_is_refused_only_if_the_wait_is_clearly_longer_than_its_timeout() -> None:
    hints = heard(FlowHint(100, 3000))
    assert hints.refusal("orders", "g1", 1999, 1) == 3000
    assert hints.refusal("orders", "g1", 2000, 1) is None
    assert hints.refusal("orders", "g1", 60_000, 1) is None
    assert CERTAINTY * 2000 == 3000


def test_other_groups_are_not_concerned() -> None:
    hints = heard(FlowHint(100, 3000))
    assert hints.refusal("orders", "g2", 10, 1) is None
    assert hints.refusal("others", "g1", 10, 1) is None
    assert FlowHints().refusal("orders", "g1", 1, 0) is None


def test_a_hint_that_is_old_or_from_the_future_refuses_nothing_and_is_forgotten() -> None:
    assert heard(FlowHint(100, 3000)).refusal("orders", "g1", 10, EXPIRES_NS - 1) == 3000
    for now_ns in (EXPIRES_NS, -1):
        hints = heard(FlowHint(100, 3000))
        assert hints.refusal("orders", "g1", 10, now_ns) is None
        assert hints.refusal("orders", "g1", 10, 1) is None


def test_the_latest_hint_counts() -> None:
    hints = heard(FlowHint(100, 3000))
    hints.heard("orders", "g1", FlowHint(10, 300), 5)
    assert hints.refusal("orders", "g1", 1000, 6) is None
    assert hints.refusal("orders", "g1", 100, 6) == 300
    hints.heard("orders", "g1", NO_WAIT, 7)
    assert hints.refusal("orders", "g1", 1, 8) is None
    assert not hints._heard


def test_a_client_with_few_calls_is_not_refused_because_of_one_with_many() -> None:
    hints = heard(FlowHint(1000, 10_000))
    assert hints.refusal("orders", "g1", 1000, 1, own=0) is None
    assert hints.refusal("orders", "g1", 1000, 1, own=100) is None
    assert hints.refusal("orders", "g1", 1000, 1, own=900) == 9000
    assert hints.refusal("orders", "g1", 1000, 1, own=5000) == 10_000


def test_of_too_many_groups_the_oldest_hints_are_forgotten() -> None:
    hints = FlowHints()
    for number in range(MAX_GROUPS + 5):
        hints.heard("orders", f"g{number}", FlowHint(100, 3000), 0)
    assert len(hints._heard) == MAX_GROUPS
    assert hints.refusal("orders", "g4", 10, 1) is None
    assert hints.refusal("orders", "g5", 10, 1) == 3000

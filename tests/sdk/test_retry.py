"""Policies of retrying: what they allow, when they wait how long, and after which errors."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.sdk.errors import (
    EmitLimitExceeded,
    EmitRefused,
    NotConnected,
    RemoteError,
    ServiceDefinitionError,
    ServiceError,
)
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.transacting import TransactionMisused, TransactionUnknown, TransactionUnsupported

policies = st.builds(
    Retry,
    attempts=st.integers(1, 100),
    base_s=st.floats(0, 3600),
    factor=st.floats(1, 100),
    max_s=st.floats(3600, 24 * 3600),
    jitter=st.floats(0, 1),
)


class Gone(ConnectionError):
    pass


class Poor(ServiceError):
    code = "poor"


REFUSED = [
    *({"attempts": value} for value in (0, -1, 101, 1.0, True, None, "3", math.nan, math.inf)),
    *({"base_s": value} for value in (-0.1, 3601, True, None, "1", math.nan, math.inf, 10**400)),
    *({"factor": value} for value in (0.9, 101, True, None, "2", math.nan, math.inf)),
    *({"max_s": value} for value in (0.05, 86_401, True, None, "2", math.nan, math.inf)),
    *({"jitter": value} for value in (-0.1, 1.1, True, None, "0", math.nan, math.inf)),
    *(
        {"on": value}
        for value in (
            7,
            None,
            "",
            (ValueError(),),
            (1,),
            {ValueError},
            BaseException,
            KeyboardInterrupt,
            [""],
        )
    ),
]


@pytest.mark.parametrize("options", REFUSED, ids=repr)
def test_a_policy_that_makes_no_sense_is_refused_and_the_error_says_what_is_allowed(
    options: dict[str, Any],
) -> None:
    (name,) = options
    with pytest.raises(ServiceDefinitionError, match=rf"cannot use Retry\({name}=.*: it is ") as refused:
        Retry(**options)
    assert refused.value.option == name


def test_the_least_and_the_most_that_is_allowed() -> None:
    Retry(attempts=1, base_s=0, factor=1, max_s=0, jitter=0)
    Retry(attempts=100, base_s=3600, factor=100, max_s=86_400, jitter=1)


def test_the_delays_grow_by_the_factor_up_to_the_most() -> None:
    retry = Retry(base_s=0.1, factor=2, max_s=1, jitter=0.1)
    assert [round(retry.delay_s(attempt, 0.5), 9) for attempt in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1, 1]


def test_jitter_makes_a_delay_shorter_or_longer_by_its_fraction() -> None:
    retry = Retry(base_s=1, jitter=0.25)
    assert [retry.delay_s(1, random) for random in (0, 0.5, 1)] == [0.75, 1, 1.25]


@given(policies, st.integers(1, 10**9), st.floats(0, 1))
def test_a_delay_is_never_below_zero_nor_above_the_most(retry: Retry, attempt: int, random: float) -> None:
    assert 0 <= retry.delay_s(attempt, random) <= retry.max_s


@given(policies, st.integers(1, 1000), st.floats(0, 1))
def test_with_equal_luck_a_later_attempt_waits_no_shorter(retry: Retry, attempt: int, random: float) -> None:
    assert retry.delay_s(attempt, random) <= retry.delay_s(attempt + 1, random)


def test_attempts_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        Retry().delay_s(0, 0.5)


@pytest.mark.parametrize(
    ("on", "error", "expected"),
    [
        ((), ValueError(), True),
        ((), NotConnected("x"), True),
        ((), TransactionUnknown("x"), True),
        ((), ServiceError("busy", "x"), False),
        ((), KeyboardInterrupt(), False),
        ((), asyncio.CancelledError(), False),
        ((), EmitRefused("x"), False),
        ((), EmitLimitExceeded("x"), False),
        ((), TransactionMisused("x"), False),
        ((), TransactionUnsupported("x"), False),
        ((Exception,), TransactionMisused("x"), False),
        (ConnectionError, Gone(), True),
        (Gone, ConnectionError(), False),
        ([ConnectionError, "busy"], ServiceError("busy", "x"), True),
        (("busy",), ServiceError("other", "x"), False),
        ("poor", Poor("x"), True),
        (ServiceError, Poor("x"), True),
        ("not_connected", NotConnected("x"), True),
        ("downstream_error", NotConnected("x"), True),
        ("venue_busy", RemoteError("x", code="venue_busy", call_id="c"), True),
        ("internal_error", ZeroDivisionError(), True),
        ("internal_error", ServiceError("busy", "x"), False),
        ("transaction_unknown", TransactionUnknown("x"), True),
    ],
)
def test_it_retries_after_these_errors_and_no_others(on: Any, error: BaseException, expected: bool) -> None:
    assert Retry(on=on).matches(error) is expected

"""Whatever goes in comes out: by run-time type, and by declared type."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegisipc.eventstore.codec import decode, encode, type_codec

FEW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ZONES = st.one_of(
    st.none(),
    st.just(UTC),
    st.sampled_from(["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Etc/GMT+5", "UTC"]).map(
        ZoneInfo
    ),
    st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**600), max_value=2**600),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=ZONES, allow_imaginary=True),
    st.dates(),
    st.times(timezones=ZONES),
    st.timedeltas(),
    st.uuids(),
)
HASHABLES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=4)),
    max_leaves=5,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(), inner, max_size=4),
        st.dictionaries(HASHABLES, inner, max_size=4),
        st.sets(HASHABLES, max_size=4),
        st.frozensets(HASHABLES, max_size=4),
    ),
    max_leaves=12,
)


def spelled(value: Any) -> Any:
    """The value in a form where equal means the same in type, zone, fold and exponent."""
    if isinstance(value, dict):
        return "dict", frozenset((spelled(key), spelled(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return type(value).__name__, frozenset(spelled(item) for item in value)
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(spelled(item) for item in value)
    return type(value).__name__, repr(value)


@given(VALUES)
@FEW
def test_any_value_comes_back_as_it_was(value: Any) -> None:
    assert spelled(decode(encode(value))) == spelled(value)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_what_came_back_encodes_again_to_the_same_value(value: Any) -> None:
    assert spelled(decode(encode(decode(encode(value))))) == spelled(value)


@pytest.mark.parametrize(
    ("tp", "values"),
    [
        (int, st.integers(min_value=-(2**300), max_value=2**300)),
        (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
        (datetime, st.datetimes(timezones=ZONES)),
        (date, st.dates()),
        (time, st.times(timezones=ZONES)),
        (timedelta, st.timedeltas()),
        (UUID, st.uuids()),
        (bytes, st.binary()),
        (complex, st.complex_numbers(allow_nan=False)),
        (set[int], st.sets(st.integers())),
        (
            frozenset[tuple[str, Decimal]],
            st.frozensets(st.tuples(st.text(), st.decimals(allow_nan=False, allow_infinity=False))),
        ),
        (dict[int, list[date]], st.dictionaries(st.integers(), st.lists(st.dates()), max_size=4)),
        (
            dict[tuple[int, str], int | None],
            st.dictionaries(st.tuples(st.integers(), st.text()), st.none() | st.integers()),
        ),
        (
            int | str | Decimal | datetime | date | UUID | bytes | None,
            st.none()
            | st.integers()
            | st.text()
            | st.datetimes(timezones=ZONES)
            | st.dates()
            | st.uuids()
            | st.binary(),
        ),
    ],
    ids=str,
)
def test_a_declared_type_comes_back_as_it_was(tp: Any, values: st.SearchStrategy[Any]) -> None:
    codec = type_codec(tp)

    @given(values)
    @settings(max_examples=25, deadline=None)
    def check(value: Any) -> None:
        assert spelled(codec.decode(codec.encode(value))) == spelled(value)

    check()


@pytest.mark.parametrize(
    "text", ["NaN", "-NaN", "sNaN123", "Infinity", "-Infinity", "-0", "0E+9", "1E+999999999", "1E-999999999"]
)
def test_every_kind_of_decimal_keeps_its_digits_exponent_and_sign(text: str) -> None:
    assert str(decode(encode(Decimal(text)))) == text


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 5e-324])
def test_floats_are_exact(value: float) -> None:
    assert math.copysign(1, decode(encode(value))) == math.copysign(1, value)
    assert decode(encode(value)) == value


def test_not_a_number_comes_back_as_not_a_number() -> None:
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=0),
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
        datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=0),
        datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
        datetime(2024, 1, 1, fold=1),  # noqa: DTZ001 - naive is the point
        datetime.min.replace(tzinfo=ZoneInfo("America/New_York")),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-23, microseconds=1))),
        time(1, 2, 3, 4, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
        time(1, tzinfo=ZoneInfo("UTC")),
    ],
    ids=str,
)
def test_zone_and_fold_are_kept(value: datetime | time) -> None:
    assert repr(decode(encode(value))) == repr(value)


@pytest.mark.parametrize("bits", [7, 8, 15, 16, 31, 32, 63, 64, 65, 71, 72, 127, 128, 1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_integers_around_every_width_are_exact(bits: int, sign: int) -> None:
    for nearby in (-1, 0, 1):
        value = sign * (1 << bits) + nearby
        assert decode(encode(value)) == value


def test_equal_sets_of_text_have_equal_bytes() -> None:
    names = [f"name-{number}" for number in range(50)]
    # Grown differently, so that the same members sit in different places.
    others = [str(number) for number in range(5000)]
    grown = set(names + others)
    grown.difference_update(others)
    assert list(grown) != list(set(names))
    assert encode(grown) == encode(set(names))


@pytest.mark.parametrize(
    "data", [bytearray(encode({"a": 1})), memoryview(encode({"a": 1}))], ids=["bytearray", "memoryview"]
)
def test_any_buffer_can_be_decoded(data: bytearray | memoryview) -> None:
    assert decode(data) == {"a": 1}

"""Whatever types and mutations: what is called compatible lets every old value pass, as it travels."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import uuid
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

from aegisipc.eventstore.codec import decode, encode, type_codec
from tests.eventstore.schemas import breaking, gives, takes


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class WiderSide(enum.Enum):
    BUY = "buy"
    SELL = "sell"
    SHORT = "short"


class Moments(enum.Enum):
    FIRST = Decimal("1.5")
    LAST = Decimal("2.5")


class Pair(NamedTuple):
    first: int
    second: str = "x"


class Typed(TypedDict):
    a: int
    b: str


class PartlyTyped(TypedDict, total=False):
    a: int
    b: str


class Kind(NamedTuple):
    """A type, and the values of it as callers write them."""

    tp: Any
    values: st.SearchStrategy[Any]


_ints = st.integers(-100, 100)
_texts = st.text(st.characters(codec="utf-8"), max_size=6)
_moments = st.datetimes() | st.datetimes(timezones=st.just(dt.UTC))

LEAVES: list[Kind] = [
    Kind(int, _ints),
    Kind(float, st.floats(allow_nan=False)),
    Kind(str, _texts),
    Kind(bool, st.booleans()),
    Kind(None, st.none()),
    Kind(bytes, st.binary(max_size=5)),
    Kind(Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    Kind(dt.datetime, _moments),
    Kind(dt.date, st.dates()),
    Kind(dt.timedelta, st.timedeltas()),
    Kind(uuid.UUID, st.uuids()),
    Kind(Side, st.sampled_from(Side)),
    Kind(WiderSide, st.sampled_from(WiderSide)),
    Kind(Moments, st.sampled_from(Moments)),
    Kind(Literal["buy"], st.just("buy")),
    Kind(Literal["buy", "sell"], st.sampled_from(["buy", "sell"])),
    Kind(Literal[1, 2], st.sampled_from([1, 2])),
    Kind(Pair, st.builds(Pair, _ints, _texts)),
    Kind(Typed, st.fixed_dictionaries({"a": _ints, "b": _texts})),
    Kind(PartlyTyped, st.fixed_dictionaries({}, optional={"a": _ints, "b": _texts})),
    Kind(Annotated[int, Field(ge=0)], st.integers(0, 50)),
    Kind(Annotated[int, Field(ge=0, le=10)], st.integers(0, 10)),
    Kind(Annotated[int, Field(gt=-1, multiple_of=2)], st.integers(0, 10).map(lambda n: 2 * n)),
    Kind(Annotated[float, Field(lt=5)], st.floats(max_value=4.9, allow_nan=False)),
    Kind(Annotated[Decimal, Field(ge=1, decimal_places=2)], st.decimals(1, 50, places=2)),
    Kind(Annotated[str, Field(max_length=4)], st.text("abc", max_size=4)),
    Kind(Annotated[str, Field(min_length=1, max_length=8)], st.text("abc", min_size=1, max_size=8)),
    Kind(Annotated[str, Field(pattern="^a+$")], st.text("a", min_size=1, max_size=3)),
    Kind(Any, _ints | _texts),
    Kind(dict[str, Any], st.dictionaries(_texts, _ints | _texts, max_size=2)),
    Kind(dict, st.dictionaries(_ints | _texts, _ints, max_size=2)),
]

leaves = st.sampled_from(LEAVES)


def _listed(kind: Kind) -> Kind:
    return Kind(list[kind.tp], st.lists(kind.values, max_size=3))  # type: ignore[name-defined]


def _wrapped(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    def bounded(kind: Kind) -> Kind:
        tp = Annotated[list[kind.tp], Field(min_length=1, max_length=2)]  # type: ignore[name-defined]
        return Kind(tp, st.lists(kind.values, min_size=1, max_size=2))

    def mapped(kind: Kind) -> Kind:
        return Kind(dict[str, kind.tp], st.dictionaries(_texts, kind.values, max_size=2))  # type: ignore[name-defined]

    def by_number(kind: Kind) -> Kind:
        return Kind(dict[int, kind.tp], st.dictionaries(_ints, kind.values, max_size=2))  # type: ignore[name-defined]

    def by_side(kind: Kind) -> Kind:
        values = st.dictionaries(st.sampled_from(Side), kind.values, max_size=2)
        return Kind(dict[Side, kind.tp], values)  # type: ignore[name-defined]

    def optional(kind: Kind) -> Kind:
        return Kind(kind.tp | None if kind.tp is not None else None, kind.values | st.none())

    def either(one: Kind, other: Kind) -> Kind:
        return Kind(_union(one.tp, other.tp), one.values | other.values)

    def paired(one: Kind, other: Kind) -> Kind:
        return Kind(tuple[one.tp, other.tp], st.tuples(one.values, other.values))  # type: ignore[name-defined]

    def many(kind: Kind) -> Kind:
        return Kind(tuple[kind.tp, ...], st.lists(kind.values, max_size=3).map(tuple))  # type: ignore[name-defined]

    return st.one_of(
        *(inner.map(make) for make in (_listed, bounded, mapped, by_number, by_side, optional, many)),
        st.builds(either, inner, inner),
        st.builds(paired, inner, inner),
        models(inner),
        st.just(Kind(set[int], st.sets(_ints, max_size=3))),
    )


def _union(one: Any, other: Any) -> Any:
    return one | other if one is not None or other is not None else None


class Shape(NamedTuple):
    """A field of a model that is made."""

    kind: Kind
    has_default: bool
    default: Any


@st.composite
def models(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    """Models of the fields a, b and c, as many as there are."""
    names = draw(st.sets(st.sampled_from("abc"), min_size=1))
    shapes = {name: _shape(draw, draw(inner), draw(st.booleans())) for name in sorted(names)}
    extra = draw(st.sampled_from(["ignore", "ignore", "forbid", "allow"]))
    return model_of(shapes, extra)


def _shape(draw: st.DrawFn, kind: Kind, has_default: bool) -> Shape:
    return Shape(kind, has_default, draw(kind.values) if has_default else None)


def model_of(shapes: dict[str, Shape], extra: Any) -> Kind:
    fields: dict[str, Any] = {
        name: (shape.kind.tp, Field(default_factory=partial(copy.deepcopy, shape.default)))
        if shape.has_default
        else shape.kind.tp
        for name, shape in shapes.items()
    }
    tp = create_model("M", __config__=ConfigDict(extra=extra, validate_default=True), **fields)
    required = {name: shape.kind.values for name, shape in shapes.items() if not shape.has_default}
    optional = {name: shape.kind.values for name, shape in shapes.items() if shape.has_default}
    values = st.fixed_dictionaries(required, optional=optional)
    if extra != "forbid":  # callers may have given what was ignored
        values = st.builds(lambda more, own: {**more, **own}, st.just({}) | st.just({"z": 1}), values)
    return Kind(tp, values)


kinds = st.recursive(leaves, _wrapped, max_leaves=4)


def _is_compatible(make: Callable[[Any], Callable[..., Any]], old: Kind, new: Kind) -> bool:
    return not breaking(make(old.tp), make(new.tp))


@st.composite
def steps(draw: st.DrawFn) -> tuple[Kind, Kind]:
    """Two types, often kin: the second one made of the first by a step, or the other way round."""
    one = draw(kinds)
    other = draw(kinds)
    near = draw(st.sampled_from(["same", "other", "optional", "either", "field", "list"]))
    if near == "same":
        return one, one
    if near == "other":
        return one, other
    if near == "optional" and one.tp is not None:
        pair = one, Kind(one.tp | None, one.values | st.none())
    elif near == "either":
        pair = one, Kind(_union(one.tp, other.tp), one.values | other.values)
    elif near == "field":
        pair = _grown(draw, one, other)
    else:
        pair = _listed(one), _listed(other)
    return pair if draw(st.booleans()) else (pair[1], pair[0])


def _grown(draw: st.DrawFn, one: Kind, other: Kind) -> tuple[Kind, Kind]:
    extra, has_default = draw(st.sampled_from(["ignore", "forbid", "allow"])), draw(st.booleans())
    small = {"a": _shape(draw, one, False)}
    return model_of(small, extra), model_of({**small, "b": _shape(draw, other, has_default)}, extra)


@settings(max_examples=150, deadline=None)
@given(steps(), st.data())
def test_what_is_compatible_takes_every_old_argument(step: tuple[Kind, Kind], data: st.DataObject) -> None:
    old, new = step
    assume(_is_compatible(takes, old, new))
    sent = encode(data.draw(old.values))
    type_codec(old.tp).decode(sent)  # else it says nothing of the new one
    type_codec(new.tp).decode(sent)


@settings(max_examples=150, deadline=None)
@given(steps(), st.data())
def test_what_is_compatible_returns_what_old_callers_read(
    step: tuple[Kind, Kind], data: st.DataObject
) -> None:
    old, new = step
    assume(_is_compatible(gives, old, new))
    written = type_codec(new.tp).encode(type_codec(new.tp).validate(decode(encode(data.draw(new.values)))))
    type_codec(old.tp).decode(written)


@settings(max_examples=100, deadline=None)
@given(kinds)
def test_the_same_types_do_not_differ(kind: Kind) -> None:
    assert breaking(takes(kind.tp), takes(kind.tp)) == []
    assert breaking(gives(kind.tp), gives(kind.tp)) == []


@settings(max_examples=100, deadline=None)
@given(kinds)
def test_widening_is_compatible(kind: Kind) -> None:
    assume(kind.tp is not None)
    assert breaking(takes(kind.tp), takes(kind.tp | None)) == []
    assert breaking(gives(kind.tp | None), gives(kind.tp)) == []
    assert breaking(takes(kind.tp), takes(Any)) == []


class Base(BaseModel):
    """So that models are made as users make them."""

    a: int


def test_these_tests_can_fail() -> None:
    assert breaking(takes(int), takes(str)) != []
    assert breaking(gives(Base), gives(int)) != []

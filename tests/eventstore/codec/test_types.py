"""The kinds of types that Pydantic knows, each through its own codec."""

import ipaddress
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    RootModel,
    ValidationError,
    computed_field,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from aegisipc.eventstore.codec import TypeCodec, decode, encode, type_codec


class Side(Enum):
    BUY = "buy"
    SELL = "sell"


class Venue(StrEnum):
    LSE = "lse"


class Level(IntEnum):
    LOW = 1


class Rights(Flag):
    READ = 1
    WRITE = 2


class Bits(IntFlag):
    ONE = 1
    TWO = 2


class Odd(Enum):
    PAIR = (1, "a")
    EXACT = Decimal("1.5")


class Cat(BaseModel):
    kind: Literal["cat"] = Field("cat", alias="type")
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = Field("dog", alias="type")


class Buy(BaseModel):
    side: Literal[Side.BUY] = Field(Side.BUY, alias="s")


class Sell(BaseModel):
    side: Literal[Side.SELL] = Field(Side.SELL, alias="s")
    then: "list[Ticket]" = []


class Ticket(BaseModel):
    order: Annotated[Buy | Sell, Field(discriminator="side")]


class Zoo(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Swapped(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Aliased(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    path: int = Field(validation_alias=AliasPath("x", 0))
    out: int = Field(serialization_alias="elsewhere")
    choice: int = Field(validation_alias=AliasChoices("c1", "c2"))


class Point(NamedTuple):
    x: int
    pet: Dog
    label: str = "here"


class Fill(TypedDict):
    price: Decimal
    note: NotRequired[str]


@dataclass
class Leg:
    symbol: str
    computed: int = field(init=False, default=3)
    price: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class Slotted:
    legs: tuple[Leg, ...]


@pydantic_dataclass
class Basket:
    name: str = Field(alias="title")
    legs: list[Leg] = field(default_factory=list)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    pair: tuple[int, ...]
    members: set[int]
    pet: Dog
    side: Side
    leg: Leg


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    base: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.base * 2


class Box[T](BaseModel):
    value: T
    rest: list[T] = []


class Members(RootModel[set[int]]):
    pass


class Tree(BaseModel):
    children: "list[Tree]" = []


class Loose(BaseModel):
    value: Any


NOW = datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=UTC)

CASES: list[tuple[Any, Any]] = [
    (Zoo, Zoo(pet=Cat(lives=3))),
    (Swapped, Swapped(b=1, a=2)),
    (Aliased, Aliased.model_validate({"x": [1], "out": 2, "c1": 3})),
    (Strict, Strict(day=date(2024, 1, 1), pair=(1,), members={1}, pet=Dog(), side=Side.BUY, leg=Leg("A"))),
    (Open, Open(price=Decimal(1), at=NOW)),
    (Closed, Closed(base=2)),
    (Box[Decimal], Box[Decimal](value=Decimal(1), rest=[Decimal(2)])),
    (Box[Box[set[int]]], Box[Box[set[int]]](value=Box[set[int]](value={1}))),
    (Members, Members({1, 2})),
    (list[Members], [Members({1})]),
    (Tree, Tree(children=[Tree(), Tree(children=[Tree()])])),
    (Loose, Loose(value={"d": Decimal(1), 1: (NOW, {2})})),
    (Point, Point(1, Dog())),
    (Point | Zoo, Point(1, Dog())),
    (Fill, {"price": Decimal("1.5")}),
    (Leg, Leg("A")),
    (Slotted, Slotted((Leg("A"), Leg("B")))),
    (Basket, Basket(title="b", legs=[Leg("A")])),
    (Side, Side.SELL),
    (Venue, Venue.LSE),
    (Level, Level.LOW),
    (Rights, Rights.READ | Rights.WRITE),
    (Bits, Bits.ONE | Bits.TWO),
    (Odd, Odd.PAIR),
    (Odd, Odd.EXACT),
    (Literal["a", 1], 1),
    (Literal[Side.BUY], Side.BUY),
    (Literal["buy", Side.SELL, Level.LOW], "buy"),
    (Literal["buy", Side.SELL, Level.LOW], Level.LOW),
    (Ticket, Ticket(order=Buy())),
    (list[Ticket], [Ticket(order=Sell(then=[Ticket(order=Buy())]))]),
    (str | int | Literal[Side.BUY] | None, "sell"),
    (dict[Side, int], {Side.BUY: 1}),
    (dict[Level, int], {Level.LOW: 1}),
    (dict[Decimal, int], {Decimal("1.5"): 1}),
    (dict[date, int], {date(2024, 1, 1): 1}),
    (dict[int | None, str], {1: "a", None: "b", 2**70: "c"}),
    (dict[tuple[int, Side], int], {(1, Side.BUY): 1}),
    (deque[int], deque([1, 2])),
    (defaultdict[str, list[int]], defaultdict(list, a=[1])),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (Counter[str], Counter("aab")),
    (frozenset[tuple[int, ...]], frozenset({(1, 2)})),
    (tuple[int, str, Decimal], (1, "a", Decimal(2))),
    (Sequence[int], (1, 2)),
    (Mapping[str, int], {"a": 1}),
    (Any, [Decimal(1), NOW, (1,), {2}]),
    (Json[list[int]], "[1]"),
    (Path, Path("a/b")),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("1.2.3.4")),
    (ipaddress.IPv6Network, ipaddress.IPv6Network("::/64")),
    (AnyUrl, AnyUrl("http://example.org/a?b=c")),
    (re.Pattern[str], re.compile("a+")),
    (Fraction, Fraction(1, 3)),
    (ZoneInfo, ZoneInfo("Europe/Paris")),
    (time, time(1, 2, tzinfo=UTC)),
    (None, None),
]


@pytest.mark.parametrize(
    ("tp", "value"), CASES, ids=[f"{index}-{case[0]}" for index, case in enumerate(CASES)]
)
def test_a_value_of_its_type_comes_back_equal_and_of_the_same_class(tp: Any, value: Any) -> None:
    codec: TypeCodec[Any] = type_codec(tp)
    expected = codec._adapter.validate_python(value)
    result = codec.decode(codec.encode(value))
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    "value", [1, True, "1", 1.0, Decimal(1), NOW, date(2024, 1, 1), (1,), b"1"], ids=repr
)
def test_a_union_keeps_the_type_of_the_value(value: Any) -> None:
    codec = type_codec(
        bool | int | float | str | Decimal | datetime | date | tuple[int, ...] | list[int] | bytes
    )
    result = codec.decode(codec.encode(value))
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Zoo(pet=Dog()), {"pet": {"kind": "dog"}}),
        (Leg("A"), {"symbol": "A", "computed": 3, "price": Decimal(1)}),
        (Point(1, Dog()), (1, {"kind": "dog"}, "here")),
        (Members({1}), {1}),
        (Side.BUY, "buy"),
        (Level.LOW, 1),
        (Odd.PAIR, (1, "a")),
        (deque([1]), [1]),
        (Counter("a"), {"a": 1}),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
        (Path("a"), "a"),
        ((number for number in (1, Decimal(2))), [1, Decimal(2)]),
        ([Side.BUY, {Level.LOW: Side.SELL}], ["buy", {1: "sell"}]),
    ],
    ids=repr,
)
def test_without_a_declared_type_classes_come_back_as_plain_data(value: Any, plain: Any) -> None:
    result = decode(encode(value))
    assert result == plain
    assert type(result) is type(plain)


@pytest.mark.parametrize(
    "pattern",
    [
        re.compile("a.c", re.IGNORECASE | re.DOTALL),
        re.compile("(?i)a.c"),
        re.compile("(?i)a.c", re.DOTALL),
        re.compile("(?x) a c", re.IGNORECASE),
    ],
)
def test_a_pattern_keeps_its_flags(pattern: re.Pattern[str]) -> None:
    codec: TypeCodec[re.Pattern[str]] = type_codec(re.Pattern[str])
    assert codec.decode(codec.encode(pattern)).flags == pattern.flags


def test_an_invalid_value_is_pydantics_own_error_with_field_names() -> None:
    with pytest.raises(ValidationError) as caught:
        type_codec(Closed).encode({"base": "x"})
    assert caught.value.errors()[0]["loc"] == ("base",)
    with pytest.raises(ValidationError):
        type_codec(Closed).decode(encode({"base": "x"}))


def test_the_order_of_a_union_makes_a_codec_of_its_own() -> None:
    assert type_codec(int | str) is type_codec(int | str)
    assert type_codec(int | str) is not type_codec(str | int)


def test_a_type_with_unhashable_metadata_has_a_codec() -> None:
    codec: TypeCodec[int] = type_codec(Annotated[int, Field(gt=0), ["unhashable"]])
    assert codec.decode(codec.encode(1)) == 1


class TestFingerprint:
    def test_it_is_the_same_for_ever(self) -> None:
        assert type_codec(Closed).fingerprint == "b8fd628ea8f551c4ccc48a589bdeec36"

    def test_it_ignores_documentation_but_not_a_field_called_title(self) -> None:
        def book(doc: str, **fields: Any) -> str:
            cls = type(
                "Book", (BaseModel,), {"__doc__": doc, "__annotations__": fields, "__module__": __name__}
            )
            return type_codec(cls).fingerprint

        assert book("one", a=int) == book("two", a=int)
        assert book("one", a=int) != book("one", a=int, title=str)
        assert book("one", a=int) != book("one", a=str)

    def test_types_without_a_json_schema_have_one(self) -> None:
        first = type_codec(Callable[[int], str]).fingerprint
        assert first == TypeCodec(Callable[[int], str]).fingerprint
        assert len(first) == 32

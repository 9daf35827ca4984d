"""What becomes of a contract is told in sentences, and what breaks callers is told from what does not."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    Tag,
    create_model,
)

from aegisipc.eventstore.contracts import Offer, changes_of, stub_changes
from aegisipc.eventstore.events import Effect, MethodContract
from aegisipc.eventstore.schema_changes import MAX_DIFFERENCES, Reading, Side, changes
from tests.eventstore.schemas import breaking, gives, harmless, offer, takes

ARGUMENTS = Reading(old_writes=True, is_typed=False)


def order(extra: Any = None, **fields: Any) -> type[BaseModel]:
    return create_model("Order", __config__=ConfigDict(extra=extra), **{"quantity": int, **fields})


# -- parameters -----------------------------------------------------------------------------------------


def placed(order: int, note: str = "") -> None: ...
def without_note(order: int) -> None: ...
def with_more(order: int, note: str = "", depth: int = 1) -> None: ...
def more_required(order: int, note: str = "", *, depth: int) -> None: ...
def more_first(depth: int = 1, order: int = 1, note: str = "") -> None: ...
def note_by_name(order: int, *, note: str = "") -> None: ...
def order_by_position(order: int, /, note: str = "") -> None: ...
def order_optional(order: int = 1, note: str = "") -> None: ...
def note_required(order: int, note: str) -> None: ...
def other_default(order: int, note: str = "x") -> None: ...


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (without_note, placed, ["s.m argument note: is new and optional"]),
        (placed, with_more, ["s.m argument depth: is new and optional"]),
        (placed, order_optional, ["s.m argument order: became optional"]),
        (note_by_name, placed, []),
        (order_by_position, placed, []),
        (placed, other_default, ['s.m argument note: default "" became "x"']),
    ],
)
def test_callers_go_on_with_parameters_that_ask_less_of_them(
    old: Callable[..., Any], new: Callable[..., Any], said: list[str]
) -> None:
    assert harmless(old, new) == said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (placed, without_note, ["s.m argument note: is gone: what callers give there is refused"]),
        (placed, more_required, ["s.m argument depth: is new and required"]),
        (
            placed,
            more_first,
            [
                "s.m argument order: moved from place 1 to place 2",
                "s.m argument note: moved from place 2 to place 3",
            ],
        ),
        (placed, note_by_name, ["s.m argument note: may no longer be given by position"]),
        (placed, order_by_position, ["s.m argument order: may no longer be given by name"]),
        (placed, note_required, ["s.m argument note: became required"]),
    ],
)
def test_callers_break_with_parameters_that_ask_more_of_them(
    old: Callable[..., Any], new: Callable[..., Any], said: list[str]
) -> None:
    assert breaking(old, new) == said


# -- types ----------------------------------------------------------------------------------------------


class Wide(enum.Enum):
    A = "a"
    B = "b"


class Exact(enum.Enum):
    A = Decimal("1.5")


@dataclass
class Plain:
    quantity: int


Ge1 = Annotated[int, Field(ge=1)]
Ge2 = Annotated[int, Field(ge=2)]
Gt0 = Annotated[int, Field(gt=0)]
Fours = Annotated[int, Field(multiple_of=4)]
Short = Annotated[str, Field(max_length=3)]

WIDER = [
    (int, float, "integer became number"),
    (int, int | None, "integer became integer | null"),
    (Literal["a"], Literal["a", "b"], "'a' became 'a' | 'b'"),
    (Literal["a"], Wide, "'a' became 'a' | 'b'"),
    (Wide, str, "'a' | 'b' became string"),
    (Literal["a"], Short, "'a' became string"),
    (Ge2, Ge1, "minimum 2 became 1"),
    (Ge1, int, "minimum 1 became none"),
    (Short, str, "greatest length 3 became none"),
    (Fours, Annotated[int, Field(multiple_of=2)], "multiples of 4 became multiples of 2"),
    (Annotated[str, Field(pattern="^a$")], str, "pattern ^a$ became none"),
    (set[int], list[int], "set of integer became array of integer"),
    (int, Any, "integer became anything"),
]  # fmt: skip


@pytest.mark.parametrize(("narrow", "wide", "said"), WIDER)
def test_arguments_may_be_widened_and_not_narrowed(narrow: Any, wide: Any, said: str) -> None:
    assert harmless(takes(narrow), takes(wide)) == [f"s.m argument x: {said}"]
    assert breaking(takes(wide), takes(narrow))


@pytest.mark.parametrize(("narrow", "wide", "said"), WIDER)
def test_results_may_be_narrowed_and_not_widened(narrow: Any, wide: Any, said: str) -> None:
    assert len(harmless(gives(wide), gives(narrow))) == 1
    assert breaking(gives(narrow), gives(wide))[0].startswith("s.m result: ")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (int, str, "integer became string"),
        (Decimal, str, "number (decimal) became string"),
        (float, Decimal, "number became number (decimal)"),
        (list[int], list[str], "integer became string"),
        (Wide, Literal["a"], "'b' is no longer taken"),
        (Exact, str, "'1.5' became string, which cannot be judged"),
        (dict[int, int], dict[str, int], "integer became string"),
        (dict[str, int], order(), "is new and required"),
        (FiniteFloat, AwareDatetime, "number became string (date-time)"),
        (list[int], tuple[int, int], "least number of items none became 2"),
        (tuple[int, str], tuple[int, int], "string became integer"),
        (
            Annotated[str, Field(pattern="^a$")],
            Annotated[str, Field(pattern="^b$")],
            "which cannot be judged",
        ),
        (float, FiniteFloat, "'constraints' of number has changed, which cannot be judged"),
        (int | str, int, "string is no longer taken"),
        (bool, int, "boolean became integer"),
    ],
)
def test_what_is_not_taken_any_more_is_named(old: Any, new: Any, said: str) -> None:
    assert any(said in each for each in breaking(takes(old), takes(new)))


# -- objects --------------------------------------------------------------------------------------------


def test_fields_are_named_by_their_paths() -> None:
    old, new = order(), order(quantity=str)
    assert breaking(takes(old), takes(new)) == ["s.m argument x.quantity: integer became string"]
    assert breaking(takes(list[old]), takes(list[new])) == [  # type: ignore[valid-type]
        "s.m argument x[].quantity: integer became string"
    ]
    assert breaking(gives(dict[str, old]), gives(dict[str, new])) == [  # type: ignore[valid-type]
        "s.m result{}.quantity: integer became string"
    ]


def test_fields_of_arguments_may_come_and_not_go() -> None:
    bare, noted, required = order(), order(note=(str, "")), order(note=str)
    assert harmless(takes(bare), takes(noted)) == ["s.m argument x.note: is new and optional"]
    assert breaking(takes(bare), takes(required)) == ["s.m argument x.note: is new and required"]
    assert breaking(takes(noted), takes(bare)) == [
        "s.m argument x.note: is gone: what callers give there is ignored"
    ]
    assert breaking(takes(noted), takes(required)) == ["s.m argument x.note: became required"]


def test_fields_of_results_may_come_and_not_go() -> None:
    bare, noted, required = order(), order(note=(str, "")), order(note=str)
    assert harmless(gives(bare), gives(required)) == ["s.m result.note: is new"]
    assert breaking(gives(noted), gives(bare)) == ["s.m result.note: is gone"]
    assert harmless(gives(required), gives(noted)) == ["s.m result.note: became optional"]  # always written
    assert breaking(gives(order(extra="forbid")), gives(noted)) == [
        "s.m result.note: is new, and those who know the old contract refuse fields they do not know"
    ]


def test_refusing_fields_that_were_ignored_breaks_callers() -> None:
    assert breaking(takes(order()), takes(order(extra="forbid"))) == [
        "s.m argument x: other fields, which were ignored, are refused now"
    ]
    assert harmless(takes(order(extra="forbid")), takes(order())) == []


def test_a_class_may_be_renamed_or_become_a_dataclass() -> None:
    assert harmless(takes(order()), takes(Plain)) == []
    assert harmless(gives(Plain), gives(order())) == []


class Node(BaseModel):
    value: int
    children: list[Node] = []


OldNode = Node


def test_types_that_hold_themselves_are_compared() -> None:
    class Node(BaseModel):
        value: str
        children: list[Node] = []

    Node.model_rebuild(_types_namespace={"Node": Node})
    assert breaking(takes(OldNode), takes(Node)) == ["s.m argument x.value: integer became string"]
    assert harmless(takes(OldNode), takes(OldNode | None)) == ["s.m argument x: Node became Node | null"]


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    amount: int


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


def test_a_choice_by_a_field_needs_the_field() -> None:
    tagged = Annotated[Cash | Card, Field(discriminator="kind")]
    assert breaking(takes(Cash), takes(tagged)), "callers may have left it out"
    assert harmless(gives(tagged), gives(Cash))
    assert harmless(takes(tagged), takes(tagged | None)) == [
        "s.m argument x: Cash | Card became Cash | Card | null"
    ]


def test_a_choice_by_a_program_cannot_be_judged() -> None:
    by_program = Annotated[
        Annotated[Cash, Tag("a")] | Annotated[Card, Tag("b")], Discriminator(lambda value: "a")
    ]
    assert breaking(takes(Cash), takes(by_program)) == [
        "s.m argument x: Cash became Cash | Card, which cannot be judged"
    ]
    assert harmless(takes(by_program), takes(by_program)) == []


def test_what_has_no_schema_may_only_stay() -> None:
    assert harmless(takes(Callable[[], int]), takes(Callable[[], int])) == []
    assert "cannot be judged" in breaking(takes(Callable[[], int]), takes(type))[0]


# -- methods --------------------------------------------------------------------------------------------


def test_methods_may_come_and_not_go() -> None:
    one = offer(placed)
    assert [str(d) for d in changes_of("s", {"m": one}, {"m": one, "m@2": one})] == ["s.m@2: is a new method"]
    (gone,) = changes_of("s", {"m": one, "n": one}, {"m@2": one, "n": one})[:1]
    assert (str(gone), gone.breaking) == ("s.m: is gone; there is m@2", True)


@pytest.mark.parametrize(
    ("old", "new", "breaks"),
    [
        ("once", "idempotent", False),
        ("once", "pure", False),
        ("idempotent", "once", True),
        ("pure", "idempotent", True),
    ],
)
def test_an_effect_may_ask_less_of_callers_and_not_more(old: str, new: str, breaks: bool) -> None:
    found = changes_of("s", {"m": offer(placed, old)}, {"m": offer(placed, new)})
    assert [(str(d), d.breaking) for d in found] == [(f"s.m: effect {old} became {new}", breaks)]


def test_without_schemas_only_the_same_fingerprints_are_the_same() -> None:
    def known_by(arguments: str) -> Offer:
        contract = MethodContract(effect=Effect.PURE, arguments=arguments, returns="r", signature="m()")
        return Offer(contract, None)

    assert changes_of("s", {"m": known_by("a")}, {"m": known_by("a")}) == []
    (found,) = changes_of("s", {"m": known_by("a")}, {"m": known_by("b")})
    assert str(found) == "s.m: the types in m() changed, which cannot be judged: its schemas are not known"
    assert found.breaking


# -- stubs ----------------------------------------------------------------------------------------------


def _of_stub(expected: Callable[..., Any], offered: Callable[..., Any]) -> list[str]:
    one, other = offer(expected).schemas, offer(offered).schemas
    assert one is not None
    assert other is not None
    return [str(difference) for difference in stub_changes("s.m", one, other) if difference.breaking]


def test_where_a_stub_says_any_nothing_is_compared() -> None:
    assert _of_stub(takes(Any), takes(int)) == []
    assert _of_stub(takes(list[Any]), takes(list[int])) == []
    assert _of_stub(gives(Any), gives(int)) == []
    assert _of_stub(takes(str), takes(int)) == ["s.m argument x: string became integer"]


def test_a_stub_sends_the_fields_of_its_types_and_no_others() -> None:
    assert _of_stub(takes(order()), takes(order(extra="forbid"))) == []
    assert _of_stub(takes(order(note=(str, ""))), takes(order(note=str))) == []


# -- schemas from elsewhere -----------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_WORDS = ["type", "$ref", "anyOf", "oneOf", "properties", "required", "items", "prefixItems", "enum", "const",
          "minimum", "maxLength", "pattern", "additionalProperties", "discriminator", "uniqueItems",
          "multipleOf", "propertyNames", "exclusiveMinimum"]  # fmt: skip
_KINDS = ["object", "array", "string", "integer", "number", "#/$defs/A", "#/$defs/B", "null"]
odd_schemas = st.recursive(
    json_values | st.sampled_from(_KINDS),
    lambda inner: (
        st.dictionaries(st.sampled_from(_WORDS), inner | st.sampled_from(_KINDS), max_size=4)
        | st.lists(inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(odd_schemas, odd_schemas, st.dictionaries(st.sampled_from("AB"), odd_schemas))
def test_no_schema_however_odd_stops_a_comparison(old: Any, new: Any, definitions: Mapping[str, Any]) -> None:
    for old_writes in (True, False):
        reading = Reading(old_writes=old_writes, is_typed=False)
        found = changes(Side(old, definitions), Side(new, definitions), reading, "x")
        assert len(found) <= MAX_DIFFERENCES


def test_schemas_that_are_endless_or_too_deep_are_not_followed() -> None:
    loop = {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}
    ref = {"$ref": "#/$defs/A"}
    (found,) = changes(Side(ref, loop), Side({"type": "integer"}, {}), ARGUMENTS, "x")
    assert found.breaking
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    other = {"type": "array", "items": deep}
    assert any(
        "cannot be judged" in d.message for d in changes(Side(deep, {}), Side(other, {}), ARGUMENTS, "x")
    )


def test_a_schema_that_doubles_at_every_step_is_given_up() -> None:
    def doubling(leaf: str) -> dict[str, Any]:
        defs: dict[str, Any] = {"D0": {"type": leaf}}
        for n in range(1, 40):
            ref = {"$ref": f"#/$defs/D{n - 1}"}
            defs[f"D{n}"] = {"type": "object", "properties": {"a": ref, "b": ref}}
        return defs

    ref = {"$ref": "#/$defs/D39"}
    found = changes(Side(ref, doubling("integer")), Side(ref, doubling("string")), ARGUMENTS, "x")
    assert found
    assert all(difference.breaking for difference in found)

"""Methods: how arguments are read and bound, and what is said about those that do not fit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import Effect
from aegisipc.sdk.context import Context
from aegisipc.sdk.errors import InvalidName, ServiceDefinitionError
from aegisipc.sdk.method import ArgumentsRejected, FieldError, Method, ResultRejected
from aegisipc.sdk.service import Service


class Leg(BaseModel):
    qty: int
    price: Decimal


class Order(BaseModel):
    symbol: str
    legs: list[Leg]


class Opaque:
    """Pydantic does not know it."""


@dataclass
class Note:
    text: str


async def plain(a: int, b: str = "b", *, c: bool = True) -> str:
    return f"{a}{b}{c}"


async def positional(a: int, /, b: int) -> int:
    return a + b


async def nothing() -> None:
    return None


async def place(order: Order, note: Note | None = None) -> Order:
    return order


def method(function: Any, effect: Effect = Effect.PURE) -> Method:
    return Method(function, name=None, effect=effect)


def load(function: Any, *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    return method(function).load(encode([list(args), kwargs]))


def rejected(function: Any, *args: Any, **kwargs: Any) -> list[FieldError]:
    with pytest.raises(ArgumentsRejected) as caught:
        load(function, *args, **kwargs)
    return list(caught.value.errors)


# -- what fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "loaded"),
    [
        ((1,), {}, ([1], {})),
        ((1, "x"), {}, ([1, "x"], {})),
        ((1, "x"), {"c": False}, ([1, "x"], {"c": False})),
        ((), {"a": 1}, ([], {"a": 1})),
        ((), {"c": False, "b": "x", "a": 1}, ([], {"a": 1, "b": "x", "c": False})),
        ((1,), {"c": False}, ([1], {"c": False})),
        (("7",), {}, ([7], {})),
    ],
)
def test_arguments_are_bound_by_position_by_name_and_by_default(args: Any, kwargs: Any, loaded: Any) -> None:
    assert load(plain, *args, **kwargs) == loaded


def test_a_method_without_parameters_takes_no_arguments() -> None:
    assert load(nothing) == ([], {})


def test_models_and_dataclasses_arrive_as_themselves() -> None:
    order = Order(symbol="A", legs=[Leg(qty=1, price=Decimal("1.50"))])
    assert load(place, order, Note("n")) == ([order, Note("n")], {})
    assert load(place, {"symbol": "A", "legs": [{"qty": 1, "price": "1.50"}]}) == ([order], {})


def test_a_positional_only_parameter_is_filled_by_position() -> None:
    assert load(positional, 1, b=2) == ([1], {"b": 2})


# -- what does not -------------------------------------------------------------------------------------


def test_too_many_arguments_by_position() -> None:
    (error,) = rejected(plain, 1, "b", True)
    assert error == FieldError(
        "(arguments)", "3 given by position, but plain() takes 2 (a, b, c)", "too_many"
    )


def test_an_argument_to_a_method_without_parameters() -> None:
    (error,) = rejected(nothing, 1)
    assert error.message == "1 given by position, but nothing() takes 0 (no arguments)"


def test_a_missing_argument_is_named_with_the_signature() -> None:
    (error,) = rejected(plain, b="x")
    assert error.field == "a"
    assert error.type == "missing"
    assert error.message.startswith("missing; the method is plain(a: int, b: str = …, c: bool = …) -> ")


def test_an_unexpected_argument_is_named_with_those_there_are() -> None:
    (error,) = rejected(plain, 1, d=2)
    assert error == FieldError("d", "unexpected argument; plain() takes a, b, c", "unexpected")


def test_a_positional_only_parameter_cannot_be_given_by_name() -> None:
    assert [(e.field, e.type) for e in rejected(positional, a=1, b=2)] == [("a", "unexpected")]


def test_an_argument_given_twice() -> None:
    (error,) = rejected(plain, 1, a=2)
    assert error == FieldError("a", "given twice, by position and by name", "multiple_values")


def test_a_wrong_type_names_the_parameter() -> None:
    (error,) = rejected(plain, "one")
    assert (error.field, error.type) == ("a", "int_parsing")


def test_a_wrong_type_deep_inside_names_the_path() -> None:
    (error,) = rejected(
        place, {"symbol": "A", "legs": [{"qty": 1, "price": "1"}, {"qty": "many", "price": "1"}]}
    )
    assert (error.field, error.type) == ("order.legs.1.qty", "int_parsing")


def test_every_fault_is_reported_at_once() -> None:
    assert [(e.field, e.type) for e in rejected(plain, "one", c="perhaps", d=1)] == [
        ("a", "int_parsing"),
        ("c", "bool_parsing"),
        ("d", "unexpected"),
    ]


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", encode(5), encode([1]), encode([{}, []]), encode([[], {}, 1]), encode({})]
)
def test_bytes_that_are_no_arguments_are_rejected(body: bytes) -> None:
    with pytest.raises(ArgumentsRejected) as caught:
        method(plain).load(body)
    assert [(e.field, e.type) for e in caught.value.errors] == [("(arguments)", "malformed")]


def test_names_that_are_not_text_are_unexpected() -> None:
    with pytest.raises(ArgumentsRejected) as caught:
        method(nothing).load(encode([[], {5: 1}]))
    assert [(e.field, e.type) for e in caught.value.errors] == [("5", "unexpected")]


# -- results -------------------------------------------------------------------------------------------


def test_a_result_of_another_type_than_declared_is_rejected_by_name() -> None:
    with pytest.raises(ResultRejected, match=r"legs\.0\.qty"):
        method(place).dump({"symbol": "A", "legs": [{"qty": "many", "price": "1"}]})


# -- context -------------------------------------------------------------------------------------------


def in_context(function: Any, *args: Any, **kwargs: Any) -> Any:
    target = method(function)
    loaded, named = target.load(encode([list(args), kwargs]))
    target.put_context("CTX", loaded, named)  # type: ignore[arg-type]
    return function(*loaded, **named)


def test_the_context_may_be_any_parameter_and_callers_do_not_see_it() -> None:
    def first(ctx: Context, a: int, b: int = 2) -> Any:
        return ctx, a, b

    def middle(a: int, ctx: Context, b: int = 2) -> Any:
        return ctx, a, b

    def last(a: int, b: int = 2, *, ctx: Context) -> Any:
        return ctx, a, b

    for function in (first, middle, last):
        assert in_context(function, 1) == ("CTX", 1, 2)
        assert in_context(function, 1, 3) == ("CTX", 1, 3)
        assert in_context(function, 1, b=3) == ("CTX", 1, 3)
        assert in_context(function, a=1) == ("CTX", 1, 2)
        assert [p.name for p in method(function).parameters] == ["a", "b"]


def test_a_method_takes_one_context_and_by_name() -> None:
    def two(a: Context, b: Context) -> None: ...
    def only_positional(a: Context, /) -> None: ...

    for function in (two, only_positional):
        with pytest.raises(ServiceDefinitionError, match="one Context"):
            method(function)


# -- definitions ---------------------------------------------------------------------------------------


def test_a_parameter_without_a_type_is_refused_where_it_is_defined() -> None:
    def bare(a) -> int:  # type: ignore[no-untyped-def]
        return 1

    def variadic(*args: int) -> int:
        return 1

    with pytest.raises(ServiceDefinitionError, match="parameter 'a' has no annotation"):
        method(bare)
    with pytest.raises(ServiceDefinitionError, match="has no type to check calls against"):
        method(variadic)


def test_a_type_that_cannot_travel_is_refused_where_it_is_defined() -> None:
    def takes(a: Opaque) -> int:
        return 1

    with pytest.raises(ServiceDefinitionError, match="cannot use the type of parameter 'a' of takes"):
        method(takes)


def test_a_method_cannot_be_offered_twice_nor_under_an_illegal_name() -> None:
    service = Service("s")
    service.method(effect="pure")(nothing)
    with pytest.raises(ServiceDefinitionError, match=r"cannot offer s\.nothing twice"):
        service.method(effect="pure")(nothing)
    with pytest.raises(InvalidName):
        service.method(name="_private")(plain)
    with pytest.raises(ServiceDefinitionError, match="it is 'once', 'idempotent' or 'pure'"):
        service.method(effect="twice")


def test_once_is_the_default_effect() -> None:
    service = Service("s")

    @service.method
    def pay(a: int) -> int:
        return a

    assert service.contract["pay"].effect is Effect.ONCE
    assert service.contract["pay"].signature.startswith("pay(a: int) -> ")


def test_the_contract_changes_with_what_callers_may_send_and_not_with_the_context() -> None:
    def base(a: int) -> int:
        return a

    async def with_context(a: int, ctx: Context) -> int:
        return a

    def other_type(a: str) -> int:
        return 1

    def optional(a: int = 1) -> int:
        return a

    def only_named(*, a: int) -> int:
        return a

    arguments = [method(f).contract.arguments for f in (base, with_context, other_type, optional, only_named)]
    assert arguments[0] == arguments[1]
    assert len(set(arguments)) == 4


def test_the_schemas_are_the_same_in_every_process() -> None:
    code = "from tests.sdk.test_method import schemas_of_a_method; print(schemas_of_a_method())"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert told == {schemas_of_a_method()}


def schemas_of_a_method() -> str:
    def place(order: dict[str, set[int]], *, side: Literal["b", "a"] = "a", note: object = object()) -> None:
        """Its default cannot travel, and is left out."""

    made = method(place)
    assert made.offer.schemas == hashlib.sha256(made.schemas.encode()).hexdigest()
    assert "note" in json.loads(made.schemas)["arguments"]["properties"]
    return made.offer.schemas

"""Results that operators give as JSON, and arguments that are shown by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import Effect
from aegisipc.sdk.context import Context
from aegisipc.sdk.errors import InvalidResult
from aegisipc.sdk.method import ArgumentsRejected, Method


class Side(Enum):
    BUY = "buy"
    SELL = "sell"


class Fill(BaseModel):
    model_config = ConfigDict(strict=True)

    price: Decimal
    day: date
    side: Side
    tags: set[str] = set()
    account: str = Field(default="none", alias="acc")


@dataclass
class Note:
    text: str
    ids: tuple[UUID, int]


async def fill(symbol: str, quantity: int, ctx: Context, *, note: str = "none", urgent: bool = False) -> Fill:
    raise NotImplementedError


async def note() -> Note | None: ...


async def count() -> int:
    return 0


async def anything(): ...  # type: ignore[no-untyped-def]


async def raw() -> bytes:
    return b""


def method(function: Any) -> Method:
    return Method(function, name=None, effect=Effect.ONCE)


FILL = {"price": "1.50", "day": "2026-11-21", "side": "sell", "tags": ["b", "a"]}
ID = "01a3185c-5000-7000-8000-040000000007"


@pytest.mark.parametrize(
    ("function", "given", "meant"),
    [
        (fill, FILL, Fill(price=Decimal("1.50"), day=date(2026, 11, 21), side=Side.SELL, tags={"a", "b"})),
        (note, {"text": "n", "ids": [ID, 2]}, Note("n", (UUID(ID), 2))),
        (note, None, None),
        (count, 7, 7),
        (anything, {"a": [1, 2.5, None, "x"]}, {"a": [1, 2.5, None, "x"]}),
        (raw, "text", b"text"),
    ],
)
def test_a_result_in_json_becomes_what_the_handler_would_have_returned(
    function: Any, given: Any, meant: Any
) -> None:
    taken = method(function)
    assert taken.result_body(json.loads(json.dumps(given))) == taken.dump(meant)


@pytest.mark.parametrize("name", ["account", "acc"])
def test_fields_may_be_given_by_name_or_by_alias(name: str) -> None:
    taken = method(fill)
    assert taken._returns.decode(taken.result_body({**FILL, name: "acc_1"})).account == "acc_1"


@pytest.mark.parametrize(
    ("function", "given", "field"),
    [
        (fill, {**FILL, "price": "dear"}, "price"),
        (fill, {**FILL, "side": "hold"}, "side"),
        (fill, {}, "price"),
        (fill, None, "result"),
        (note, {"text": "n", "ids": ["no id", 2]}, "ids.0"),
        (count, "seven", "result"),
        (count, None, "result"),
    ],
)
def test_a_result_that_does_not_fit_is_refused_and_the_fault_named(
    function: Any, given: Any, field: str
) -> None:
    taken = method(function)
    with pytest.raises(InvalidResult) as caught:
        taken.result_body(given)
    error = caught.value
    assert error.code == "invalid_result"
    assert field in {fault["field"].removeprefix("Note.") for fault in error.errors}
    assert (error.method, error.signature) == (taken.name, taken.contract.signature)
    assert error.message.startswith(f"cannot take that as the result of {taken.name}: ")
    assert taken.contract.signature in error.message


@pytest.mark.parametrize("given", [object(), 1 << 50_000], ids=["object", "number"])
def test_what_is_no_json_is_refused(given: object) -> None:
    with pytest.raises(InvalidResult):
        method(anything).result_body(given)


@pytest.mark.parametrize(
    ("args", "kwargs", "shown"),
    [
        (("A", "3"), {}, {"symbol": "A", "quantity": 3, "note": "none", "urgent": False}),
        (("A",), {"quantity": 3}, {"symbol": "A", "quantity": 3, "note": "none", "urgent": False}),
        (("A", 3), {"urgent": True}, {"symbol": "A", "quantity": 3, "note": "none", "urgent": True}),
    ],
)
def test_arguments_are_shown_by_name_with_defaults_and_without_the_context(
    args: Any, kwargs: Any, shown: Any
) -> None:
    assert method(fill).arguments(encode([list(args), kwargs])) == shown


def test_arguments_that_do_not_fit_are_not_shown() -> None:
    with pytest.raises(ArgumentsRejected):
        method(fill).arguments(encode([["A"], {}]))

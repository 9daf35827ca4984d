"""Contracts of plain functions, as services write them down: what the tests of their comparison share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aegisipc.eventstore.contracts import Difference, Offer, changes_of, read_schemas
from aegisipc.eventstore.events import Effect
from aegisipc.sdk.method import Method


def offer(function: Callable[..., Any], effect: str = "once", version: int = 1) -> Offer:
    """What a service offers of a function called ``m``."""

    method = Method(function, name="m", effect=Effect(effect), version=version)
    return Offer(method.offer, read_schemas(method.schemas))


def changes(old: Callable[..., Any], new: Callable[..., Any]) -> list[Difference]:
    """What becomes of ``s.m`` when one function takes another's place."""
    return changes_of("s", {"m": offer(old)}, {"m": offer(new)})


def breaking(old: Callable[..., Any], new: Callable[..., Any]) -> list[str]:
    """Those that break callers, as text."""
    return [str(difference) for difference in changes(old, new) if difference.breaking]


def harmless(old: Callable[..., Any], new: Callable[..., Any]) -> list[str]:
    """Those that break nobody; there must be no others."""
    found = changes(old, new)
    assert not [difference for difference in found if difference.breaking], found
    return [str(difference) for difference in found]


def takes(tp: Any) -> Callable[..., Any]:
    """A function that takes an ``x`` of that type."""

    def m(x: Any) -> None: ...

    m.__annotations__["x"] = tp
    return m


def gives(tp: Any) -> Callable[..., Any]:
    """A function that returns that type."""

    def m() -> Any: ...

    m.__annotations__["return"] = tp
    return m

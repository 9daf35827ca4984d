"""Values that say nothing, in the place of others of the same kind and length. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import count
from string import digits
from typing import Any, Final
from uuid import UUID

_CONTAINERS: Final = (list, tuple, set, frozenset)


def inside(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a list, tuple or set of what its members come to; anything else as it is."""
    for container in _CONTAINERS:
        if type(value) is container:
            return container(change(inner) for inner in value)
    return value


def blank(value: Any) -> Any:
    """Return something of the same kind and length that says nothing. Names of fields stay."""
    if type(value) is dict:
        return _blank_map(value)
    if type(value) in _CONTAINERS:
        return inside(value, blank)
    of_kind = _BLANKS.get(type(value))
    return value if of_kind is None else of_kind(value)


def _blank_map(value: dict[Any, Any]) -> dict[Any, Any]:
    """Keys stay apart from each other; those that can be no names of fields may say as much as values."""
    blanked: dict[Any, Any] = {}
    numbers = count(1)
    for name, inner in value.items():
        key = name
        if type(name) is not str or not name.isidentifier():
            key = blank(name)
            while key in value or key in blanked:
                key = _numbered(name, next(numbers))
        blanked[key] = blank(inner)
    return blanked


def _numbered(name: Any, number: int) -> int | str:
    if type(name) is str:
        return f"{number:x>{len(name)}}"
    return number if type(name) is int else f"x{number}"


_BLANKS: Final[dict[type, Callable[[Any], Any]]] = {
    str: lambda text: "x" * len(text),
    bytes: lambda data: b"x" * len(data),
    bool: lambda _: False,
    int: lambda _: 0,
    float: lambda _: 0.0,
    complex: lambda _: 0j,
    Decimal: lambda _: Decimal(0),
    datetime: lambda at: datetime(1970, 1, 1, tzinfo=at.tzinfo),
    date: lambda _: date(1970, 1, 1),
    time: lambda at: time(tzinfo=at.tzinfo),
    timedelta: lambda _: timedelta(0),
    UUID: lambda _: UUID(int=0),
}


def is_same(before: Any, after: Any) -> bool:
    """Tell whether two values are the same, so that what is equal but of another kind counts as changed."""
    if type(before) is not type(after):
        return False
    if type(before) is dict:
        return before.keys() == after.keys() and all(is_same(before[name], after[name]) for name in before)
    if type(before) in (list, tuple):
        return len(before) == len(after) and all(map(is_same, before, after))
    return before is after or bool(before == after)


def replaced(before: Any, after: Any) -> Iterable[str]:
    """Iterate over the texts that were replaced, and what a text may have of other values: numbers and times
    can be written in many ways, but with digits in all of them.
    """
    if type(before) is dict and type(after) is dict:
        for one, other in zip(before.items(), after.items(), strict=True):
            yield from replaced(one, other)
    elif type(before) in (list, tuple) and type(after) is type(before):
        for one, other in zip(before, after, strict=True):
            yield from replaced(one, other)
    elif type(before) in (set, frozenset):
        for one in before if before != after else ():
            yield from replaced(one, None)
    elif type(before) is bytes:
        yield from replaced(repr(before)[2:-1], repr(after)[2:-1])
    elif before is None or type(before) is bool or is_same(before, after):
        return
    elif type(before) is str:
        yield before
    else:
        yield str(before)
        yield from digits

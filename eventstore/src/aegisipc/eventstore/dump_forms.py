"""The plain forms that dumps of a fold are made of, and how they are read back without trust."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

UNREADABLE: Final = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    RecursionError,
    msgpack.UnpackException,
    zlib.error,
)
"""What reading a dump that does not hold together may raise, besides our own errors."""

type Kinds = tuple[tuple[type, ...], ...]
"""Of each item of a list: the types that it may have."""

_NOTHING: Final = type(None)
TEXT: Final = (str,)
BINARY: Final = (bytes,)
INT: Final = (int,)
FLAG: Final = (bool,)
LIST: Final = (list,)
NUMBER: Final = (int, str)
"""As :func:`number` gives it."""
TEXT_OR_NONE: Final = (str, _NOTHING)
BINARY_OR_NONE: Final = (bytes, _NOTHING)
LIST_OR_NONE: Final = (list, _NOTHING)

_LISTS: Final = frozenset({list, tuple})
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1


def number(value: int) -> int | str:
    """Return an integer as MessagePack can carry it: one over 64 bits, which only a hostile record can bring
    into a fold, as text.
    """
    return value if _LEAST <= value <= _MOST else hex(value)


def read_number(plain: int | str) -> int:
    """Return what :func:`number` was given.

    Raises:
        ValueError: it gave no such thing.
    """
    if not isinstance(plain, str):
        return plain
    value = int(plain, 16)
    if number(value) != plain:
        raise ValueError("a number is not written as it should be")
    return value


def typed(plain: Any, kinds: Kinds) -> Any:
    """Return `plain`, if it is a list (before it is packed, maybe a tuple) whose items are of these types.

    Raises:
        TypeError: it is not.
    """
    if type(plain) not in _LISTS or len(plain) != len(kinds):
        raise TypeError("a part has the wrong shape")
    for value, allowed in zip(plain, kinds, strict=True):
        if type(value) not in allowed:
            raise TypeError(f"a part is {type(value).__name__}")
    return plain


def each(plain: Any, kinds: Kinds) -> list[Any]:
    """Return `plain`, if it is a list of lists whose items are of these types.

    Raises:
        TypeError: it is not.
    """
    return [typed(item, kinds) for item in a_list(plain)]


def a_list(plain: Any) -> list[Any]:
    """Return `plain`, if it is a list.

    Raises:
        TypeError: it is none.
    """
    if type(plain) not in _LISTS:
        raise TypeError("a part is not a list")
    return list(plain)


def texts(plain: Any) -> list[str]:
    """Return `plain`, if it is a list of text.

    Raises:
        TypeError: it is not.
    """
    if type(plain) is not list or any(type(item) is not str for item in plain):
        raise TypeError("a part is not a list of text")
    return plain


def unique[K, V](pairs: Iterable[tuple[K, V]]) -> dict[K, V]:
    """Return the pairs as a dictionary, in their order.

    Raises:
        ValueError: a key is there twice.
    """
    found: dict[K, V] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError("a part is there twice")
        found[key] = value
    return found


def dump_counts(counts: Mapping[str, int]) -> list[Any]:
    """Return how often each thing was counted, in alphabetical order: a counter has none of its own."""
    return [[name, count] for name, count in sorted(counts.items())]


def load_counts(plain: Any) -> dict[str, int]:
    """Read what :func:`dump_counts` gave.

    Raises:
        TypeError, ValueError: it is not that.
    """
    return unique((name, count) for name, count in each(plain, (TEXT, INT)))

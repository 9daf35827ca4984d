"""What MessagePack does not know, reduced to what it does, by run-time type."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Callable
from enum import Enum
from types import GeneratorType, MappingProxyType, NoneType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from msgpack import ExtType  # type: ignore[import-untyped]
from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic_core import to_jsonable_python

from aegisipc.eventstore.codec import wire
from aegisipc.eventstore.codec.scalars import WRITERS
from aegisipc.eventstore.errors import NotEncodable

type Reduce = Callable[[Any], Any]

_PACKABLE: Final = frozenset({dict, list, str, bytes, float, bool, NoneType, ExtType})
_SECRETS: Final = (SecretStr, SecretBytes, Secret)
# An enum of an enum of a root model ...: far more steps than any sane type needs.
_MAX_STEPS: Final = 32
# Programs that create classes as they run must not grow the cache for ever.
_MAX_CACHED_TYPES: Final = 4096
# Sets of one of these types are written in order, so that equal sets have equal bytes.
_ORDERED: Final = frozenset({str, int, bytes, UUID})
_INLINE_FLAGS: Final = (
    (re.ASCII, "a"),
    (re.IGNORECASE, "i"),
    (re.MULTILINE, "m"),
    (re.DOTALL, "s"),
    (re.VERBOSE, "x"),
    (re.LOCALE, "L"),
)

_reductions: dict[type, Reduce] = {}


def reduce_value(value: Any) -> Any:
    """The same value as something that the packer takes natively; its hook for everything it does not.

    Raises `NotEncodable`, or whatever a custom serializer raises.
    """
    kind = type(value)
    reduced = (_reductions.get(kind) or _remember(kind))(value)
    return reduced if type(reduced) in _PACKABLE else _reduce_further(reduced)


def _reduce_further(value: Any) -> Any:
    for _ in range(_MAX_STEPS):
        kind = type(value)
        if kind in _PACKABLE or (kind is int and wire.MIN_INT64 <= value <= wire.MAX_UINT64):
            return value
        value = (_reductions.get(kind) or _remember(kind))(value)
    raise not_encodable(value, "it reduces to itself")


def not_encodable(value: object, reason: str) -> NotEncodable:
    """The error for one value, naming its type."""
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return NotEncodable(f"cannot encode a value of type {name}: {reason}", type_name=name)


def _remember(kind: type) -> Reduce:
    if len(_reductions) >= _MAX_CACHED_TYPES:
        _reductions.clear()
    reduce = _reductions[kind] = _reduction_of(kind)
    return reduce


def _reduction_of(kind: type) -> Reduce:
    # Order matters: an IntEnum is an int, a dataclass may be a dict, and a model may be anything.
    if issubclass(kind, Enum):
        return _reduce_enum
    if issubclass(kind, _SECRETS):
        return _refuse_secret
    if issubclass(kind, BaseModel) or is_pydantic_dataclass(kind):
        return _reduce_model
    if dataclasses.is_dataclass(kind):
        return _dataclass_reduction(kind)
    for base in kind.__mro__:
        if base in _BY_BASE:
            return _BY_BASE[base]
    return _reduce_as_json


def _reduce_enum(value: Any) -> Any:
    return value._value_


def _reduce_model(value: Any) -> Any:
    # By name and without computed fields (round_trip): what the validator of the same type takes back.
    return value.__pydantic_serializer__.to_python(value, round_trip=True, by_alias=False, warnings=False)


def _refuse_secret(value: Any) -> Any:
    raise not_encodable(
        value,
        "a secret would be stored in the log. If that is meant, send value.get_secret_value() in a str field",
    )


def _dataclass_reduction(kind: type) -> Reduce:
    names = tuple(field.name for field in dataclasses.fields(kind))
    return lambda value: {name: getattr(value, name) for name in names}


def _reduce_tuple(value: tuple[Any, ...]) -> Any:
    return [wire.TUPLE_TAG, *value]


def _reduce_set(value: set[Any]) -> Any:
    return [wire.SET_TAG, *_in_order(value)]


def _reduce_frozenset(value: frozenset[Any]) -> Any:
    return [wire.FROZENSET_TAG, *_in_order(value)]


def _in_order(members: set[Any] | frozenset[Any]) -> Any:
    kinds = {type(member) for member in members}
    return sorted(members) if len(kinds) == 1 and kinds <= _ORDERED else members


def _reduce_pattern(value: re.Pattern[Any]) -> Any:
    if re.compile(value.pattern).flags == value.flags:
        return value.pattern
    flags = "".join(letter for flag, letter in _INLINE_FLAGS if value.flags & flag)
    # Inline flags must come first and only once, so those already there are replaced.
    if isinstance(value.pattern, str):
        return f"(?{flags})" + re.sub(r"\A\(\?[aiLmsux]+\)", "", value.pattern)
    return f"(?{flags})".encode("ascii") + re.sub(rb"\A\(\?[aiLmsux]+\)", b"", value.pattern)


def _reduce_zone(value: ZoneInfo) -> Any:
    if value.key is None:
        raise not_encodable(value, "a zone without a name means nothing elsewhere")
    return value.key


def _reduce_as_json(value: Any) -> Any:
    try:
        return to_jsonable_python(value)
    except ValueError as error:
        raise not_encodable(value, "neither MessagePack nor Pydantic knows that type") from error


_BY_BASE: Final[dict[type, Reduce]] = {
    **WRITERS,
    str: str.__str__,
    bytes: bytes,
    bytearray: bytes,
    float: float.__float__,
    dict: dict,
    MappingProxyType: dict,
    list: list,
    deque: list,
    GeneratorType: list,
    tuple: _reduce_tuple,
    set: _reduce_set,
    frozenset: _reduce_frozenset,
    re.Pattern: _reduce_pattern,
    ZoneInfo: _reduce_zone,
}

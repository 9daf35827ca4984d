"""Bytes to values; the bytes may be anybody's.

Two readers of the same format. The quick one takes payloads whose containers are only lists and maps with
text or binary keys, entirely in C. Whatever it refuses, and whatever it could not bound, goes to the careful
one, which sees every container as it is built.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from typing import Any, Final

from msgpack import ExtraData, StackError, unpackb  # type: ignore[import-untyped]

from aegisipc.eventstore.codec.limits import DEFAULT_LIMITS, Limits
from aegisipc.eventstore.codec.scalars import read_scalar
from aegisipc.eventstore.codec.wire import FIXEXT1, OBJECT_HEADERS, TAG, TAG_HEADER, TAGS, Tag
from aegisipc.eventstore.errors import CodecError, LimitExceeded, MalformedPayload

_OVERLONG: Final = re.compile(r"(\d+) exceeds max_(?:array|map)_len")
_UNREAD: Final = object()
_UTC_DATETIME: Final = 3  # msgpack's number for "read timestamps as datetime"
_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})


def decode(data: bytes | bytearray | memoryview, *, limits: Limits = DEFAULT_LIMITS) -> Any:
    """The value that `encode` was given, with models, dataclasses and enum members as plain data.

    Raises `MalformedPayload` if the bytes are not of the format and `LimitExceeded` if they ask for more
    than *limits* allow; no bytes raise anything else. If a map repeats a key, the last one counts.
    """
    payload = data if type(data) is bytes else _as_bytes(data, limits.max_bytes)
    size = len(payload)
    if size > limits.max_bytes:
        raise _over("size in bytes", limits.max_bytes)
    # Text and binary may contain these bytes too, so the count is an upper bound; it is exact enough to
    # let nearly all payloads skip the checks, and costs a nanosecond per byte.
    headers = size
    if size > limits.max_depth or size > limits.max_objects:
        headers -= len(payload.translate(None, OBJECT_HEADERS))
    # The single byte is looked for first: that is several times faster than two.
    tagged = FIXEXT1 in payload and TAG_HEADER in payload
    value = _UNREAD if tagged or headers > limits.max_objects else _decode_quickly(payload, limits)
    keys_are_flat = value is not _UNREAD
    if not keys_are_flat:
        value = _decode_carefully(payload, limits)
    if headers > limits.max_depth:
        _refuse_deep(value, limits.max_depth, keys_are_flat=keys_are_flat)
    return value


def _as_bytes(data: bytes | bytearray | memoryview, max_bytes: int) -> bytes:
    view = memoryview(data)
    if view.nbytes > max_bytes:
        raise _over("size in bytes", max_bytes)
    return view.tobytes()


def _decode_quickly(payload: bytes, limits: Limits) -> Any:
    size = len(payload)
    most = min(limits.max_items, size)
    try:
        return unpackb(
            payload,
            ext_hook=_default_scalar if limits is DEFAULT_LIMITS else _Reader(limits).extension,
            timestamp=_UTC_DATETIME,
            max_array_len=most,
            max_map_len=most,
        )
    except Exception:  # noqa: BLE001 - the careful reader tells a fault from a key that is not text
        return _UNREAD


def _default_scalar(code: int, payload: bytes) -> Any:
    return read_scalar(code, payload, DEFAULT_LIMITS.max_number_bytes)


def _decode_carefully(payload: bytes, limits: Limits) -> Any:
    reader = _Reader(limits)
    most = min(limits.max_items, len(payload))
    try:
        value = unpackb(
            payload,
            ext_hook=reader.extension,
            list_hook=reader.array,
            object_pairs_hook=reader.mapping,
            strict_map_key=False,
            timestamp=_UTC_DATETIME,
            max_array_len=most,
            max_map_len=most,
        )
    except CodecError:
        raise
    except (StackError, RecursionError):
        raise _over("depth", limits.max_depth) from None
    except MemoryError:
        raise _over("memory, size in bytes", limits.max_bytes) from None
    except ExtraData:
        # Not chained: that error holds everything that was decoded.
        raise MalformedPayload("cannot decode: there are bytes after the value") from None
    except Exception as error:
        raise _fault(error, limits) from error
    if reader.loose_tags:
        raise MalformedPayload("cannot decode: a container tag outside the head of an array")
    return value


class _Reader:
    """Builds the containers of one payload, counting as it goes."""

    __slots__ = ("_limits", "_objects", "loose_tags")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._objects = 0
        self.loose_tags = 0

    def extension(self, code: int, payload: bytes) -> Any:
        """A scalar, or the tag of the array that is being read."""
        self._count()
        if code != TAG:
            return read_scalar(code, payload, self._limits.max_number_bytes)
        tag = TAGS.get(payload)
        if tag is None:
            raise MalformedPayload("cannot decode: unknown container tag")
        self.loose_tags += 1
        return tag

    def array(self, items: list[Any]) -> Any:
        """A list, or the container that its tag names."""
        self._count()
        if not items or type(items[0]) is not Tag:
            return items
        container = items[0].container
        del items[0]
        self.loose_tags -= 1
        if container is tuple:
            return tuple(items)
        self._refuse_collisions(items)
        members = container(items)
        if len(members) != len(items):
            raise MalformedPayload("cannot decode: a set repeats a member")
        return members

    def mapping(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        """A dict whose keys may be of any hashable type."""
        self._count()
        if len(pairs) > self._limits.max_same_hash:
            self._refuse_collisions([key for key, _ in pairs])
        return dict(pairs)

    def _count(self) -> None:
        self._objects += 1
        if self._objects > self._limits.max_objects:
            raise _over("number of containers and extension values", self._limits.max_objects)

    def _refuse_collisions(self, keys: Collection[Any]) -> None:
        most = self._limits.max_same_hash
        if len(keys) > most and max(Counter(map(hash, keys)).values()) > most:
            raise _over("number of keys that share a hash", most)


def _refuse_deep(value: Any, max_depth: int, *, keys_are_flat: bool) -> None:
    parts: Callable[[dict[Any, Any]], Iterable[Any]] = dict.values if keys_are_flat else _keys_and_values
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(max_depth):
        level = [
            item
            for container in level
            for item in (parts(container) if type(container) is dict else container)
            if type(item) in _CONTAINERS
        ]
        if not level:
            return
    raise _over("depth", max_depth)


def _keys_and_values(mapping: dict[Any, Any]) -> Iterable[Any]:
    return chain(mapping, mapping.values())


def _fault(error: Exception, limits: Limits) -> CodecError:
    overlong = _OVERLONG.search(str(error))
    if overlong and int(overlong[1]) > limits.max_items:
        return _over("number of items in one container", limits.max_items)
    return MalformedPayload(f"cannot decode: {str(error) or type(error).__name__}")


def _over(what: str, limit: int) -> LimitExceeded:
    return LimitExceeded(f"cannot decode: {what} over the limit of {limit}", limit=limit, limit_name=what)

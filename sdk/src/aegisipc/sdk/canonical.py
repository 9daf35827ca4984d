"""One encoding for equal values, whatever the order in which their dicts and sets were filled."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from aegisipc.eventstore.codec import encode


def canonical_bytes(plain: Any) -> bytes:
    """Return bytes that are equal for equal decoded values, in every process, and differ for others.

    It is for comparing, not for reading back: each container becomes an array that begins with its kind;
    keys of dicts and members of sets are in the order of their own bytes.
    """
    return encode(_ordered(plain))


def _ordered(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        pairs = sorted(((canonical_bytes(key), _ordered(item)) for key, item in value.items()), key=_FIRST)
        return [b"dict", *(part for pair in pairs for part in pair)]
    if kind is list or kind is tuple:
        return [kind.__name__.encode(), *map(_ordered, value)]
    if kind is set or kind is frozenset:
        return [kind.__name__.encode(), *sorted(map(canonical_bytes, value))]
    return value


_FIRST = itemgetter(0)

"""Extension codes and container tags: the vocabulary that both directions share."""

from __future__ import annotations

from typing import Any, Final

from msgpack import ExtType  # type: ignore[import-untyped]

BIG_INT: Final = 1
DECIMAL: Final = 2
DATETIME: Final = 3
DATE: Final = 4
TIME: Final = 5
TIMEDELTA: Final = 6
UUID_BYTES: Final = 7
COMPLEX: Final = 8
TAG: Final = 16

MIN_INT64: Final = -(1 << 63)
MAX_UINT64: Final = (1 << 64) - 1

# How every tag begins, as the packer writes it: fixext 1 and the code.
FIXEXT1: Final = 0xD4
TAG_HEADER: Final = bytes([FIXEXT1, TAG])

# The first bytes of everything that counts as an object: maps, arrays and extension values.
OBJECT_HEADERS: Final = bytes(
    [*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)],
)


_new_tuple: Final = tuple.__new__


def ext(code: int, payload: bytes) -> Any:
    """An extension value; skips the argument checks of ``ExtType``, which cost more than the packing."""
    return _new_tuple(ExtType, (code, payload))


class Tag:
    """What a tag decodes to until its array is complete; it never leaves the decoder."""

    __slots__ = ("container",)

    def __init__(self, container: type) -> None:
        self.container = container


TAGS: Final = {b"\x01": Tag(tuple), b"\x02": Tag(set), b"\x03": Tag(frozenset)}

TUPLE_TAG: Final = ext(TAG, b"\x01")
SET_TAG: Final = ext(TAG, b"\x02")
FROZENSET_TAG: Final = ext(TAG, b"\x03")

"""Values to bytes, by run-time type."""

from __future__ import annotations

from typing import Any, Final

from msgpack import Packer  # type: ignore[import-untyped]

from aegisipc.eventstore.codec.reduction import not_encodable, reduce_value
from aegisipc.eventstore.errors import CodecError

_BUFFER_BYTES: Final = 16 * 1024
# A packer's buffer never shrinks; one that wrote something large is not kept.
_MAX_KEPT_BYTES: Final = 1024 * 1024

# Packers that nobody uses now. Not one per thread: a custom serializer may itself call encode, and two
# values in one packer's buffer would mix. list.pop and list.append are atomic.
_idle: list[Any] = []


def encode(value: object) -> bytes:
    """MessagePack of any value that Pydantic can carry; `decode` is the inverse.

    Raises `NotEncodable` (field ``type_name``) for types that cannot travel, secrets, cyclic values,
    values nested deeper than MessagePack's writer allows, and text that is not Unicode.

    >>> decode(encode({"price": Decimal("1.50"), "tags": {"fx"}}))
    {'price': Decimal('1.50'), 'tags': {'fx'}}
    """
    try:
        packer = _idle.pop()
    except IndexError:
        packer = Packer(default=reduce_value, strict_types=True, buf_size=_BUFFER_BYTES)
    try:
        payload: bytes = packer.pack(value)
    except (CodecError, MemoryError):
        raise
    except Exception as error:
        raise not_encodable(value, str(error)) from error
    if len(payload) <= _MAX_KEPT_BYTES:
        _idle.append(packer)
    return payload
